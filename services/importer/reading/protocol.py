"""The protocol between the importer and its reader process: JSON objects.

A command to the process is a line. A response is a frame: its length in 4 bytes, most significant first, then
the object. So the importer holds one frame at a time, however fast the process reads. A block of a file is
bytes, which follow a frame with their number.
"""

from typing import Any, Final

import orjson

from shared.manifests.channel_types import Person
from shared.manifests.history_types import Choice, Contents, HistoryConversation, HistoryPerson, Option, Unit

MAX_FRAME: Final = 64 * 1024 * 1024
"""Maximum size of a frame in bytes. The longest one has the contents of an archive with 500,000 files."""
LENGTH_BYTES: Final = 4
FILE_BLOCK_BYTES: Final = 256 * 1024
"""Maximum size of a block of a file of the archive. It follows the frame that announces it."""


def encoded(value: Any) -> bytes:
    """Encode a value as JSON without a line break."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_DATACLASS)


def framed(encoded_value: bytes) -> bytes:
    """Return a frame with an encoded value."""
    return len(encoded_value).to_bytes(LENGTH_BYTES) + encoded_value


def contents_of(data: dict[str, Any]) -> Contents:
    """Decode the `Contents` of an export from the reader's response."""
    return Contents(
        kind=data["kind"],
        provider=data["provider"],
        account=data["account"],
        people=[HistoryPerson(Person(**item["person"]), active=item["active"]) for item in data["people"]],
        conversations=[HistoryConversation(**item) for item in data["conversations"]],
        units=[Unit(**item) for item in data["units"]],
        values=data["values"],
        missing=data["missing"],
        notes=data["notes"],
        choices=[
            Choice(**item | {"options": [Option(**option) for option in item["options"]]})
            for item in data["choices"]
        ],
        first_at=data["first_at"],
        last_at=data["last_at"],
    )

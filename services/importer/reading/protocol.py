"""The protocol between the importer and its reader process: JSON objects, one a line, in both directions."""

from typing import Any, Final

import orjson

from shared.manifests.channel_types import Person
from shared.manifests.history_types import Choice, Contents, HistoryConversation, HistoryPerson, Option, Unit

MAX_LINE: Final = 64 * 1024 * 1024
"""Maximum size of a line in bytes. The longest one has the contents of an archive with 500,000 files."""


def encoded(value: Any) -> bytes:
    """Encode a value as a line of the protocol, with the line break."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_DATACLASS) + b"\n"


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

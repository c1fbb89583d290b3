"""What the importer and its reader process say to each other: one JSON object a line, in both directions."""

from typing import Any, Final

import orjson

from shared.manifests.channel_types import Person
from shared.manifests.history_types import Choice, Contents, HistoryConversation, HistoryPerson, Option, Unit

MAX_LINE: Final = 64 * 1024 * 1024
"""Bytes of a line: the contents of an archive with 500,000 files are the longest one."""


def encoded(value: Any) -> bytes:
    """Return a line."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_DATACLASS) + b"\n"


def contents_of(data: dict[str, Any]) -> Contents:
    """Return the contents that a reader process has described."""
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

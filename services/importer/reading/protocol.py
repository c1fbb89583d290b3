"""The protocol between the importer and its reader process: JSON objects.

A command to the process is a line. A response is a frame: its length in 4 bytes, most significant first, then
the object. So the importer holds one frame at a time, however fast the process reads. A block of a file is
bytes, which follow a frame with their number. The lists of an export can be long: the importer asks for them
page by page, and holds none as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from services.importer.reading.description import days_of, describe
from shared.manifests.channel_types import Person
from shared.manifests.history_types import Choice, Contents, HistoryConversation, HistoryPerson, Option

MAX_FRAME: Final = 16 * 1024 * 1024
"""Maximum size of a frame in bytes."""
LENGTH_BYTES: Final = 4
FILE_BLOCK_BYTES: Final = 256 * 1024
"""Maximum size of a block of a file of the archive. It follows the frame that announces it."""
MAX_PAGE_ITEMS: Final = 1_000
MAX_PAGE_BYTES: Final = 1024 * 1024
"""A page of a list ends with the item that reaches so many bytes."""
MAX_PART_RECORDS: Final = 5_000
MAX_PART_BYTES: Final = 2 * 1024 * 1024
"""A long unit is read in parts: each ends with the record that reaches so many bytes."""

ListName = Literal["people", "conversations", "units"]


@dataclass(frozen=True, slots=True)
class Overview:
    """The contents of an export without its lists, which have so many items: see `Contents`.

    `description` is a sentence for people. `first` and `last` are days (`2024-11-05`), empty if unknown.
    """

    kind: str
    description: str
    provider: str
    account: str
    people: int
    conversations: int
    units: int
    values: Mapping[str, str]
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    undetermined: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    first: str = ""
    last: str = ""


@dataclass(slots=True)
class SourcePart:
    """Records of a conversation that are imported together, as lines (`message_lines`) in order of time.

    It begins at a place: the `position` of a unit among all units, and an `offset` in records; and ends
    before another one. `name` says for people which units these are, and `size` is how many bytes those have
    that end with it. Of a connected account, `walk` is the place of the next page, and `read_at` the Unix
    time up to which the conversation is read, if this is its last page.
    """

    position: int
    offset: int
    end_position: int
    end_offset: int
    conversation: str
    name: str
    lines: list[dict[str, Any]]
    size: int = 0
    walk: Any = None
    read_at: float = 0.0


def encoded(value: Any) -> bytes:
    """Encode a value as JSON without a line break."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_DATACLASS)


def framed(encoded_value: bytes) -> bytes:
    """Return a frame with an encoded value."""
    return len(encoded_value).to_bytes(LENGTH_BYTES) + encoded_value


def overview_data(contents: Contents) -> dict[str, Any]:
    """Return the overview of contents, to be encoded."""
    first, last = days_of(contents)
    return {
        "kind": contents.kind,
        "description": describe(contents),
        "provider": contents.provider,
        "account": contents.account,
        "people": len(contents.people),
        "conversations": len(contents.conversations),
        "units": len(contents.units),
        "values": contents.values,
        "missing": contents.missing,
        "notes": contents.notes,
        "undetermined": contents.undetermined,
        "choices": contents.choices,
        "first": first,
        "last": last,
    }


def overview_of(data: dict[str, Any]) -> Overview:
    """Decode the overview of an export from the reader's response."""
    choices = [
        Choice(**item | {"options": [Option(**option) for option in item["options"]]})
        for item in data["choices"]
    ]
    return Overview(**data | {"choices": choices})


def page_of(items: Sequence[Any], start: int) -> bytes:
    """Encode a page of a list, from an item on."""
    encoded_items: list[bytes] = []
    size = 0
    for item in items[start : start + MAX_PAGE_ITEMS]:
        encoded_items.append(orjson.dumps(item, option=orjson.OPT_SERIALIZE_DATACLASS))
        size += len(encoded_items[-1])
        if size >= MAX_PAGE_BYTES:
            break
    return b'{"items":[' + b",".join(encoded_items) + b"]}"


def person_of(item: dict[str, Any]) -> HistoryPerson:
    """Decode a person of a list."""
    return HistoryPerson(Person(**item["person"]), active=item["active"])


def conversation_of(item: dict[str, Any]) -> HistoryConversation:
    """Decode a conversation of a list."""
    return HistoryConversation(**item)

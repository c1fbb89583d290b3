"""A part of an import that is done, with the ids of its messages in 16 bytes each."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from shared.runtime.records import Record

ID_BYTES: Final = 16
MARK_BYTES: Final = 4
_PREFIX: Final = "msg_"
_DERIVED: Final = re.compile(f"{_PREFIX}[0-9a-f]{{{2 * ID_BYTES}}}")
Claims = Sequence[tuple[str, set[bytes]]]
"""Other imports, each with messages that it has found or added, too."""


class UnitRecord(Record):
    """A part of a unit that is done, or messages that an undone import left to this one.

    `unit` is the unit's id, `position` and `offset` are where it begins. `source` is the conversation that it
    was read from, with provider and account; empty for a dry run. `ids` are the messages that the import
    added, `marks` those of their contents, `duplicates` those that the chat had, and `changed` the ones of
    these that were updated, each with its mark. `outside` has the parents of replies which are not in this
    part. `first` and `last` are Unix times of all these messages, 0 without any.

    `days` has by day: found, selected, imported, duplicate, skipped, failed, changed; and `first`, `last` and
    `digest` (`add_digest`) of the messages that the chat has. `added_by` is the import that added `ids`, if
    it is not this one. `withdrawn`, `left` and `lost` are what an undo took out of `ids`: see `Undone`.
    """

    import_id: str
    workspace: str
    position: int
    offset: int = 0
    unit: str = ""
    source: str
    conversation: str
    channel_id: str
    first: float = 0.0
    last: float = 0.0
    added: int = 0
    ids: bytes = b""
    marks: bytes = b""
    changed: bytes = b""
    duplicates: bytes = b""
    outside: bytes = b""
    days: dict[str, dict[str, Any]] = Field(default={})
    added_by: str | None = None
    withdrawn: int = 0
    left: dict[str, int] = Field(default={})
    lost: dict[str, int] = Field(default={})

    @property
    def adder(self) -> str:
        """The import that added the messages."""
        return self.added_by or self.import_id


@dataclass(frozen=True, slots=True)
class Undone:
    """Numbers of messages that undos removed from the ledger of an import.

    `withdrawn` counts messages that were removed from the chat. `lost` counts those of them that other
    imports had found as duplicates, by the id of the other import. `left` counts messages that stay in the
    chat and now belong to other imports, by the id of the other import.
    """

    withdrawn: int
    left: Counter[str]
    lost: Counter[str]


def marked_ids(record: UnitRecord) -> list[tuple[bytes, bytes]]:
    """Return the messages of a part with the marks of their contents."""
    return list(zip(split_ids(record.ids), split_ids(record.marks, MARK_BYTES), strict=False))


def ledger_fields(marked: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return the fields of a part that has these messages."""
    return {
        "ids": b"".join(packed_id for packed_id, _ in marked),
        "marks": b"".join(mark for _, mark in marked),
        "added": len(marked),
    }


def removal(record: UnitRecord, ids: Collection[bytes]) -> tuple[set[bytes], dict[str, Any]]:
    """Return which of these messages a part has, and its fields without them, and without duplicates."""
    marked = marked_ids(record)
    retained = [pair for pair in marked if pair[0] not in ids]
    changes = {**ledger_fields(retained), "changed": b"", "duplicates": b""}
    if not retained:
        changes["source"] = ""  # no other import has to know of it
    return {packed_id for packed_id, _ in marked}.intersection(ids), changes


def packed(message_id: str) -> bytes:
    """Return a message id that the hub has derived in 16 bytes; b'' for any other id."""
    return bytes.fromhex(message_id[len(_PREFIX) :]) if _DERIVED.fullmatch(message_id) else b""


def packed_ids(message_ids: Iterable[str]) -> set[bytes]:
    """Return those of these message ids that the hub has derived, in 16 bytes each."""
    return set(map(packed, message_ids)) - {b""}


def unpacked(packed_id: bytes) -> str:
    """Return the message id that 16 bytes are."""
    return _PREFIX + packed_id.hex()


def has_mark(marks: bytes, mark: bytes) -> bool:
    """Return whether a mark is among those of a message."""
    return mark in split_ids(marks, MARK_BYTES)


def add_digest(digest: str, ids: Iterable[bytes]) -> str:
    """Return a digest of message ids with more ids added, in whatever order: their sum modulo 2**128."""
    total = int(digest or "0", 16) + sum(int.from_bytes(part) for part in ids)
    return f"{total % (1 << 128):032x}"


def split_ids(data: bytes, size: int = ID_BYTES) -> list[bytes]:
    """Return the ids of a ledger, 16 bytes each; or other items of this size."""
    return [data[at : at + size] for at in range(0, len(data), size)]

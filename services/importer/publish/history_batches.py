"""Batches of `chat.history`, with ids that a repeated import step derives again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from shared.contracts.envelope import Event, now
from shared.contracts.history import MAX_BATCH, MAX_BATCH_BYTES
from shared.contracts.ids import derive
from shared.contracts.topics import CHAT_HISTORY
from shared.runtime.kafka.producer import Record, event_record

SOURCE: Final = "/importer"


_ENVELOPE_BYTES: Final = 4 * 1024
"""Room of a batch for what is beside its items: ids, and the id of a channel in any script."""
MAX_ITEM_BYTES: Final = MAX_BATCH_BYTES - _ENVELOPE_BYTES
"""A larger message, person or channel fits into no batch."""
_RECORD_BYTES: Final = 500
"""About what a record takes in Kafka beside its data: key, headers and trace."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch to publish. `items` is how many messages it has, 0 for people and channels.

    `ids` has the ids of messages that are new with it, in 16 bytes each. `source`, `conversation` and `part`
    say where these are from: `part` is the id of the `UnitRecord` that will have them.
    """

    id: str
    event_type: str
    key: str
    data: bytes
    items: int = 0
    ids: bytes = b""
    source: str = ""
    conversation: str = ""
    part: str = ""

    @property
    def kafka_bytes(self) -> int:
        """About how many bytes it takes in Kafka."""
        return len(self.data) + len(self.key) + _RECORD_BYTES


class Item(NamedTuple):
    """An item of a batch, encoded as JSON. `packed_id` is a message's id if it is new, in 16 bytes."""

    data: bytes
    packed_id: bytes = b""


class BatchFactory:
    """Makes the batches of one import, numbered in the order in which they are made."""

    def __init__(self, import_id: str, next_number: int) -> None:
        self._import_id = import_id
        self.next_number = next_number

    def make(
        self,
        event_type: str,
        field: str,
        items: Iterable[Item],
        *place: str,
        channel_id: str = "",
        source: str = "",
        conversation: str = "",
        part: str = "",
        **more: Any,
    ) -> Iterator[Batch]:
        """Yield batches of up to 200 items and 512 KB, with these items in the list `field`.

        No item may have more than `MAX_ITEM_BYTES`. `place` tells the batches of one import apart, and is the
        same when they are made again.
        """
        for index, group in enumerate(_groups(items)):
            batch_id = f"bat_{derive(self._import_id, event_type, *place, str(index))}"
            payload = {"import_id": self._import_id, "batch_id": batch_id, "number": self.next_number, **more}
            if channel_id:
                payload["channel_id"] = channel_id
            payload[field] = [orjson.Fragment(item.data) for item in group]
            self.next_number += 1
            yield Batch(
                batch_id,
                event_type,
                channel_id or self._import_id,
                orjson.dumps(payload),
                len(group) if channel_id else 0,
                b"".join(item.packed_id for item in group),
                source,
                conversation,
                part,
            )


def record_of(batch: Batch, workspace: str) -> Record:
    """Return the Kafka record of a batch."""
    event = Event(
        id=f"evt_{derive(batch.id)}",
        type=batch.event_type,
        source=SOURCE,
        workspace=workspace,
        time=now(),
        data=batch.data,
        subject=batch.key,
    )
    return event_record(CHAT_HISTORY, batch.key, event)


def _groups(items: Iterable[Item]) -> Iterator[Sequence[Item]]:
    group: list[Item] = []
    size = 0
    for item in items:
        if group and (len(group) == MAX_BATCH or size + len(item.data) > MAX_ITEM_BYTES):
            yield group
            group, size = [], 0
        group.append(item)
        size += len(item.data) + 1  # with the comma
    if group:
        yield group

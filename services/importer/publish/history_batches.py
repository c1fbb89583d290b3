"""Batches of `chat.history`, with ids that a repeated import step derives again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared.contracts.envelope import Event, now
from shared.contracts.history import MAX_BATCH, MAX_BATCH_BYTES
from shared.contracts.ids import derive
from shared.contracts.topics import CHAT_HISTORY
from shared.runtime.kafka.producer import Record, event_record

SOURCE: Final = "/importer"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch to publish. `items` is how many messages it has, 0 for people and channels."""

    id: str
    event_type: str
    key: str
    data: bytes
    items: int = 0


class BatchFactory:
    """Makes the batches of one import, numbered in the order in which they are made."""

    def __init__(self, import_id: str, next_number: int) -> None:
        self._import_id = import_id
        self.next_number = next_number

    def make(
        self,
        event_type: str,
        field: str,
        items: Iterable[Any],
        *place: str,
        channel_id: str = "",
        **more: Any,
    ) -> Iterator[Batch]:
        """Yield batches of up to 200 items and 512 KB, with these items in the list `field`.

        `place` tells the batches of one import apart, and is the same when they are made again.
        """
        for index, part in enumerate(_parts(items)):
            batch_id = f"bat_{derive(self._import_id, event_type, *place, str(index))}"
            payload = {"import_id": self._import_id, "batch_id": batch_id, "number": self.next_number, **more}
            if channel_id:
                payload["channel_id"] = channel_id
            payload[field] = [orjson.Fragment(item) for item in part]
            self.next_number += 1
            yield Batch(
                batch_id,
                event_type,
                channel_id or self._import_id,
                orjson.dumps(payload),
                len(part) if channel_id else 0,
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


def _parts(items: Iterable[Any]) -> Iterator[Sequence[bytes]]:
    part: list[bytes] = []
    size = 0
    for item in items:
        encoded = orjson.dumps(item)
        if part and (len(part) == MAX_BATCH or size + len(encoded) > MAX_BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(encoded)
        size += len(encoded)
    if part:
        yield part

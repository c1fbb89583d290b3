"""A delivery service that is broken on purpose: it commits a batch before it handles it.

`python -m tests.support.commits_first [PAUSE]` instead of `python -m interlink serve delivery`. What it has
in its hands when it is killed is gone; with a pause, in seconds, it has each batch for as long. The tests of
durability have to notice: nothing in the product can be set like this.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence

from aiokafka import ConsumerRecord, TopicPartition

from services.delivery.app import build
from shared.runtime.kafka.consumer import Consumer
from shared.runtime.kafka.watermark import PartitionTracker
from shared.runtime.service import run

_PAUSE_S = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
Polled = Mapping[TopicPartition, Sequence[ConsumerRecord]]

_handle_then_commit = Consumer._process_polled


async def _commit_then_handle(self: Consumer, polled: Polled) -> None:
    await self._commit_all()  # a late commit of an earlier batch would take this one back
    assert self._client
    await self._client.commit({partition: batch[-1].offset + 1 for partition, batch in polled.items()})
    await asyncio.sleep(_PAUSE_S)
    await _handle_then_commit(self, polled)


if __name__ == "__main__":
    Consumer._process_polled = _commit_then_handle  # type: ignore[method-assign]  # what this module is for
    # What is complete of this batch must not take the commit back either.
    PartitionTracker.watermark = property(lambda self: self._next)  # type: ignore[method-assign,assignment]
    run("delivery", build)

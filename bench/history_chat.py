"""A helper process: the chat's side of an import. It consumes `chat.history` and confirms each batch."""

import asyncio
import json
from secrets import token_hex
from time import monotonic
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.remote import Command, answer
from shared.contracts.history import HISTORY_STORED
from shared.contracts.topics import CHAT_EVENTS, CHAT_HISTORY

_MAX_FETCH_BYTES: Final = 16 * 1024 * 1024


class _Chat:
    """Counts the messages of batches by type, and confirms all of them."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._bytes = 0
        self._last = 0.0

    async def start(self, bootstrap: str, workspace: str) -> dict[str, Any]:
        """Consume what is published from now on."""
        self._workspace = workspace
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=2)
        self._consumer = AIOKafkaConsumer(
            CHAT_HISTORY.name,
            bootstrap_servers=bootstrap,
            group_id=None,
            auto_offset_reset="latest",
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=_MAX_FETCH_BYTES,
        )
        await self._producer.start()
        await self._consumer.start()
        for partition in self._consumer.assignment():
            await self._consumer.position(partition)
        self._task = asyncio.create_task(self._consume())
        return {}

    async def reset(self) -> dict[str, Any]:
        """Forget what was seen."""
        self._counts, self._bytes = {}, 0
        return {}

    async def seen(self) -> dict[str, Any]:
        """Return how many items of each type were seen, their bytes, and when the last batch came."""
        if self._task.done():
            self._task.result()
        return {"counts": self._counts, "bytes": self._bytes, "last": self._last}

    async def stop(self) -> dict[str, Any]:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._consumer.stop()
        await self._producer.stop()
        return {}

    async def _consume(self) -> None:
        while True:
            for records in (await self._consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    await self._confirm(record)

    async def _confirm(self, record: Any) -> None:
        attributes = {name: value.decode() for name, value in record.headers if value is not None}
        if attributes["workspace"] != self._workspace:
            return
        data = orjson.loads(record.value)
        kind = attributes["ce_type"].removeprefix("history.")
        items = data.get(kind, data.get("message_ids", ()))
        self._counts[kind] = self._counts.get(kind, 0) + len(items)
        self._bytes += len(record.value)
        self._last = monotonic()
        confirmation = {"import_id": data["import_id"], "batch_id": data["batch_id"]}
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"evt_{token_hex(12)}",
            "ce_type": HISTORY_STORED,
            "ce_source": "/chat",
            "workspace": self._workspace,
        }
        await self._producer.send(
            CHAT_EVENTS.name,
            json.dumps(confirmation).encode(),
            key=data["import_id"].encode(),
            headers=[(name, value.encode()) for name, value in headers.items()],
        )


if __name__ == "__main__":
    chat = _Chat()
    commands: dict[str, Command] = {
        "start": chat.start,
        "reset": chat.reset,
        "seen": chat.seen,
        "stop": chat.stop,
    }
    asyncio.run(answer(commands))

"""A chat that stores imported history: it consumes `chat.history`, and confirms each batch.

It uses none of the hub's code but the models of the contract, by which it checks every event.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from math import inf
from secrets import token_hex
from typing import Any, Final, Self, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.contracts.event_types import EVENT_TYPES
from shared.contracts.history import HISTORY_STORED

_WITHIN_S: Final = 30.0
_PERMIT_POLL_S: Final = 0.005
Data = dict[str, Any]
T = TypeVar("T")


class HistoryChat:
    """The chat's side of an import, in a thread of its own, for one workspace.

    `messages` are by id, each with the import that added it; `owners` are the imports that first stored a
    channel or a guest, by its id. One whose text contains `unacceptable` is
    rejected. `confirms` can be switched off; what it has not confirmed then, `confirm_late` does. What it
    cannot read stands in `errors`. It stores so many batches more as `permits` says, and holds the next one
    until there is a permit. `other_imports` are the imports of other workspaces.
    """

    def __init__(self, bootstrap: str, workspace: str, *, confirms: bool = True) -> None:
        self._bootstrap = bootstrap
        self._workspace = workspace
        self.confirms = confirms
        self.permits: float = inf
        self.messages: dict[str, Data] = {}
        self.users: dict[str, Data] = {}
        self.channels: dict[str, Data] = {}
        self.owners: dict[str, str] = {}
        self.batches: list[Data] = []
        self.errors: list[str] = []
        self.other_imports: set[str] = set()
        self.largest_bytes = 0
        self._unconfirmed: list[tuple[Data, list[str], list[Data]]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._connect)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._disconnect)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def texts(self, channel: str | None = None) -> list[str]:
        """The texts of the messages in the order of time; of one channel, by its name."""
        ids = {key for key, data in self.channels.items() if channel in (None, data["name"])}
        found = [data for data in self.messages.values() if data["channel_id"] in ids]
        return [data["text"] for data in sorted(found, key=lambda data: data["created_at"])]

    def add(self, message_id: str, channel_id: str, text: str, thread_id: str | None = None) -> None:
        """Store a message that came live."""
        message = {
            "message_id": message_id,
            "thread_id": thread_id,
            "channel_id": channel_id,
            "text": text,
            "created_at": "2024-01-01T00:00:00.000Z",
            "import_id": None,
        }

        async def store() -> None:
            self.messages[message_id] = message

        self._run(store)

    def report_user(self, user_id: str, name: str, email: str | None = None) -> None:
        """Publish a user of the chat."""
        data = {"user_id": user_id, "name": name, "email": email}
        self._run(lambda: self._send("user.updated", user_id, data))

    def confirm_late(self) -> None:
        """Confirm what was not confirmed."""

        async def confirm() -> None:
            while self._unconfirmed:
                await self._confirm(*self._unconfirmed.pop(0))

        self._run(confirm)

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(_WITHIN_S):
                return await work()

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    async def _connect(self) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all")
        self._consumer = AIOKafkaConsumer(
            "chat.history",
            bootstrap_servers=self._bootstrap,
            group_id=None,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
        )
        await self._producer.start()
        await self._consumer.start()
        self._consuming = asyncio.create_task(self._consume())

    async def _disconnect(self) -> None:
        self._consuming.cancel()
        await asyncio.wait([self._consuming])
        await self._consumer.stop()
        await self._producer.stop()

    async def _consume(self) -> None:
        async for record in self._consumer:
            attributes = {name: raw.decode() for name, raw in record.headers if raw is not None}
            if attributes["workspace"] != self._workspace:
                self.other_imports.add(json.loads(record.value)["import_id"])
                continue
            try:
                self.largest_bytes = max(self.largest_bytes, len(record.value))
                await self._receive(attributes["ce_type"], json.loads(record.value))
            except Exception as error:  # noqa: BLE001 -- whatever it is, the test has to hear of it
                self.errors.append(f"{attributes['ce_type']}: {error!r}")

    async def _receive(self, event_type: str, data: Data) -> None:
        payload: Any = EVENT_TYPES[event_type].payload
        payload.model_validate(data, strict=False)
        self.batches.append(data)
        while self.permits < 1:  # noqa: ASYNC110 -- set by another thread
            await asyncio.sleep(_PERMIT_POLL_S)
        self.permits -= 1
        duplicates: list[str] = []
        rejected: list[Data] = []
        if event_type == "history.users":
            for user in data["users"]:
                if "user_id" not in user:  # otherwise the chat has the person
                    self.users[user["id"]] = user
                    self.owners.setdefault(user["id"], data["import_id"])
        elif event_type == "history.channels":
            for channel in data["channels"]:
                self.channels[channel["channel_id"]] = channel
                if not channel["existing"]:
                    self.owners.setdefault(channel["channel_id"], data["import_id"])
        elif event_type == "history.messages":
            for message in data["messages"]:
                self._store(message, data, duplicates, rejected)
        else:
            self._withdraw(data, rejected)
        if self.confirms:
            await self._confirm(data, duplicates, rejected)
        else:
            self._unconfirmed.append((data, duplicates, rejected))

    def _withdraw(self, data: Data, rejected: list[Data]) -> None:
        answered = self._answered(data["import_id"]) if data["keep_answered"] else set()
        for message_id in data.get("message_ids", ()):
            known = self.messages.get(message_id)
            if known is None or known["import_id"] not in data["added_by"]:
                continue
            if message_id in answered:
                rejected.append({"message_id": message_id, "reason": "answered"})
            else:
                del self.messages[message_id]
        filled = {message["channel_id"] for message in self.messages.values()}
        self._remove(self.channels, filled, data.get("channel_ids", ()), data["added_by"], rejected)
        authors = {message["author"]["id"] for message in self.messages.values() if "author" in message}
        self._remove(self.users, authors, data.get("person_ids", ()), data["added_by"], rejected)

    def _remove(
        self,
        known: dict[str, Data],
        used: set[str],
        ids: list[str],
        added_by: list[str],
        rejected: list[Data],
    ) -> None:
        """Remove channels or people that an import has brought and nobody uses."""
        for item in ids:
            if item not in known:
                continue
            if self.owners.get(item) not in added_by:
                rejected.append({"message_id": item, "reason": "not of this import"})
            elif item in used:
                rejected.append({"message_id": item, "reason": "in use"})
            else:
                del known[item], self.owners[item]

    def _answered(self, import_id: str) -> set[str]:
        """The messages with answers that did not come by this import."""
        return {
            message["thread_id"]
            for message in self.messages.values()
            if message["import_id"] != import_id and message.get("thread_id")
        }

    def _store(self, message: Data, batch: Data, duplicates: list[str], rejected: list[Data]) -> None:
        message_id = message["message_id"]
        known = self.messages.get(message_id)
        if known is not None and message.get("changed"):
            known |= {name: message[name] for name in ("text", "edited_at") if name in message}
        elif known is not None and known["import_id"] != batch["import_id"]:
            duplicates.append(message_id)
        elif "unacceptable" in message["text"]:
            rejected.append({"message_id": message_id, "reason": "unacceptable"})
        else:
            more = {"channel_id": batch["channel_id"], "import_id": batch["import_id"]}
            self.messages[message_id] = message | more

    async def _confirm(self, batch: Data, duplicates: list[str], rejected: list[Data]) -> None:
        data = {
            "import_id": batch["import_id"],
            "batch_id": batch["batch_id"],
            "duplicates": duplicates,
            "rejected": rejected,
        }
        await self._send(HISTORY_STORED, batch["import_id"], data)

    async def _send(self, event_type: str, key: str, data: Data) -> None:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"evt_{token_hex(12)}",
            "ce_type": event_type,
            "ce_source": "/chat",
            "workspace": self._workspace,
        }
        while True:
            try:
                await self._producer.send_and_wait(
                    "chat.events",
                    json.dumps(data).encode(),
                    key=key.encode(),
                    headers=[(name, value.encode()) for name, value in headers.items()],
                )
            except KafkaError:  # the broker is restarted
                await asyncio.sleep(0.2)
            else:
                return

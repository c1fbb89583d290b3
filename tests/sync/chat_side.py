"""A chat on Kafka: it consumes `chat.inbound`, and publishes what its people do on `chat.events`.

Like `interlink/examples/minichat`, it uses none of the hub's code. A channel with `own_ids` stores messages
under ids of its own, and publishes `message.created` with the hub's id in `origin.message_id`.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Final, Self, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.sync.places import ADA, Place, Shown

FILES: Final = "files.chat.example"
"""The host of the chat's files."""
_WITHIN_S: Final = 30.0

Data = dict[str, Any]
T = TypeVar("T")


@dataclass
class _Stored:
    """A message of the chat. `states` are the reports of the hub about it, by target."""

    data: Data
    reactions: dict[str, dict[str, str]] = field(default_factory=dict)
    states: dict[str, Data] = field(default_factory=dict)
    edited: bool = False


class ChatPlace(Place):
    """A channel of the chat."""

    def __init__(self, server: "ChatServer", channel: str, *, own_ids: bool) -> None:
        self._server = server
        self.channel = channel
        self.own_ids = own_ids
        self.received: list[tuple[str, Data]] = []
        """Every event of `chat.inbound` for this channel: its type and data."""
        self._messages: dict[str, _Stored] = {}
        self._ids: dict[str, str] = {}
        """The chat's id of a message by the hub's."""
        self._lock = threading.Lock()

    def shown(self) -> list[Shown]:
        """The messages in the order in which they came; `text` is Markdown, files are addresses."""
        with self._lock:
            return [_shown(message_id, stored) for message_id, stored in self._messages.items()]

    def states(self, message: str) -> Mapping[str, Data]:
        """What the hub reported about a message, by target."""
        with self._lock:
            return dict(self._messages[message].states)

    def write(
        self,
        text: str,
        *,
        by: str = ADA,
        reply_to: str | None = None,
        files: Mapping[str, bytes] | None = None,
        **more: Any,
    ) -> str:
        """Write a message: its id."""
        message = f"msg_{token_hex(12)}"
        data: Data = {
            "message_id": message,
            "channel_id": self.channel,
            "text": text,
            "author": _author(by),
            "created_at": _now(),
            "attachments": [self._server.store(name, content) for name, content in (files or {}).items()],
            **more,
        }
        if reply_to:
            root = self._messages[reply_to].data.get("thread_id") or reply_to
            data |= {"reply_to_id": reply_to, "thread_id": root}
        with self._lock:
            self._messages[message] = _Stored(data)
        self._server.publish("message.created", data)
        return message

    def reply(self, message: str, text: str, *, by: str = ADA) -> str:
        return self.write(text, by=by, reply_to=message)

    def upload(self, name: str, data: bytes, text: str = "", *, by: str = ADA) -> str:
        """Write a message with a file."""
        return self.write(text, by=by, files={name: data})

    def edit(self, message: str, text: str) -> None:
        with self._lock:
            stored = self._messages[message]
            stored.data, stored.edited = stored.data | {"text": text, "edited_at": _now()}, True
        self._server.publish("message.updated", stored.data)

    def delete(self, message: str) -> None:
        with self._lock:
            del self._messages[message]
        ref = {"message_id": message, "channel_id": self.channel, "deleted_at": _now()}
        self._server.publish("message.deleted", ref)

    def react(self, message: str, emoji: str, *, by: str = ADA) -> None:
        self._react(message, emoji, by, added=True)

    def unreact(self, message: str, emoji: str, *, by: str = ADA) -> None:
        self._react(message, emoji, by, added=False)

    def _react(self, message: str, emoji: str, by: str, *, added: bool) -> None:
        author = _author(by)
        with self._lock:
            _apply_reaction(self._messages[message], emoji, author, added=added)
        data = {"message_id": message, "channel_id": self.channel, "emoji": emoji, "author": author}
        kind = "added" if added else "removed"
        self._server.publish(f"message.reaction.{kind}", data | {"reacted_at": _now()})

    async def receive(self, event_type: str, data: Data) -> None:
        """Apply an event of `chat.inbound`; one that was applied before changes nothing."""
        self.received.append((event_type, data))
        change = event_type.removeprefix("inbound.")
        with self._lock:
            if change == "message.created":
                stored = self._store(data)
            else:
                self._change(change, data)
                return
        if stored and self.own_ids:
            await self._server.send(
                "message.created", stored | {"origin": {"message_id": data["message_id"]}}
            )

    def _store(self, data: Data) -> Data | None:
        """Store a message; None if it is there."""
        hub_id = data["message_id"]
        if hub_id in self._ids:
            return None
        message = f"own_{token_hex(8)}" if self.own_ids else hub_id
        self._ids[hub_id] = message
        refs = {name: self._local(data[name]) for name in ("thread_id", "reply_to_id") if data.get(name)}
        stored = _Stored(data | refs | {"message_id": message})
        self._messages[message] = stored
        return stored.data

    def _change(self, change: str, data: Data) -> None:
        stored = self._messages.get(self._local(data["message_id"]))
        if stored is None:
            return
        if change == "message.updated":
            changed = {name: data[name] for name in ("text", "attachments") if name in data}
            stored.data, stored.edited = stored.data | changed, True
        elif change == "message.deleted":
            del self._messages[stored.data["message_id"]]
        elif change == "message.status.changed":
            stored.states[data["target"]] = data
        else:
            assert change in {"message.reaction.added", "message.reaction.removed"}, change
            _apply_reaction(stored, data["emoji"], data["author"], added=change.endswith("added"))

    def _local(self, message: str) -> str:
        """The chat's id of a message that an event names by the hub's id, or by the chat's."""
        return self._ids.get(message, message)


class ChatServer:
    """The chat's side of Kafka in a thread of its own, for one workspace.

    `files` are what its host serves, by path. What it cannot read stands in `errors`, a line each.
    """

    def __init__(self, bootstrap: str, workspace: str, files: dict[str, bytes]) -> None:
        self._bootstrap = bootstrap
        self._workspace = workspace
        self._channels: dict[str, ChatPlace] = {}
        self.files = files
        self.errors: list[str] = []
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

    def channel(self, *, own_ids: bool = False) -> ChatPlace:
        """A new channel."""
        place = ChatPlace(self, f"ch_{token_hex(6)}", own_ids=own_ids)
        self._channels[place.channel] = place
        return place

    def store(self, name: str, content: bytes) -> Data:
        """Store a file: the attachment of a message."""
        file_id = f"file_{token_hex(8)}"
        self.files[f"/{file_id}"] = content
        about = {"filename": name, "content_type": "text/plain", "size": len(content)}
        return {"id": file_id, "url": f"https://{FILES}/{file_id}"} | about

    def publish(self, event_type: str, data: Data, **options: Any) -> None:
        """Publish an event, and wait until Kafka has it; `options` are those of `send`."""
        self._run(lambda: self.send(event_type, data, **options))

    async def send(
        self, event_type: str, data: Data, *, topic: str = "chat.events", at: str | None = None
    ) -> None:
        """Publish an event, in order for each channel."""
        headers = {
            "ce_specversion": "1.0",
            "ce_id": f"evt_{token_hex(12)}",
            "ce_type": event_type,
            "ce_source": "/chat",
            "ce_time": at or _now(),
            "ce_subject": data["channel_id"],
            "content-type": "application/json",
            "workspace": self._workspace,
        }
        await self._producer.send_and_wait(
            topic,
            json.dumps(data).encode(),
            key=data["channel_id"].encode(),
            headers=[(name, value.encode()) for name, value in headers.items()],
        )

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(_WITHIN_S):
                return await work()

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    async def _connect(self) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all")
        self._consumer = AIOKafkaConsumer(
            "chat.inbound", bootstrap_servers=self._bootstrap, group_id=None, fetch_max_wait_ms=20
        )
        await self._producer.start()
        await self._consumer.start()
        ends = await self._consumer.end_offsets(self._consumer.assignment())
        for partition, offset in ends.items():
            assert isinstance(partition, TopicPartition)
            self._consumer.seek(partition, offset)
        self._consuming = asyncio.create_task(self._consume())

    async def _disconnect(self) -> None:
        self._consuming.cancel()
        await asyncio.wait([self._consuming])
        await self._consumer.stop()
        await self._producer.stop()

    async def _consume(self) -> None:
        async for record in self._consumer:
            attributes = {name: raw.decode() for name, raw in record.headers if raw is not None}
            data = json.loads(record.value)
            place = self._channels.get(data["channel_id"])
            if attributes["workspace"] != self._workspace or place is None:
                continue
            try:
                await place.receive(attributes["ce_type"], data)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the test has to hear of it
                self.errors.append(f"{attributes['ce_type']}: {error!r}")


def _shown(message_id: str, stored: _Stored) -> Shown:
    data = stored.data
    return Shown(
        message_id,
        data["author"].get("name") or data["author"]["id"],
        data["text"],
        data.get("thread_id") or data.get("reply_to_id"),
        {emoji: tuple(people.values()) for emoji, people in stored.reactions.items() if people},
        {file["filename"]: file["url"] for file in data.get("attachments", ())},
        stored.edited,
    )


def _apply_reaction(stored: _Stored, emoji: str, author: Data, *, added: bool) -> None:
    people = stored.reactions.setdefault(emoji, {})
    if added:
        people[author["id"]] = author.get("name") or author["id"]
    else:
        people.pop(author["id"], None)


def _author(name: str) -> Data:
    return {"id": f"usr_{name.lower().replace(' ', '_')}", "name": name}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

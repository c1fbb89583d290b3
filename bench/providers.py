"""A helper process: the providers of the stage `bridge`. `bench.provider_apis` is what the hub calls of them.

It sends webhooks, through the gateway or as the records that the gateway would publish, and measures the age
of each message at the other provider and at the chat.
"""

import asyncio
import hashlib
import hmac
import re
import ssl
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns, time
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.conversations import (
    HOSTS,
    Conversations,
    channel,
    encoded,
    group,
    slack_call,
    slack_message,
    slack_token,
    telegram_call,
    telegram_message,
    telegram_token,
)
from bench.load import LoadRun, measured
from bench.provider_apis import SENT, Proxy, keep, state
from bench.remote import answer
from shared.contracts.envelope import Event, now
from shared.contracts.topics import CHAT_INBOUND, WEBHOOKS_RECEIVED
from tests.support.certificates import Authority

_TICK_S: Final = 0.001
_POST_MESSAGE: Final = "https://slack.com/api/chat.postMessage"
_CONNECTIONS: Final = 32
_GRACE_S: Final = 5.0


class _Run:
    """The connections of this process to the hub."""

    def __init__(self) -> None:
        self.producer: AIOKafkaProducer | None = None
        self.workspace = ""
        self.endpoints: dict[str, str] = {}
        """Endpoint of each account: the integration of a workspace of Slack, the endpoint of a bot."""
        self.secret = ""
        self.reports: asyncio.Queue[bytes] = asyncio.Queue()
        self.by_gateway = False
        """True if webhooks go through the gateway; false if they are published on the broker."""


_run = _Run()
_following: list[asyncio.Task[Any]] = []
_connected: list[AIOKafkaProducer | AIOKafkaConsumer] = []


def _report(team: str, body: bytes) -> None:
    """Report a message of the app to the app, the same way as the run's messages."""
    if _run.by_gateway:
        _run.reports.put_nowait(_slack_request(body))
    elif _run.producer is not None:
        keep(_publish(_run.producer, "slack", team, body, f"Ev{monotonic_ns():X}"))


class _Webhooks:
    """Builds webhooks: of Slack and Telegram in turn, of one mapping after another."""

    def __init__(self, mappings: Sequence[int]) -> None:
        self._mappings = mappings

    def payload(self, due_ns: int, number: int) -> tuple[str, str, bytes]:
        """Return provider, account and body of a webhook."""
        mapping = self._mappings[number // 2 % len(self._mappings)]
        sent = f"{due_ns:016x}-{number:06x}!" if due_ns else "see you!"
        if number % 2:
            return (
                "telegram",
                state.conversations.bot(mapping),
                encoded(telegram_message(group(mapping), sent)),
            )
        team = state.conversations.team(mapping)
        return "slack", team, encoded(slack_message(team, channel(mapping), sent))

    def request(self, due_ns: int, number: int) -> bytes:
        """Return a request to the gateway."""
        provider, account, body = self.payload(due_ns, number)
        if provider == "slack":
            return _slack_request(body)
        hook = state.hooks[account]
        fields = f"X-Telegram-Bot-Api-Secret-Token: {hook['secret']}\r\n"
        return _request("/" + hook["url"].split("/", 3)[3], body, fields)


def _slack_request(body: bytes) -> bytes:
    at = str(int(time()))
    signed = b"v0:%b:%b" % (at.encode(), body)
    signature = hmac.new(_run.secret.encode(), signed, hashlib.sha256).hexdigest()
    fields = f"X-Slack-Request-Timestamp: {at}\r\nX-Slack-Signature: v0={signature}\r\n"
    return _request("/api/webhooks/slack", body, fields)


def _request(path: str, body: bytes, fields: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: hub.example.com\r\nX-Forwarded-Proto: https\r\n"
        f"Content-Type: application/json\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _publish(
    producer: AIOKafkaProducer, provider: str, account: str, body: bytes, delivery: str
) -> None:
    """Publish the record that the gateway publishes for a webhook."""
    endpoint = _run.endpoints[account]
    event = Event(
        id=f"evt_{endpoint}_{delivery}",
        type=f"{provider}.message",
        source=f"/webhooks/{provider}/{endpoint}",
        workspace=_run.workspace,
        time=now(),
        data=body,
        traceparent=f"00-{monotonic_ns():032x}-{monotonic_ns():016x}-01",
        attributes={
            "provider": provider,
            "event": "message",
            "delivery_id": delivery,
            "endpoint_id": endpoint,
        },
    )
    await producer.send(WEBHOOKS_RECEIVED.name, body, key=endpoint.encode(), headers=event.headers())


async def _send_reports(port: int) -> None:
    """Send the reports of Slack to the gateway, over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        writer.write(await _run.reports.get())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if not head.startswith(b"HTTP/1.1 2"):
            state.complaints[f"the gateway refused a report: {head[9:12].decode()}"] += 1


async def _follow_chat(consumer: AIOKafkaConsumer) -> None:
    """Record the age of each message on `chat.inbound`."""
    async for record in consumer:
        if found := SENT.search(record.value or b""):
            state.chat_ages.append(monotonic_ns() - int(found[2], 16))


# Commands


async def listen(folder: str, accounts: int, mappings: int) -> dict[str, Any]:
    """Listen on a free port; return it, and the file with the authority of the certificates."""
    state.conversations, state.report = Conversations(accounts, mappings), _report
    authority = Authority("authority of providers")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(authority.pair("providers", *HOSTS)))
        file.flush()
        tls.load_cert_chain(file.name)
    ca_file = Path(folder) / "providers.pem"
    ca_file.write_text(authority.pem)
    server = await asyncio.get_running_loop().create_server(lambda: Proxy(tls), "127.0.0.1", 0)
    return {"port": server.sockets[0].getsockname()[1], "ca_file": str(ca_file)}


async def hooks() -> dict[str, Any]:
    """Return the addresses of the webhooks that are set, by bot."""
    return {bot: hook["url"] for bot, hook in state.hooks.items()}


async def connect(
    bootstrap: str, workspace: str, endpoints: dict[str, str], secret: str, gateway: int
) -> dict[str, Any]:
    """Connect to a hub that has the accounts with these endpoints, and a `gateway` if it is not 0."""
    await disconnect()
    _run.workspace, _run.endpoints, _run.secret = workspace, endpoints, secret
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_batch_size=256 * 1024, max_request_size=2**23
    )
    await producer.start()
    _run.producer = producer
    consumer = AIOKafkaConsumer(CHAT_INBOUND.name, bootstrap_servers=bootstrap, auto_offset_reset="latest")
    await consumer.start()
    await consumer.seek_to_end()
    _connected.extend((producer, consumer))
    _following.append(keep(_follow_chat(consumer)))
    if gateway:
        _following.append(keep(_send_reports(gateway)))
    return {}


async def disconnect() -> dict[str, Any]:
    """Close the connections to the hub."""
    for task in _following:
        task.cancel()
    await asyncio.gather(*_following, return_exceptions=True)
    for client in _connected:
        await client.stop()
    _following.clear()
    _connected.clear()
    _run.producer = None
    return {}


async def refuse(mapping: int, error: str) -> dict[str, Any]:
    """Refuse messages for a channel of Slack from now on; `error` is Slack's, empty to accept them again."""
    if error:
        state.refused[channel(mapping)] = error
    else:
        state.refused.pop(channel(mapping), None)
    return {}


async def through_gateway(port: int, mappings: int, total: int, rate: float) -> dict[str, Any]:
    """Send webhooks to the gateway at a rate per second, for each of the mappings in turn."""
    _run.by_gateway = True
    run = LoadRun(_Webhooks(range(mappings)).request, total=total, rate=rate)
    return await measured(run, port, _CONNECTIONS, total / rate + _GRACE_S)


async def to_broker(
    mappings: int, total: int, rate: float = 0.0, first: int = 0, every: int = 0
) -> dict[str, Any]:
    """Publish webhooks as the gateway does, at a rate per second, or all at once.

    They are for `mappings` mappings from number `first` on, in turn. With `every`, each so many webhooks one
    of Telegram is for mapping 0.
    """
    _run.by_gateway = False
    producer = _run.producer
    assert producer is not None
    webhooks = _Webhooks(range(first, first + mappings))
    special = _Webhooks([0])
    started, sent, extra = monotonic_ns(), 0, 0
    while sent < total:
        due = min(total, int((monotonic_ns() - started) * rate / 1e9) + 1) if rate else total
        for number in range(sent, due):
            due_ns = started + int(number * 1e9 / rate) if rate else monotonic_ns()
            provider, account, body = webhooks.payload(due_ns, number)
            await _publish(producer, provider, account, body, f"{due_ns:x}-{number}")
            if every and number % every == 0:
                extra += 1
                provider, account, body = special.payload(0, 2 * extra + 1)
                await _publish(producer, provider, account, body, f"{due_ns:x}-{number}-extra")
        sent = max(sent, due)
        await asyncio.sleep(_TICK_S)
    await producer.flush()
    return {"extra": extra}


async def to_bare(topic: str, total: int) -> dict[str, Any]:
    """Publish calls of Slack and Telegram for `bench.bridge_bare`: in turn, for each mapping in turn."""
    producer, places = _run.producer, state.conversations
    assert producer is not None
    for number in range(total):
        mapping = number // 2 % places.mappings
        headers = {"content-type": "application/json"}
        if number % 2:
            key, call = places.team(mapping), slack_call(mapping)
            headers |= {"url": _POST_MESSAGE, "authorization": f"Bearer {slack_token(key)}"}
        else:
            key, call = places.bot(mapping), telegram_call(mapping)
            headers["url"] = f"https://api.telegram.org/bot{telegram_token(key)}/sendMessage"
        fields = [(name, value.encode()) for name, value in headers.items()]
        await producer.send(topic, encoded(call), key=key.encode(), headers=fields)
    await producer.flush()
    return {}


async def reset() -> dict[str, Any]:
    """Forget what was seen."""
    state.reset()
    return {}


async def seen() -> dict[str, Any]:
    """Return the number of messages at the providers and at the chat, and their ages in ms."""
    return {
        "count": len(state.ages),
        "chat_count": len(state.chat_ages),
        "refusals": state.refusals,
        "complaints": dict(state.complaints),
        "seconds": (state.last_ns - state.first_ns) / 1e9,
        **_percentiles("", state.ages),
        **_percentiles("chat_", state.chat_ages),
    }


def _percentiles(prefix: str, ages: "array[int]") -> dict[str, float | None]:
    ranked = sorted(ages)
    return {
        f"{prefix}p{percent}_ms": ranked[int(len(ranked) * percent / 100)] / 1e6 if ranked else None
        for percent in (50, 99)
    }


if __name__ == "__main__":
    import uvloop

    uvloop.run(
        answer(
            {
                "listen": listen,
                "hooks": hooks,
                "connect": connect,
                "disconnect": disconnect,
                "refuse": refuse,
                "through_gateway": through_gateway,
                "to_broker": to_broker,
                "to_bare": to_bare,
                "reset": reset,
                "seen": seen,
            }
        )
    )

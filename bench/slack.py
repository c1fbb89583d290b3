"""A helper process: a cheap Slack for many teams, a chat that writes, and a bare loop.

Slack is reached at its own name through this process, which is the egress proxy as well: after `CONNECT` it
speaks TLS as slack.com. It knows the three methods that a mapping and a message need.
"""

import asyncio
import json
import re
import ssl
import tempfile
from array import array
from pathlib import Path
from statistics import quantiles
from time import process_time, time_ns
from typing import Any, Final

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pymongo import AsyncMongoClient, InsertOne, UpdateOne

from bench.remote import Command, answer
from shared.contracts.envelope import Event, now
from shared.contracts.topics import CHAT_EVENTS
from tests.support.certificates import Authority

HOST: Final = "slack.com"
_TOKEN: Final = re.compile(rb"(?i)authorization: bearer xoxb-example-(\d+)")
_SENT: Final = re.compile(rb"sent at (\d+)")
_LENGTH: Final = re.compile(rb"(?i)content-length: (\d+)")
_PARTITIONS: Final = 6


class _Slack:
    """What was written so far: the time of each message's way in milliseconds, and which teams refuse."""

    def __init__(self) -> None:
        self.ages = array("d")
        self.count = 0
        self.refusing: set[str] = set()
        self.refused = 0
        self.context: ssl.SSLContext | None = None
        self.last_at = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"CONNECT"):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.drain()
                assert self.context
                await writer.start_tls(self.context)
                head = await reader.readuntil(b"\r\n\r\n")
            while True:
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                writer.write(self._answer(head, body))
                head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.close()

    def _answer(self, head: bytes, body: bytes) -> bytes:
        token = _TOKEN.search(head)
        team = f"T{token[1].decode()}" if token else ""
        path = head.split(b" ", 2)[1]
        if path.endswith(b"chat.postMessage"):
            return self._write(team, body)
        if path.endswith(b"auth.test"):
            value: dict[str, Any] = {
                "team_id": team,
                "team": team,
                "user_id": f"U{team}",
                "bot_id": f"B{team}",
            }
            return _response({"ok": True, "url": f"https://{team.lower()}.slack.com/", **value})
        channel = path.partition(b"channel=")[2].partition(b"&")[0].decode()
        info = {"id": channel, "name": channel.lower(), "is_channel": True, "is_member": True}
        return _response({"ok": True, "channel": info})

    def _write(self, team: str, body: bytes) -> bytes:
        if team in self.refusing:
            self.refused += 1
            return _response(
                {"ok": False, "error": "ratelimited"}, b"429 Too Many Requests", b"retry-after: 30\r\n"
            )
        self.count += 1
        self.last_at = time_ns()
        if sent := _SENT.search(body):
            self.ages.append((self.last_at - int(sent[1])) / 1e6)
        channel = re.search(rb'"channel":"(\w+)"', body)
        stamp = f"{1_800_000_000 + self.count // 1000}.{self.count % 1000:06}"
        return _response({"ok": True, "channel": channel[1].decode() if channel else "", "ts": stamp})


def _response(value: dict[str, Any], status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (status, headers, len(body)) + body


_slack = _Slack()


async def listen(folder: str) -> dict[str, Any]:
    """Start Slack; return its address as a proxy, and a file with its authority."""
    authority = Authority("bench")
    certificate, key = authority.pair(HOST, HOST)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(file.name)
    _slack.context = context
    ca_file = f"{folder}/slack.pem"
    Path(ca_file).write_text(authority.pem, encoding="ascii")  # noqa: ASYNC240 -- before anything is measured
    server = await asyncio.start_server(_slack.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _servers.append(server)
    return {"proxy": f"http://127.0.0.1:{port}", "ca_file": ca_file}


_servers: list[asyncio.Server] = []


async def reset(refusing: list[str] | None = None) -> dict[str, Any]:
    """Forget what was written. `refusing` are the teams that answer 429 from now on."""
    _slack.ages, _slack.count, _slack.refused = array("d"), 0, 0
    _slack.refusing = set(refusing or ())
    return {}


async def seen() -> dict[str, Any]:
    """Return how much was written, when the last message came, and how old the messages were, in ms."""
    result: dict[str, Any] = {"count": _slack.count, "refused": _slack.refused, "last_at": _slack.last_at}
    if len(_slack.ages) > 1:
        cuts = quantiles(_slack.ages, n=100)
        result |= {"p50_ms": cuts[49], "p99_ms": cuts[98]}
    return result


async def write(
    bootstrap: str, workspace: str, channels: list[str], rate: float, rounds: int, *, embedded: bool
) -> dict[str, Any]:
    """Write one message to each channel of the chat in each round, at so many messages a second.

    With a `rate` of 0, a round is written at once. Return when the first was written, in ns.
    """
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=not embedded)
    await producer.start()
    loop = asyncio.get_running_loop()
    started, started_at, number = loop.time(), time_ns(), 0
    acks = []
    for _ in range(rounds):
        for channel in channels:
            if rate:
                await asyncio.sleep(max(0.0, started + number / rate - loop.time()))
            number += 1
            event = _event(workspace, channel, number)
            acks.append(
                await producer.send(
                    CHAT_EVENTS.name, event.data, key=channel.encode(), headers=event.headers()
                )
            )
    await asyncio.gather(*acks)
    await producer.stop()
    return {"started_at": started_at, "written": number}


def _event(workspace: str, channel: str, number: int) -> Event:
    sent_at = time_ns()
    data = {
        "message_id": f"m{sent_at}-{number}",
        "channel_id": channel,
        "text": f"A usual message, with **two** marks and a [link](https://example.com/{number}); "
        f"it was sent at {sent_at}",
        "author": {"id": "u1", "name": "Example"},
    }
    return Event(
        id=f"evt_{sent_at}_{number}",
        type="message.created",
        source="/bench",
        workspace=workspace,
        time=now(),
        data=json.dumps(data).encode(),
        subject=channel,
    )


async def least(bootstrap: str, uri: str, proxy: str, ca_file: str, topic: str, total: int) -> dict[str, Any]:
    """Consume records, post each to Slack and write two documents for it; return CPU microseconds of each.

    This is the least that a service does that forwards messages and knows afterwards where they are.
    """
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
    messages, links = client["least"]["messages"], client["least"]["links"]
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
    )
    context = ssl.create_default_context(cafile=ca_file)
    connector = aiohttp.TCPConnector(limit=50, ssl=context)
    permits = asyncio.Semaphore(50)
    done = 0

    async def post(session: aiohttp.ClientSession, record: Any) -> tuple[str, str]:
        data = json.loads(record.value)
        body = {"channel": "C1", "text": data["text"], "username": data["author"]["name"]}
        headers = {"authorization": "Bearer xoxb-example-1"}
        async with (
            permits,
            session.post(
                f"https://{HOST}/api/chat.postMessage", json=body, headers=headers, proxy=proxy
            ) as got,
        ):
            return data["message_id"], (await got.json())["ts"]

    await consumer.start()
    async with aiohttp.ClientSession(connector=connector) as session:
        used = process_time()
        while done < total:
            polled = await consumer.getmany(timeout_ms=500, max_records=500)
            records = [record for found in polled.values() for record in found]
            if not records:
                continue
            await messages.bulk_write(
                [InsertOne({"_id": f"{r.partition}-{r.offset}", "state": "waiting"}) for r in records],
                ordered=False,
            )
            sent = await asyncio.gather(*(post(session, record) for record in records))
            await asyncio.gather(
                messages.bulk_write(
                    [
                        UpdateOne({"_id": f"{r.partition}-{r.offset}"}, {"$set": {"state": "sent", "id": ts}})
                        for r, (_, ts) in zip(records, sent, strict=True)
                    ],
                    ordered=False,
                ),
                links.bulk_write(
                    [InsertOne({"_id": f"{name}-{ts}", "message": name}) for name, ts in sent], ordered=False
                ),
            )
            done += len(records)
        used = process_time() - used
    await consumer.stop()
    await client.close()
    return {"cpu_us": used / done * 1e6, "count": done}


if __name__ == "__main__":
    import uvloop

    commands: dict[str, Command] = {
        "listen": listen,
        "reset": reset,
        "seen": seen,
        "write": write,
        "least": least,
    }
    uvloop.run(answer(commands))

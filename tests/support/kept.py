"""What is kept of a run for the search at its end: the hub's answers, and what was in topics and stores.

Every answer that the tests' process gets from this machine is kept, by httpx or http.client, unless it comes
from a server that has said that it is not the hub's (`not_the_hub`): a server of a test that says nothing is
searched, too.
"""

import asyncio
import http.client
import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri

from tests.support import run
from tests.support.given import LEAST
from tests.support.once import note_told, without_shown

ANSWERS: Final = "answers"
TOPICS: Final = "messages"
DOCUMENTS: Final = "documents"
UNREAD: Final = "unread"
"""What could not be read, a line each: it was not searched, so the search fails."""
MARK: Final = b"\n\x1e\x1f part: "
"""Before each part; then, in a line, where it is from and which one it is there, with `SPLIT` between."""
SPLIT: Final = " \x1f "

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_READ_S: Final = 30.0
_NOTHING_MS: Final = 150
_OF_THE_STORE: Final = frozenset({"admin", "config", "local"})

_others: set[int] = set()
_databases: defaultdict[str, set[str]] = defaultdict(set)
_read_to: defaultdict[tuple[str, str], dict[TopicPartition, int]] = defaultdict(dict)


def _keep(name: str, where: str, part: str, *contents: bytes) -> None:
    title = f"{where}{SPLIT}{part}".encode(errors="replace")
    run.append(name, b"".join([MARK, title, b"\n", b"\n".join(contents)]))


# Answers


def not_the_hub(*ports: int) -> None:
    """Servers that are the test's own listen there, which may say what they like."""
    _others.update(ports)


def over(*ports: int) -> None:
    """They do not any more, or the hub does."""
    _others.difference_update(ports)


def is_hub(url: str) -> bool:
    """Whether what answers there may be the hub."""
    parts = urlsplit(url)
    return parts.hostname in _LOOPBACK and parts.port not in _others


def answer(
    method: str, url: str, authorization: str, sent: bytes, status: int, headers: Any, body: bytes
) -> None:
    """Keep an answer of the hub, but for what it may show, and note what it was told."""
    if run.folder() is None or not is_hub(url):
        return
    parts = urlsplit(url)
    note_told(method, f"{parts.path}?{parts.query}", authorization, _json(sent))
    said = _json(body)
    fields, left = without_shown(method, parts.path, list(headers), said)
    if left is not said:
        body = json.dumps(left).encode()
    lines = [f"{name}: {value}".encode(errors="replace") for name, value in fields]
    _keep(ANSWERS, f"an answer to {method} {_route(parts.path)}", f"status {status}", *lines, b"", body)


def _route(path: str) -> str:
    """A path without ids, and without tokens, which are no part of the answer."""
    return "/".join("*" if len(part) >= LEAST else part for part in path.split("/"))


def listen() -> None:
    """From now on, what the tests' own clients are answered is kept."""
    if getattr(httpx.Client.send, "is_heard", False):
        return
    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    @wraps(send)
    def heard(self: httpx.Client, *args: Any, **options: Any) -> httpx.Response:
        return _heard(send(self, *args, **options))

    @wraps(send_async)
    async def heard_async(self: httpx.AsyncClient, *args: Any, **options: Any) -> httpx.Response:
        return _heard(await send_async(self, *args, **options))

    heard.is_heard = True  # type: ignore[attr-defined]
    httpx.Client.send = heard  # type: ignore[method-assign]
    httpx.AsyncClient.send = heard_async  # type: ignore[method-assign]
    _listen_to_http_client()


def _heard(response: httpx.Response) -> httpx.Response:
    for each in (*response.history, response):
        asked, body = each.request, b""
        with suppress(httpx.ResponseNotRead):  # somebody reads it bit by bit
            body = each.content
        sent = b""
        with suppress(httpx.RequestNotRead):
            sent = asked.content
        key = asked.headers.get("authorization", "")
        answer(asked.method, str(asked.url), key, sent, each.status_code, each.headers.multi_items(), body)
    return response


def _listen_to_http_client() -> None:
    """Its connections remember what was asked last; an answer is kept when it is read."""
    of_connection, of_response = http.client.HTTPConnection, http.client.HTTPResponse
    putrequest, endheaders, getresponse = (
        of_connection.putrequest,
        of_connection.endheaders,
        of_connection.getresponse,
    )
    init, read = of_response.__init__, of_response.read

    def asks(self: Any, method: str, url: str, *args: Any, **options: Any) -> None:
        self.asked = (method, url, b"")
        putrequest(self, method, url, *args, **options)

    def ends(self: Any, message_body: Any = None, **options: Any) -> None:
        method, url, _ = self.asked
        self.asked = (method, url, message_body if isinstance(message_body, bytes) else b"")
        endheaders(self, message_body, **options)

    def gets(self: Any) -> http.client.HTTPResponse:
        response: Any = getresponse(self)
        response.asked = self.asked
        return response  # type: ignore[no-any-return]

    def made(self: Any, sock: Any, *args: Any, **options: Any) -> None:
        self.asked, self.peer = ("", "", b""), None
        with suppress(OSError):
            self.peer = sock.getpeername()[:2]
        init(self, sock, *args, **options)

    def reads(self: Any, amt: int | None = None) -> bytes:
        body = read(self, amt)
        if self.peer:
            method, target, sent = self.asked
            url = f"http://{self.peer[0]}:{self.peer[1]}{target}"
            answer(method, url, "", sent, self.status, self.getheaders(), body)
        return body

    vars_of: Any = of_connection
    vars_of.putrequest, vars_of.endheaders, vars_of.getresponse = asks, ends, gets
    vars_of = of_response
    vars_of.__init__, vars_of.read = made, reads


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


# Topics


def topics(bootstrap: str, life: str = "", *, last: bool = False) -> None:
    """Keep what has come to a broker's topics since this was called before; `last`: it is about to end.

    A broker that keeps everything in memory begins anew with each `life`.
    """
    if run.folder() is None:
        return
    done = _read_to[bootstrap, life]
    with _as_unread(f"the topics of {bootstrap}"), ThreadPoolExecutor(1) as other:  # a loop may run here
        other.submit(asyncio.run, _read(bootstrap, done)).result()
    if last:
        del _read_to[bootstrap, life]


async def _read(bootstrap: str, done: dict[TopicPartition, int]) -> None:
    async with asyncio.timeout(_READ_S):
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
            names = sorted(name for name in await consumer.topics() if not name.startswith("__"))
        if names:
            await _read_topics(bootstrap, names, done)


async def _read_topics(bootstrap: str, names: list[str], done: dict[TopicPartition, int]) -> None:
    """From where it was read to. An embedded broker's ends are too early: more may come after them."""
    async with AIOKafkaConsumer(
        *names, bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, fetch_max_wait_ms=20
    ) as consumer:
        there = consumer.assignment()  # without a group, it is given every partition
        lacking = {*names} - {each.topic for each in there}
        assert not lacking, f"there are no partitions of {lacking}"
        starts, ends = await consumer.beginning_offsets(there), await consumer.end_offsets(there)
        for each in there:
            done[each] = max(done.get(each, 0), starts[each])
            consumer.seek(each, done[each])
        more = True
        while more or any(done[each] < ends[each] for each in there):
            got = await consumer.getmany(timeout_ms=_NOTHING_MS)
            more = bool(got)
            for each, records in got.items():
                for record in records:
                    _keep_record(record)
                done[each] = records[-1].offset + 1


def _keep_record(record: Any) -> None:
    headers = [b"%b: %b" % (name.encode(), value or b"") for name, value in record.headers]
    part = f"partition {record.partition}, offset {record.offset}"
    _keep(TOPICS, f"the topic {record.topic}", part, record.key or b"", *headers, b"", record.value or b"")


# Stores


def documents(uri: str) -> None:
    """Keep every document of a database; when the address names none, of all that were not kept yet."""
    if run.folder() is None:
        return
    raw: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
    parts = parse_uri(uri)
    named, at = parts["database"], str(parts["nodelist"])
    with _as_unread(f"the store at {uri}"), MongoClient[Any](uri, serverSelectionTimeoutMS=5000) as mongo:
        there = {named} if named else {*mongo.list_database_names()} - _OF_THE_STORE - _databases[at]
        _databases[at] |= there
        count = 0
        for name in sorted(there):
            database = mongo.get_database(name, codec_options=raw)
            for collection in database.list_collection_names():
                for number, document in enumerate(database[collection].find(), 1):
                    where = f"the collection {collection} in {name}"
                    _keep(DOCUMENTS, where, f"document {number}", document.raw)
                    count += 1
        assert count or not named, "a database of the hub with nothing in it"


@contextmanager
def _as_unread(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 -- a test's end goes on; the search fails for it
        why = " ".join(repr(error).split())
        run.append(UNREAD, f"{what}{SPLIT}{why}\n".encode())

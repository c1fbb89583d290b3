"""Capture what a run leaves for the search at its end: responses of the hub, records of topics, documents.

Each response that a test gets from this machine is captured, from httpx and http.client, unless its
port was excluded with `exclude_ports`: a test's own server that does not exclude itself is searched, too.
"""

import asyncio
import http.client
import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import wraps
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri

from tests.support import run
from tests.support.api_secrets import (
    record_request_secrets,
    remove_page_secrets,
    remove_response_secrets,
)
from tests.support.recorded_secrets import MIN_LENGTH

RESPONSES: Final = "answers"
TOPICS: Final = "messages"
DOCUMENTS: Final = "documents"
UNREAD: Final = "unread"
"""What could not be read, a line each: it was not searched, so the search fails."""
MARK: Final = b"\n\x1e\x1f part: "
"""Before each part; then, in a line, where it is from and which one it is there, with `SPLIT` between."""
SPLIT: Final = " \x1f "

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_READ_S: Final = 90.0
_NOTHING_MS: Final = 150
_REST_S: Final = 5.0
"""Time to read records behind the end offsets: a service may still publish, without an end."""
_OF_THE_STORE: Final = frozenset({"admin", "config", "local"})

_others: set[int] = set()
_databases: defaultdict[str, set[str]] = defaultdict(set)
_read_to: defaultdict[tuple[str, str], dict[TopicPartition, int]] = defaultdict(dict)


def _capture(name: str, where: str, part: str, *contents: bytes) -> None:
    title = f"{where}{SPLIT}{part}".encode(errors="replace")
    run.append(name, b"".join([MARK, title, b"\n", b"\n".join(contents)]))


# Answers


def exclude_ports(*ports: int) -> None:
    """Capture nothing from these ports: servers of the test itself listen there."""
    _others.update(ports)


def include_ports(*ports: int) -> None:
    """Capture from these ports again: the test's server has stopped, or the hub listens there."""
    _others.difference_update(ports)


def is_hub(url: str) -> bool:
    """Return whether the server at this URL may be the hub."""
    parts = urlsplit(url)
    return parts.hostname in _LOOPBACK and parts.port not in _others


def save_response(
    method: str, url: str, authorization: str, sent: bytes, status: int, headers: Any, body: bytes
) -> None:
    """Capture a response of the hub without what it may show; record the secrets of its request."""
    if run.folder() is None or not is_hub(url):
        return
    parts = urlsplit(url)
    record_request_secrets(method, f"{parts.path}?{parts.query}", authorization, _json(sent))
    message = _json(body)
    fields, left = remove_response_secrets(method, parts.path, list(headers), message)
    if left is not message:
        body = json.dumps(left).encode()
    body = remove_page_secrets(method, parts.path, list(headers), body)
    fields = [(name, value) for name, value in fields if not _is_session(parts.path, name)]
    lines = [f"{name}: {value}".encode(errors="replace") for name, value in fields]
    _capture(RESPONSES, f"an answer to {method} {_route(parts.path)}", f"status {status}", *lines, b"", body)


def _is_session(path: str, header: str) -> bool:
    return path.startswith("/console/") and header.lower() == "set-cookie"


def _route(path: str) -> str:
    """Return a path without ids and tokens, which are not part of the response."""
    return "/".join("*" if len(part) >= MIN_LENGTH else part for part in path.split("/"))


def listen() -> None:
    """Capture from now on every response to httpx and http.client of this process."""
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
        save_response(
            asked.method, str(asked.url), key, sent, each.status_code, each.headers.multi_items(), body
        )
    return response


def _listen_to_http_client() -> None:
    """Patch http.client: a connection remembers its last request; a response is captured when it is read."""
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
            save_response(method, url, "", sent, self.status, self.getheaders(), body)
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
    """Capture the records of a broker's topics since the last call; `last`: the broker is about to stop.

    An in-memory broker starts from offset 0 with each `life`.
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
        missing = {*names} - {each.topic for each in there}
        assert not missing, f"there are no partitions of {missing}"
        starts, ends = await consumer.beginning_offsets(there), await consumer.end_offsets(there)
        for each in there:
            done[each] = max(done.get(each, 0), starts[each])
            consumer.seek(each, done[each])
        more, late = True, monotonic() + _REST_S
        while (more and monotonic() < late) or any(done[each] < ends[each] for each in there):
            got = await consumer.getmany(timeout_ms=_NOTHING_MS)
            more = bool(got)
            for records in got.values():
                for record in records:
                    _capture_record(record)
            for each in there:  # a position passes markers of transactions and compacted records, too
                done[each] = await consumer.position(each)


def _capture_record(record: Any) -> None:
    headers = [b"%b: %b" % (name.encode(), value or b"") for name, value in record.headers]
    part = f"partition {record.partition}, offset {record.offset}"
    _capture(TOPICS, f"the topic {record.topic}", part, record.key or b"", *headers, b"", record.value or b"")


# Stores


def documents(uri: str) -> None:
    """Capture every document of a database; without a database in `uri`, of all not captured yet."""
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
                    _capture(DOCUMENTS, where, f"document {number}", document.raw)
                    count += 1
        assert count or not named, "a database of the hub with nothing in it"


@contextmanager
def _as_unread(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 -- a test's end goes on; the search fails for it
        why = " ".join(repr(error).split())
        run.append(UNREAD, f"{what}{SPLIT}{why}\n".encode())

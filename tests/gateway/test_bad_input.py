"""Whatever a stranger sends: a clear refusal, or an event that arrives; and a gateway that goes on.

Over real HTTP, mostly through bare sockets, because a client library would not send most of this.
"""

import base64
import contextlib
import gzip
import hashlib
import hmac
import json
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from secrets import token_hex
from statistics import median
from time import perf_counter, sleep
from typing import Any, Self

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub, hub_with
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tap import Tap

LIMIT = 1024 * 1024
DECLARED = {200, 202, 400, 401, 403, 404, 405, 408, 410, 413, 415, 429}
"""The statuses that the API document names for webhook routes; 503 belongs to a bus that is away."""

Headers = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Answer:
    """What the gateway said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    seconds: float
    closed: bool

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stranger:
    """Sends bytes to a gateway and keeps every answer, to look at them all after a test."""

    port: int
    answers: list[Answer] = field(default_factory=list, repr=False)

    def send(self, *pieces: bytes, pause_s: float = 0, timeout_s: float = 15) -> Answer:
        """Send the pieces until an answer comes. Raises `ConnectionError` when there is none."""
        started = perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    connection.sendall(piece)
                    if pause_s:
                        sleep(pause_s)
            method = "HEAD" if pieces[0].startswith(b"HEAD") else "POST"
            return self.read(connection, started, method)

    def read(self, connection: socket.socket, started: float, method: str = "POST") -> Answer:
        """The answer on this connection, and whether it is closed after it."""
        try:
            response = HTTPResponse(connection, method=method)
            response.begin()
            body = response.read()
        except HTTPException as error:
            raise ConnectionError(f"no answer: {error!r}") from None
        seconds = perf_counter() - started
        connection.settimeout(0.2)
        try:
            closed = connection.recv(1) == b""
        except TimeoutError:
            closed = False
        except OSError:
            closed = True
        headers = [(name.lower(), value) for name, value in response.getheaders()]
        answer = Answer(response.status, headers, body, seconds, closed)
        self.answers.append(answer)
        return answer

    def request(
        self,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        method: str = "POST",
        length: int | str | None = None,
    ) -> Answer:
        """One request with exactly these headers, and a length that may be a lie."""
        return self.send(head(method, path, headers, len(body) if length is None else length) + body)


def head(method: str, path: str, headers: Headers, length: int | str | None) -> bytes:
    """The bytes of a request's head; no `content-length` for a length of None."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: gateway", b"connection: close"]
    if length is not None:
        lines.append(f"content-length: {length}".encode())
    lines += [
        name.encode("latin-1") + b": " + (value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in headers
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@dataclass(frozen=True)
class Target:
    """An endpoint to aim at."""

    id: str
    path: str
    secret: str

    def headers(self, body: bytes, event: str = "ping", **changed: str) -> dict[str, str]:
        return signed(self.secret, event, body, **changed)


hub = hub_with(services=("gateway", "delivery"), workspace="bad")


@pytest.fixture(scope="module")
def impatient(hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A gateway that waits one second for a body, trusts no proxy and remembers no delivery."""
    folder = tmp_path_factory.mktemp("impatient")
    env = {
        "INTERLINK_BODY_TIMEOUT_S": "1",
        "INTERLINK_TRUSTED_PROXIES": "192.0.2.200",
        "INTERLINK_DEDUPE_WINDOW_S": "0",
    }
    with second_process("gateway", hub, folder, bus, store, **env) as other:
        yield other


@pytest.fixture(scope="module", autouse=True)
def dawdlers(hub: Hub) -> Iterator[list[socket.socket]]:
    """Connections made before everything else, which never get to the end of a head."""
    starts = (b"", b"POST /api/webh", b"POST /api/webhooks/github/x HTTP/1.1\r\nhost: x\r\nx-a: ")
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", hub.ports["gateway"]), timeout=20))
            for _ in starts
        ]
        for connection, start in zip(connections, starts, strict=True):
            connection.sendall(start)
        yield connections


@pytest.fixture(scope="module")
def received(hub: Hub) -> Iterator["Received"]:
    """A subscriber to everything, which verifies what it gets."""
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, max_in_flight=50)
        yield Received(subscriber)


class Received:
    """What arrived at the other end of the hub, by event id."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber

    def of(self, event_id: str) -> list[WebhookRequest]:
        return [got for got in self._subscriber.got if f'"id":"{event_id}"'.encode() in got.body]

    def wait_for(self, event_id: str) -> Any:
        """The body that was delivered for this event."""
        [got, *_] = eventually(lambda: self.of(event_id), 30, every_s=0.02)
        return json.loads(got.body)


@pytest.fixture(scope="module")
def target(hub: Hub) -> Target:
    return _target(hub)


_SECRETS: set[str] = set()
"""Of every endpoint that was made here: no answer may hold one."""


def _target(hub: Hub, **fields: Any) -> Target:
    created = hub.github_endpoint(**fields)
    _SECRETS.add(created["secret"])
    return Target(created["id"], f"/api/webhooks/github/{created['id']}", created["secret"])


def _incoming(hub: Hub, **fields: Any) -> tuple[str, str]:
    body = {"name": "in", "target_channel_id": "general", **fields}
    created = hub.call("POST", "/api/incoming-webhooks", body, expect=201)
    return f"/api/webhooks/incoming/{created['token']}", created["token"]


@pytest.fixture
def stranger(hub: Hub) -> Iterator[Stranger]:
    """Aims at the gateway; afterwards nothing that a stranger must not see was said, and nothing broke."""
    pid, before = hub.pid("gateway"), len(hub.log_text("gateway"))
    stranger = Stranger(hub.ports["gateway"])
    yield stranger
    assert httpx.get(hub.url("gateway") + "/healthz", timeout=5).status_code == 200
    assert psutil.pid_exists(pid)
    assert hub.pid("gateway") == pid
    _unbroken(hub.log_text("gateway")[before:])
    _discreet(hub, stranger.answers)


def _unbroken(log: str) -> None:
    assert "Traceback" not in log, log
    for line in filter(None, log.splitlines()):
        assert json.loads(line)["level"] != "error", line


def _discreet(hub: Hub, answers: Iterable[Answer]) -> None:
    for answer in answers:
        text = answer.body.decode("utf-8", "replace") + repr(answer.headers)
        for word in (
            "Traceback",
            'File "',
            ".py",
            "Error(",
            hub.admin_key,
            hub.env["INTERLINK_ENCRYPTION_KEY"],
            *_SECRETS,
        ):
            assert word not in text, text


def _problem(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert answer.header("content-type") == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= answer.json.keys()
    assert answer.json["status"] == status


BODY = b'{"zen":"Keep it logically awesome.","hook_id":1}'


def _pairs(headers: dict[str, str], **changed: str | bytes | None) -> Headers:
    """The headers as a list, some replaced and (None) some left out."""
    given = {name.replace("_", "-"): value for name, value in changed.items()}
    merged: dict[str, str | bytes | None] = {**headers, **given}
    return [(name, value) for name, value in merged.items() if value is not None]


# Signatures

SIGNATURE = "x-hub-signature-256"
FORGERIES: dict[str, Callable[[str, Target], list[str | bytes]]] = {
    "missing": lambda _good, _target: [],
    "empty": lambda _good, _target: [""],
    "truncated by a character": lambda good, _target: [good[:-1]],
    "truncated by a byte": lambda good, _target: [good[:-2]],
    "truncated to its prefix": lambda _good, _target: ["sha256="],
    "longer by a byte": lambda good, _target: [good + "00"],
    "without its prefix": lambda good, _target: [good.removeprefix("sha256=")],
    "prefix of another algorithm": lambda good, _target: [good.replace("sha256", "sha1")],
    "wrong": lambda _good, _target: ["sha256=" + "0" * 64],
    "header twice": lambda good, _target: [good, good],
    "header twice, the first good": lambda good, _target: [good, "sha256=" + "0" * 64],
    "header twice, the second good": lambda good, _target: ["sha256=" + "0" * 64, good],
    "two digests in one header": lambda good, _target: [f"{good},{good}"],
    "two digests, the second good": lambda good, _target: [f"sha256={'0' * 64}, {good}"],
    "not hexadecimal": lambda _good, _target: ["sha256=" + "zz" * 32],
    "not ASCII": lambda _good, _target: [b"sha256=" + b"\xe9\xff" * 32],
    "base64 of the digest": lambda _good, target: ["sha256=" + _base64(target.secret, BODY)],
    "by the empty secret": lambda _good, _target: [_sign("", BODY)],
    "over the empty body": lambda _good, target: [_sign(target.secret, b"")],
    "over the path": lambda _good, target: [_sign(target.secret, target.path.encode() + BODY)],
}


def _sign(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _base64(secret: str, body: bytes) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_bad_signature_is_401(stranger: Stranger, target: Target, forgery: str) -> None:
    headers = target.headers(BODY)
    values = FORGERIES[forgery](headers.pop(SIGNATURE), target)
    answer = stranger.request(
        target.path, [*headers.items(), *((SIGNATURE, value) for value in values)], BODY
    )
    _problem(answer, 401)
    assert SIGNATURE in answer.json["detail"]


def test_the_good_signature_is_accepted(stranger: Stranger, target: Target) -> None:
    """Without this, all of the above could pass for another reason."""
    answer = stranger.request(target.path, _pairs(target.headers(BODY)), BODY)
    assert answer.status == 202
    assert answer.header("content-type") == "application/json"


def test_the_secret_of_another_endpoint(stranger: Stranger, target: Target, hub: Hub) -> None:
    other = _target(hub)
    headers = _pairs(other.headers(BODY))
    _problem(stranger.request(target.path, headers, BODY), 401)
    assert stranger.request(other.path, headers, BODY).status == 202


def test_a_signature_over_the_same_json_written_otherwise(stranger: Stranger, target: Target) -> None:
    """The bytes are signed, not what they mean."""
    repeat = json.dumps(json.loads(BODY)).encode()
    assert json.loads(repeat) == json.loads(BODY)
    _problem(stranger.request(target.path, _pairs(target.headers(repeat)), BODY), 401)
    assert stranger.request(target.path, _pairs(target.headers(repeat)), repeat).status == 202


def test_a_body_changed_by_one_byte(stranger: Stranger, target: Target) -> None:
    headers = _pairs(target.headers(BODY))
    for at in range(0, len(BODY), 7):
        changed = bytearray(BODY)
        changed[at] ^= 0x20
        _problem(stranger.request(target.path, headers, bytes(changed)), 401)
    _problem(stranger.request(target.path, headers, BODY + b"\n"), 401)
    _problem(stranger.request(target.path, headers, BODY[:-1]), 401)


def test_githubs_documented_example(stranger: Stranger, hub: Hub) -> None:
    """`It's a Secret to Everybody` over `Hello, World!`: the signature holds, only the body is no JSON."""
    target = _target(hub, secret="It's a Secret to Everybody")
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"x-github-event": "ping", "x-github-delivery": token_hex(8), SIGNATURE: f"sha256={digest}"}
    answer = stranger.request(target.path, _pairs(headers), b"Hello, World!")
    _problem(answer, 400)
    assert "not JSON" in answer.json["detail"]
    _problem(stranger.request(target.path, _pairs(headers), b"Hello, World?"), 401)


# Secrets that change


def test_both_secrets_are_good_while_they_overlap(stranger: Stranger, hub: Hub) -> None:
    first = _target(hub)
    rotate = f"/api/inbound-endpoints/{first.id}/rotate-secret"
    second = Target(first.id, first.path, hub.call("POST", rotate, {"overlap_hours": 1})["secret"])
    third = Target(first.id, first.path, hub.call("POST", rotate, {"overlap_hours": 1})["secret"])
    assert len({first.secret, second.secret, third.secret}) == 3
    for item in (third, second, first):
        assert stranger.request(item.path, _pairs(item.headers(BODY)), BODY).status == 202


def test_without_overlap_the_old_secret_is_refused_at_once(stranger: Stranger, hub: Hub) -> None:
    old = _target(hub)
    rotated = hub.call("POST", f"/api/inbound-endpoints/{old.id}/rotate-secret", {"overlap_hours": 0})
    _problem(stranger.request(old.path, _pairs(old.headers(BODY)), BODY), 401)
    new = Target(old.id, old.path, rotated["secret"])
    assert stranger.request(new.path, _pairs(new.headers(BODY)), BODY).status == 202


# Bodies

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"zen=Keep it logically awesome.",
    "half of it": BODY[:-1],
    "more after it": BODY + b"x",
    "not UTF-8": b'{"zen":"\xff\xfe"}',
    "a surrogate in UTF-8": b'{"zen":"\xed\xa0\x80"}',
    "half of a surrogate pair": b'{"zen":"\\ud800"}',
    "UTF-16": BODY.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + BODY,
    "NUL": b'{"zen":"\x00"}',
    "a list": b"[" + BODY + b"]",
    "a string": b'"{}"',
    "a number": b"1",
    "null": b"null",
    "NaN": b'{"a":NaN}',
    "10,000 levels of lists": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 levels of objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "100,000 levels, never closed": b"[" * 100_000,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_well_signed_body_that_is_no_json_object(stranger: Stranger, target: Target, what: str) -> None:
    body = MALFORMED[what]
    _problem(stranger.request(target.path, _pairs(target.headers(body)), body), 400)


def test_unsigned_it_is_401_whatever_is_in_it(stranger: Stranger, target: Target) -> None:
    """Who cannot sign learns nothing of how bodies are read."""
    for body in MALFORMED.values():
        headers = target.headers(body, x_hub_signature_256="sha256=" + "0" * 64)
        _problem(stranger.request(target.path, _pairs(headers), body), 401)


def test_two_mebibytes_are_refused_before_they_are_sent(stranger: Stranger, target: Target) -> None:
    answer = stranger.send(head("POST", target.path, _pairs(target.headers(b"")), 2 * LIMIT))
    _problem(answer, 413)
    assert answer.closed
    assert answer.header("connection") == "close"


@pytest.mark.parametrize("length", [str(LIMIT + 1), "9" * 19, "0" * 3 + str(2 * LIMIT)])
def test_other_lengths_that_are_too_much(stranger: Stranger, target: Target, length: str) -> None:
    _problem(stranger.send(head("POST", target.path, _pairs(target.headers(b"")), length)), 413)


def test_two_mebibytes_without_a_length_are_refused_on_the_way(stranger: Stranger, target: Target) -> None:
    start = head("POST", target.path, [*_pairs(target.headers(b"")), ("transfer-encoding", "chunked")], None)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 0x10000
            yield chunk

    answer = stranger.send(start, *(chunk for _ in range(31)), b"0\r\n\r\n")
    _problem(answer, 413)
    assert answer.closed
    # And it is refused while it is sent, not at its end: this one has none.
    with socket.create_connection(("127.0.0.1", stranger.port), timeout=10) as connection:
        connection.sendall(start)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in chunks():
                connection.sendall(piece)
        assert sent < 200 * 0x10000, "the gateway read 12 MiB"
        _problem(stranger.read(connection, perf_counter()), 413)


def test_exactly_one_mebibyte_arrives(stranger: Stranger, target: Target, received: Received) -> None:
    body = b'{"pad":"' + b"x" * (LIMIT - 10) + b'"}'
    assert len(body) == LIMIT
    answer = stranger.request(target.path, _pairs(target.headers(body)), body)
    assert answer.status == 202
    assert received.wait_for(answer.json["event_id"])["data"]["payload"] == json.loads(body)
    more = body[:-2] + b'y"}'
    _problem(stranger.request(target.path, _pairs(target.headers(more)), more), 413)


def test_one_byte_at_a_time(stranger: Stranger, target: Target) -> None:
    """A body in many small chunks is a body."""
    start = head("POST", target.path, [*_pairs(target.headers(BODY)), ("transfer-encoding", "chunked")], None)
    pieces = [b"1\r\n%b\r\n" % bytes([byte]) for byte in BODY]
    assert stranger.send(start, *pieces, b"0\r\n\r\n").status == 202


# Compressed bodies


@pytest.mark.parametrize("over", ["the inflated body", "the compressed bytes"])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_gzip(stranger: Stranger, target: Target, received: Received, over: str, encoding: str) -> None:
    packed = gzip.compress(BODY)
    headers = target.headers(BODY if over == "the inflated body" else packed, content_encoding=encoding)
    answer = stranger.request(target.path, _pairs(headers), packed)
    assert answer.status == 202
    assert received.wait_for(answer.json["event_id"])["data"]["payload"] == json.loads(BODY)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-1],
        lambda packed: packed[: len(packed) // 2],
        lambda _packed: b"",
        lambda _packed: b"\x1f\x8b",
        lambda packed: packed + b"x",
        lambda packed: packed + packed,
        lambda packed: packed[:-8] + b"\0\0\0\0" + packed[-4:],
        lambda _packed: zlib.compress(BODY),
        lambda _packed: BODY,
    ],
    ids=["truncated", "half", "empty", "magic", "trailing", "twice", "checksum", "zlib", "plain"],
)
def test_gzip_that_is_none(stranger: Stranger, target: Target, damage: Callable[[bytes], bytes]) -> None:
    packed = damage(gzip.compress(BODY))
    headers = target.headers(packed, content_encoding="gzip")
    _problem(stranger.request(target.path, _pairs(headers), packed), 400)


@pytest.mark.parametrize(
    "encoding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "gzip,", "*", b"\xff\xfe", "g" * 4000]
)
def test_other_encodings_are_415(stranger: Stranger, target: Target, encoding: str | bytes) -> None:
    answer = stranger.request(target.path, _pairs(target.headers(BODY), content_encoding=encoding), BODY)
    _problem(answer, 415)
    assert len(answer.body) < 500


def _bomb(mebibytes: int) -> bytes:
    stream = zlib.compressobj(1, wbits=31)
    return b"".join([stream.compress(bytes(2**20)) for _ in range(mebibytes)]) + stream.flush()


class Memory:
    """The most resident memory of a process while the context lasts, in MiB above where it began."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._peak = 0

    def __enter__(self) -> Self:
        self._before = self._peak = self._now()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def grown(self) -> float:
        return (self._peak - self._before) / 2**20

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._peak = max(self._peak, self._now())

    def _now(self) -> int:
        return int(self._process.memory_info().rss)


def test_a_bomb_does_not_go_off(stranger: Stranger, target: Target, hub: Hub) -> None:
    """200 MiB in under 1 MiB, eight at a time: refused, and the gateway's memory stays where it was."""
    bomb = _bomb(200)
    assert len(bomb) < LIMIT
    headers = _pairs(target.headers(bomb, content_encoding="gzip"))
    with Memory(hub.pid("gateway")) as memory, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: stranger.request(target.path, headers, bomb), range(24)))
    for answer in answers:
        _problem(answer, 413)
    assert memory.grown < 64, f"{memory.grown:.0f} MiB more"


# Time


@pytest.mark.parametrize("pieces", [[b""], [b"{"], [b"x"] * 30], ids=["nothing", "a byte", "a dribble"])
def test_a_slow_body_is_408(impatient: Hub, target: Target, pieces: list[bytes]) -> None:
    """One second in all, not one second a piece."""
    slow = Stranger(impatient.ports["gateway"])
    answer = slow.send(
        head("POST", target.path, _pairs(target.headers(BODY)), 100), *pieces[:1], timeout_s=10
    )
    if len(pieces) > 1:
        with socket.create_connection(("127.0.0.1", slow.port), timeout=10) as connection:
            started = perf_counter()
            connection.sendall(head("POST", target.path, _pairs(target.headers(BODY)), 100))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    connection.sendall(piece)
                    sleep(0.1)
            answer = slow.read(connection, started)
    _problem(answer, 408)
    assert answer.closed
    assert answer.seconds < 8
    _unbroken(impatient.log_text("gateway"))


def test_a_body_that_never_ends_is_given_up_with_its_connection(stranger: Stranger, target: Target) -> None:
    """The sender goes away in the middle: nobody is answered, nothing is published, nothing breaks."""
    with socket.create_connection(("127.0.0.1", stranger.port), timeout=10) as connection:
        connection.sendall(head("POST", target.path, _pairs(target.headers(BODY)), len(BODY)) + BODY[:10])
    assert stranger.request(target.path, _pairs(target.headers(BODY)), BODY).status == 202


def test_a_head_that_does_not_come_is_given_up(
    stranger: Stranger, target: Target, dawdlers: list[socket.socket]
) -> None:
    """After ten seconds, most of which have passed by now; a connection that works is not cut."""
    for connection in dawdlers:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    with socket.create_connection(("127.0.0.1", stranger.port), timeout=10) as connection:
        connection.sendall(head("POST", target.path, _pairs(target.headers(BODY)), len(BODY)) + BODY)
        assert stranger.read(connection, perf_counter()).status == 202


# Headers

ODD: dict[str, bytes] = {
    "high bytes": b"\x80\x9f\xff",
    "Latin-1": b"caf\xe9",
    "UTF-8": "pu\u0161 \u2603".encode(),
    "half of UTF-8": b"push\xe2\x98",
    "a tab": b"pu\tsh",
    "NUL": b"pu\x00sh",
    "an escape": b"\x1b[31mpush",
    "empty": b"",
    "blanks": b"   ",
    "overlong": b"a" * 2000,
    "very long": b"a" * 40_000,
    "overlong high bytes": b"\xff" * 1000,
    "folded": b"push\r\n x-evil: 1",
    "a line feed": b"push\nx-evil: 1",
    "a carriage return": b"push\rx-evil: 1",
    "quotes and braces": b'{"a":"b"}',
    "a traversal": b"../../etc/passwd",
    "a template": b"{{ 7 | times: 7 }}",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "name",
    [
        "x-github-event",
        "x-github-delivery",
        "traceparent",
        "tracestate",
        "content-type",
        "user-agent",
        "x-new",
    ],
)
def test_odd_headers(stranger: Stranger, target: Target, received: Received, name: str, odd: str) -> None:
    """Refused clearly, or accepted; and what is accepted comes out at the other end."""
    headers = _pairs(target.headers(BODY), **{name: ODD[odd]})
    answer = stranger.request(target.path, headers, BODY)
    assert answer.status in (202, 400, 413, 415), answer
    if answer.status != 202:
        assert answer.body
        return
    delivered = received.wait_for(answer.json["event_id"])
    assert delivered["data"]["payload"] == json.loads(BODY)
    assert re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", delivered["data"]["event"])
    assert re.fullmatch(r"[!-~]{1,200}", delivered["data"]["delivery_id"])


@pytest.mark.parametrize("name", ["x-github-event", "x-github-delivery"])
def test_a_header_that_is_missing_or_doubled(stranger: Stranger, target: Target, name: str) -> None:
    """Without its event's name a webhook is no event; without a delivery id it is one that has no repeats."""
    headers = target.headers(BODY)
    seen: set[str] = set()
    for pairs in (
        _pairs(headers, **{name: None}),
        [*_pairs(headers), (name, headers[name])],
        [*_pairs(headers), (name, "other")],
    ):
        answer = stranger.request(target.path, pairs, BODY)
        if name == "x-github-event":
            _problem(answer, 400)
            assert name in answer.json["detail"]
        else:
            assert answer.status == 202
            seen.add(answer.json["event_id"])
    assert len(seen) == (0 if name == "x-github-event" else 3)


def test_odd_delivery_ids_are_not_mixed_up(stranger: Stranger, target: Target) -> None:
    answers = [
        stranger.request(target.path, _pairs(target.headers(BODY), **{"x-github-delivery": odd}), BODY)
        for odd in ("a\tb", "a b", "a_b", "a\tb")
    ]
    assert [answer.status for answer in answers] == [202] * 4
    ids = [answer.json["event_id"] for answer in answers]
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]
    assert answers[3].json["duplicate"] is True


@pytest.mark.parametrize("size", [200, 201])
def test_a_long_delivery_id_is_its_digest(
    stranger: Stranger, target: Target, received: Received, size: int
) -> None:
    headers = target.headers(BODY, delivery=token_hex(8) + "a" * (size - 16))
    answer = stranger.request(target.path, _pairs(headers), BODY)
    delivered = received.wait_for(answer.json["event_id"])["data"]["delivery_id"]
    given = headers["x-github-delivery"]
    assert delivered == (given if size <= 200 else hashlib.sha256(given.encode()).hexdigest())


def test_a_good_traceparent_is_continued_and_a_bad_one_replaced(
    stranger: Stranger, target: Target, received: Received
) -> None:
    trace = token_hex(16)
    for traceparent, continued in (
        (f"00-{trace}-{token_hex(8)}-01", True),
        (f"00-{trace.upper()}-{token_hex(8)}-01", False),
        (f"ff-{trace}-{token_hex(8)}-01", False),
        (f"00-{'0' * 32}-{token_hex(8)}-01", False),
        (f"00-{trace}-{'0' * 16}-01", False),
    ):
        answer = stranger.request(target.path, _pairs(target.headers(BODY), traceparent=traceparent), BODY)
        event_id = answer.json["event_id"]
        received.wait_for(event_id)
        [got] = received.of(event_id)
        assert (got.headers["traceparent"][3:35] == trace) is continued
        assert (got.headers["traceparent"] == traceparent) is continued


# What HTTP itself does not allow

_POST = b"POST {path} HTTP/1.1\r\nhost: x\r\n"
BROKEN_HTTP: dict[str, bytes] = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET {path}\r\n\r\n",
    "an unknown method": b"BREW {path} HTTP/1.1\r\nhost: x\r\n\r\n",
    "CONNECT": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a length that is none": _POST + b"content-length: abc\r\n\r\n",
    "a negative length": _POST + b"content-length: -1\r\n\r\n",
    "a length beyond numbers": _POST + b"content-length: " + b"9" * 40 + b"\r\n\r\n",
    "two lengths": _POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}}",
    "length and chunks": _POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": _POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a header without a name": _POST + b": y\r\ncontent-length: 0\r\n\r\n",
    "a blank in a name": _POST + b"x y: z\r\ncontent-length: 0\r\n\r\n",
    "bytes in the path": _POST.replace(b"{path}", b"/\xff\xfe") + b"content-length: 0\r\n\r\n",
    "a control character in the path": _POST.replace(b"{path}", b"/\x01") + b"\r\n",
}


@pytest.mark.parametrize("what", BROKEN_HTTP)
def test_broken_http(stranger: Stranger, target: Target, what: str) -> None:
    try:
        answer = stranger.send(BROKEN_HTTP[what].replace(b"{path}", target.path.encode()), timeout_s=5)
    except (ConnectionError, TimeoutError):
        pytest.fail("there was no answer")
    assert answer.status in (400, 404, 405, 408, 413, 431), answer


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "\xff"])
def test_an_upgrade_is_not_taken(stranger: Stranger, target: Target, upgrade: str) -> None:
    headers = [
        ("upgrade", upgrade),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ]
    start = head("GET", target.path, headers, None).replace(b"connection: close", b"connection: upgrade")
    answer = stranger.send(start)
    assert answer.status in (400, 403, 404, 405), answer


@pytest.mark.parametrize("part", ["a header's value", "headers", "the path", "the query", "trailers"])
def test_a_head_without_an_end(stranger: Stranger, target: Target, hub: Hub, part: str) -> None:
    """However long a stranger goes on, the gateway stops listening before it costs memory."""
    signature = f"{SIGNATURE}: sha256=00\r\n".encode()
    start, more = {
        "a header's value": (b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: ", b"a" * 2**16),
        "headers": (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"x-a: b\r\n" * 2**13),
        "the path": (b"GET /api/webhooks/github/", b"a" * 2**16),
        "the query": (b"GET /api/deliveries?webhook_id=", b"a" * 2**16),
        "trailers": (
            head("POST", target.path, [("transfer-encoding", "chunked")], None)[:-2]
            + signature
            + b"\r\n0\r\n",
            b"x-a: b\r\n" * 2**13,
        ),
    }[part]
    sent = 0
    with (
        Memory(hub.pid("gateway")) as memory,
        socket.create_connection(("127.0.0.1", stranger.port), timeout=5) as connection,
        contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError),
    ):
        connection.sendall(start)
        for _ in range(640):
            connection.sendall(more)
            sent += len(more)
    assert sent < 32 * 2**20, "the gateway read 40 MiB"
    assert memory.grown < 16, f"{memory.grown:.0f} MiB more"


# Addresses

NOWHERE = (
    "/api/webhooks/github/ep_" + "0" * 32,
    "/api/webhooks/github/nothing",
    "/api/webhooks/github/" + "a" * 10_000,
    "/api/webhooks/github/%00",
    "/api/webhooks/github/%ff%fe",
    "/api/webhooks/github/",
    "/api/webhooks/nobody",
    "/api/webhooks/nobody/ep_" + "0" * 32,
    "/api/webhooks/",
    "/api/webhooks/incoming",
    "/api/webhooks/incoming/",
    "/api/webhooks/incoming/wrong",
    "/api/webhooks/incoming/%00",
    "/api/webhooks/incoming/" + "a" * 10_000,
)


def _message(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status, [item for item in answer.headers if item[0] != "date"], answer.body


def test_what_is_not_there_is_always_the_same_404(stranger: Stranger, target: Target, hub: Hub) -> None:
    """Unknown endpoint, wrong token, a token's endpoint, another provider: nothing tells them apart."""
    headers = _pairs(target.headers(BODY))
    first = stranger.request(NOWHERE[0], headers, BODY)
    _problem(first, 404)
    incoming = hub.call("POST", "/api/incoming-webhooks", {"name": "x", "target_channel_id": "c"})["id"]
    elsewhere = (
        f"/api/webhooks/incoming/{target.id}",
        f"/api/webhooks/github/{incoming}",
        f"/api/webhooks/incoming/{incoming}",
        f"/api/webhooks/GitHub/{target.id}",
        f"{target.path}/",
        f"{target.path}/more",
    )
    for path in (*NOWHERE, *elsewhere):
        assert _message(stranger.request(path, headers, BODY)) == _message(first), path
        assert _message(stranger.request(path, method="GET", length=None)) == _message(first), path
    for path in ("/api/webhooks/github/..%2f..%2fhealthz", "/api/webhooks//", f"{target.path}/../x"):
        _problem(stranger.request(path, headers, BODY), 400)


def test_an_unknown_endpoint_and_a_wrong_token_take_the_same_time(hub: Hub) -> None:
    elapsed: dict[str, list[float]] = {"github": [], "incoming": []}
    with httpx.Client(base_url=hub.url("gateway")) as client:
        for _ in range(150):
            for kind, times in elapsed.items():
                started = perf_counter()
                answer = client.post(f"/api/webhooks/{kind}/{token_hex(16)}", content=BODY)
                times.append(perf_counter() - started)
                assert answer.status_code == 404
    github, incoming = median(elapsed["github"]), median(elapsed["incoming"])
    assert abs(github - incoming) < 0.5 * max(github, incoming), elapsed


def test_disabled_is_410_and_enabled_again_202(stranger: Stranger, hub: Hub) -> None:
    target = _target(hub)
    path = f"/api/inbound-endpoints/{target.id}"
    assert hub.call("PATCH", path, {"enabled": False})["status"] == "inactive"
    _problem(stranger.request(target.path, _pairs(target.headers(BODY)), BODY), 410)
    hub.call("PATCH", path, {"enabled": True})
    assert stranger.request(target.path, _pairs(target.headers(BODY)), BODY).status == 202


def test_deleted_is_as_if_it_had_never_been(stranger: Stranger, hub: Hub) -> None:
    target, (incoming, _) = _target(hub), _incoming(hub)
    never = stranger.request(NOWHERE[0], _pairs(target.headers(BODY)), BODY)
    hub.call("DELETE", f"/api/inbound-endpoints/{target.id}", expect=204)
    assert _message(stranger.request(target.path, _pairs(target.headers(BODY)), BODY)) == _message(never)
    [results] = hub.call("GET", "/api/incoming-webhooks?limit=1")["items"]
    assert stranger.request(incoming, body=b'{"text":"x"}').status == 200
    hub.call("DELETE", f"/api/incoming-webhooks/{results['id']}", expect=204)
    assert _message(stranger.request(incoming, body=b'{"text":"x"}')) == _message(never)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post(stranger: Stranger, target: Target, hub: Hub, method: str) -> None:
    for path in (target.path, _incoming(hub)[0]):
        answer = stranger.request(path, _pairs(target.headers(BODY)), BODY, method=method)
        _problem(answer, 405)
        assert answer.header("allow") == "POST"


def test_an_address_that_is_not_on_the_list(stranger: Stranger, hub: Hub, impatient: Hub) -> None:
    """Only a trusted proxy may say for whom it speaks, and its own word, the last one, counts."""
    listed = _target(hub, allow_ips=["192.0.2.0/24", "2001:db8::/32"])

    def status(*forwarded: str, through: Stranger = stranger) -> int:
        pairs = [*_pairs(listed.headers(BODY)), *(("x-forwarded-for", item) for item in forwarded)]
        answer = through.request(listed.path, pairs, BODY)
        if answer.status != 202:
            _problem(answer, 403)
        return answer.status

    assert status() == 403
    assert status("192.0.2.7") == 202
    assert status("192.0.2.7 ") == 202
    assert status("2001:db8::1") == 202
    assert status("::ffff:192.0.2.7") == 202
    assert status("203.0.113.9, 192.0.2.7") == 202
    assert status("192.0.2.7, 203.0.113.9") == 403
    assert status("192.0.2.7", "203.0.113.9") == 403
    assert status("203.0.113.9", "192.0.2.7") == 202
    assert status("192.0.2.7:1234") == 202
    assert status("192.0.2.7, 127.0.0.1") == 202
    for odd in (
        "",
        " ",
        "unknown",
        "192.0.2",
        "192.0.2.07",
        "\xff",
        "a" * 4000,
        ",",
        "192.0.2.7,",
        "[192.0.2.7",
    ):
        assert status(odd) == 403, odd
    untrusting = Stranger(impatient.ports["gateway"])
    eventually(lambda: untrusting.request(listed.path, [], b"").status != 404)
    assert status("192.0.2.7", through=untrusting) == 403


def test_the_list_is_about_the_peer_itself(stranger: Stranger, hub: Hub) -> None:
    local = _target(hub, allow_ips=["127.0.0.1"])
    assert stranger.request(local.path, _pairs(local.headers(BODY)), BODY).status == 202
    hub.call("PATCH", f"/api/inbound-endpoints/{local.id}", {"allow_ips": ["192.0.2.1"]})
    _problem(stranger.request(local.path, _pairs(local.headers(BODY)), BODY), 403)


# Too much


def test_a_rate_limit(stranger: Stranger, target: Target, hub: Hub) -> None:
    limited = _target(hub, rate_limit=5)
    answers = [stranger.request(limited.path, _pairs(limited.headers(BODY)), BODY) for _ in range(8)]
    assert [answer.status for answer in answers] == [202] * 5 + [429] * 3
    for answer in answers[5:]:
        _problem(answer, 429)
        assert 1 <= int(answer.header("retry-after") or 0) <= 13
    assert stranger.request(target.path, _pairs(target.headers(BODY)), BODY).status == 202


def test_after_retry_after_it_is_accepted(stranger: Stranger, hub: Hub) -> None:
    limited = _target(hub, rate_limit=40)
    statuses = [0]
    while statuses[-1] != 429 and len(statuses) < 60:
        answer = stranger.request(limited.path, _pairs(limited.headers(BODY)), BODY)
        statuses.append(answer.status)
    assert statuses[-1] == 429
    sleep(int(answer.header("retry-after") or 0) + 0.6)
    assert stranger.request(limited.path, _pairs(limited.headers(BODY)), BODY).status == 202


def test_a_rate_limit_holds_for_those_who_come_together(stranger: Stranger, hub: Hub) -> None:
    """Thirty that were let in before the first was counted: still only five get through."""
    limited = _target(hub, rate_limit=5)
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(30):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", stranger.port), timeout=10)
            )
            start = head("POST", limited.path, _pairs(limited.headers(BODY)), len(BODY))
            connection.sendall(start + BODY[:-1])
            connections.append(connection)
        sleep(0.3)
        for connection in connections:
            connection.sendall(BODY[-1:])
        statuses = [stranger.read(connection, perf_counter()).status for connection in connections]
    assert statuses.count(202) == 5
    assert statuses.count(429) == 25


def test_incoming_webhooks_have_one_too(stranger: Stranger, hub: Hub) -> None:
    path, _ = _incoming(hub, rate_limit=2)
    answers = [stranger.request(path, body=b'{"text":"x"}') for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].header("retry-after")


def test_a_flood_of_bad_signatures(stranger: Stranger, target: Target, hub: Hub) -> None:
    """Whoever guesses is slowed down, at this endpoint and no other."""
    flooded = _target(hub)
    statuses: list[int] = []
    started = perf_counter()
    with httpx.Client(base_url=hub.url("gateway")) as client:
        while len(statuses) < 1500 and 429 not in statuses[-1:]:
            headers = flooded.headers(BODY, x_hub_signature_256="sha256=" + token_hex(32))
            answer = client.post(flooded.path, content=BODY, headers=headers)
            statuses.append(answer.status_code)
    assert statuses[-1] == 429
    assert set(statuses[:-1]) == {401}
    refilled = 10 * (perf_counter() - started)
    assert 500 <= len(statuses) <= 1000 + refilled, "ten a second are looked at anyway"
    assert int(answer.headers["retry-after"]) >= 1
    assert stranger.request(target.path, _pairs(target.headers(BODY)), BODY).status == 202


# The same again


def _published(tap: Tap, target: Target) -> list[str]:
    return [stored.attributes["delivery_id"] for stored in tap.look() if stored.key == target.id.encode()]


def test_a_repeat_is_accepted_and_published_once(
    stranger: Stranger, target: Target, received: Received, bus: Bus
) -> None:
    tap = Tap(bus, "webhooks.received")
    headers = _pairs(target.headers(BODY))
    first, *others = [stranger.request(target.path, headers, BODY) for _ in range(4)]
    assert first.status == 202
    assert "duplicate" not in first.json
    for other in others:
        assert other.status == 202
        assert other.json == {**first.json, "duplicate": True}
    event_id = first.json["event_id"]
    received.wait_for(event_id)
    last = stranger.request(target.path, _pairs(target.headers(BODY)), BODY)
    received.wait_for(last.json["event_id"])
    assert len(received.of(event_id)) == 1
    assert _published(tap, target).count(dict(headers)["x-github-delivery"]) == 1  # type: ignore[arg-type]


def test_fifty_of_the_same_at_once_are_published_once(
    stranger: Stranger, target: Target, received: Received, bus: Bus
) -> None:
    tap = Tap(bus, "webhooks.received")
    headers = _pairs(target.headers(BODY))
    ready = threading.Barrier(50)

    def post(_: int) -> Answer:
        ready.wait(60)
        return stranger.request(target.path, headers, BODY)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(post, range(50)))
    assert {answer.status for answer in answers} == {202}
    assert sum("duplicate" not in answer.json for answer in answers) == 1
    [event_id] = {answer.json["event_id"] for answer in answers}
    received.wait_for(event_id)
    last = stranger.request(target.path, _pairs(target.headers(BODY)), BODY)
    received.wait_for(last.json["event_id"])
    assert len(received.of(event_id)) == 1
    assert _published(tap, target).count(dict(headers)["x-github-delivery"]) == 1  # type: ignore[arg-type]


def test_without_a_window_a_repeat_is_published_again_and_is_the_same_event(
    impatient: Hub, target: Target
) -> None:
    """Memory turned off is not memory broken; those downstream know the repeat by its id."""
    forgetful = Stranger(impatient.ports["gateway"])
    headers = _pairs(target.headers(BODY))
    answers = [forgetful.request(target.path, headers, BODY) for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 202]
    assert answers[0].json == answers[1].json
    _unbroken(impatient.log_text("gateway"))


def test_the_same_delivery_id_at_another_endpoint_is_another_event(
    stranger: Stranger, target: Target, hub: Hub
) -> None:
    other = _target(hub)
    delivery = token_hex(8)
    answers = [
        stranger.request(item.path, _pairs(item.headers(BODY, delivery=delivery)), BODY)
        for item in (target, other)
    ]
    assert [answer.status for answer in answers] == [202, 202]
    assert answers[0].json["event_id"] != answers[1].json["event_id"]
    assert not any("duplicate" in answer.json for answer in answers)


# Incoming webhooks


@pytest.mark.parametrize(
    "keys",
    [
        (b"caf\xe9", b"caf\xe8"),
        ("\u0443\u0441".encode(), "\u043a\u0442".encode()),
        (b"a" * 300, b"a" * 299 + b"b"),
    ],
    ids=["Latin-1", "UTF-8", "long"],
)
def test_different_idempotency_keys_never_meet(
    stranger: Stranger, hub: Hub, keys: tuple[bytes, bytes]
) -> None:
    """Two messages under two keys are two messages, or the keys are refused: none is dropped in silence."""
    path, _ = _incoming(hub)
    answers = [
        stranger.request(path, [("idempotency-key", key)], b'{"text":"%d"}' % number)
        for number, key in enumerate(keys)
    ]
    if [answer.status for answer in answers] == [200, 200]:
        assert answers[0].json["message_id"] != answers[1].json["message_id"]
    else:
        for answer in answers:
            _problem(answer, 400)


def test_a_refusal_does_not_write_the_token_into_the_log(stranger: Stranger, hub: Hub) -> None:
    """The token is all that it takes to post: no refusal, of whatever kind, may leave it behind."""
    path, token = _incoming(hub, rate_limit=1)
    assert stranger.request(path, body=b"not JSON").status == 400
    assert stranger.request(path, method="GET").status == 405
    assert stranger.send(head("POST", path, [], 2 * LIMIT)).status == 413
    assert stranger.request(path, body=b'{"text":"x"}').status == 200
    assert stranger.request(path, body=b'{"text":"x"}').status == 429
    assert stranger.request(path + "x", body=b'{"text":"x"}').status == 404
    assert token not in hub.log_text("gateway")


# Anything

_NAMES = st.sampled_from(
    [
        "content-type",
        "content-encoding",
        "x-github-event",
        "x-github-delivery",
        SIGNATURE,
        "x-forwarded-for",
        "traceparent",
        "authorization",
        "idempotency-key",
        "expect",
        "cookie",
        "x-other",
        "forwarded",
    ]
)
_VALUES = st.binary(max_size=60) | st.sampled_from(
    [b"application/json", b"application/x-www-form-urlencoded", b"gzip", b"push", b"100-continue", b"1.2.3.4"]
)
_BODIES = (
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=10),
        lambda c: st.lists(c) | st.dictionaries(st.text(max_size=5), c),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([BODY, gzip.compress(BODY), b"payload=" + BODY])
)


@pytest.fixture(scope="module")
def aims(hub: Hub, target: Target) -> list[str]:
    return [target.path, NOWHERE[0], _incoming(hub, rate_limit=100_000)[0], "/api/webhooks/github"]


@given(
    which=st.integers(0, 3),
    method=st.sampled_from(["POST"] * 6 + ["GET", "PUT", "HEAD", "OPTIONS"]),
    headers=st.lists(st.tuples(_NAMES, _VALUES), max_size=6),
    body=_BODIES,
    sign=st.booleans(),
    chunked=st.booleans(),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_else(
    stranger: Stranger,
    target: Target,
    aims: list[str],
    which: int,
    method: str,
    headers: list[tuple[str, bytes]],
    body: bytes,
    sign: bool,
    chunked: bool,
) -> None:
    """Only the statuses that the API document names, always, and soon."""
    if sign:
        replaced = {name for name, _ in headers}
        headers = headers + [
            (name, value.encode()) for name, value in target.headers(body).items() if name not in replaced
        ]
    if chunked and body and method != "HEAD":
        pairs = [*headers, ("transfer-encoding", b"chunked")]
        pieces = [head(method, aims[which], pairs, None), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)]
    else:
        pieces = [head(method, aims[which], headers, len(body)), body]
    if method == "HEAD":
        pieces = [head("HEAD", aims[which], headers, None)]
    answer = stranger.send(*pieces)
    if answer.status == 422 and which == 2:
        assert answer.json["errors"]  # an incoming webhook's message, well formed, with fields that are not
    else:
        assert answer.status in DECLARED, answer
    assert answer.seconds < 5

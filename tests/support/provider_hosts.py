"""Hosts of third parties on this machine: real HTTP over TLS, strict, behind an egress proxy.

A service finds them as it would find the real ones: it resolves the host's name, refuses internal addresses,
asks the proxy to connect, and verifies the host's certificate. The one thing that a machine without the
Internet lacks is the name: `python -m tests.support.provider_hosts gateway` runs it with a system resolver
that knows the names in `TEST_NAMES` (JSON, name or `*.suffix` to address). A browser goes to the same hosts
through the same proxy.
"""

import http.client
import importlib
import json
import os
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import h11

from shared.runtime.egress.resolver import DnsResolver
from tests.support import capture
from tests.support.certificates import Authority
from tests.support.eventually import eventually

NAMES: Final = "TEST_NAMES"
"""The environment variable with the names that a service's resolver knows."""
PUBLIC: Final = "8.8.8.8"
"""What the platforms' names resolve to: an address that may be called, and never is."""
FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"

_MAX_HEAD: Final = 64 * 1024
_MAX_BODY: Final = 1024 * 1024
_LOOK_S: Final = 0.05
"""How soon a connection that waits notices that its host is down, or that the test is over."""
_PATIENCE_S: Final = 10.0
_FORWARD_S: Final = 60.0

T = TypeVar("T")
Fields = Mapping[str, str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class HostRequest:
    """One request, as it came. `path` is as it was sent, `query` is decoded, header names are lower-case.

    Its methods raise AssertionError when the request is not in the form that they read.
    """

    method: str
    host: str
    path: str
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def media_type(self) -> str:
        """The content type without its parameters; empty when there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def params(self) -> dict[str, str]:
        """The query; no name may be there twice."""
        doubled = sorted(name for name, values in self.query.items() if len(values) != 1)
        assert not doubled, f"the query has {doubled} more than once"
        return {name: values[0] for name, values in self.query.items()}

    def form(self) -> dict[str, str]:
        """The body, which has to be a form in which no name is there twice."""
        assert self.media_type == FORM, f"the body is {self.media_type or 'of no type'}, not a form"
        pairs = _pairs(self.body.decode("ascii"))
        found = dict(pairs)
        assert len(found) == len(pairs), f"the form has a name twice: {[name for name, _ in pairs]}"
        return found

    def json(self) -> Any:
        """The body, which has to be JSON in which no object has a name twice."""
        assert self.media_type == JSON, f"the body is {self.media_type or 'of no type'}, not JSON"
        return json.loads(self.body, object_pairs_hook=_once)


@dataclass(frozen=True)
class Reply:
    """What a platform answers. With the status 0 the connection ends without an answer.

    With `cut`, it ends after so many bytes of the body, `hold_s` seconds later.
    """

    status: int
    body: bytes = b""
    headers: Fields = ()
    cut: int | None = None
    hold_s: float = 0.0

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The headers as pairs, in their order."""
        return list(self.headers.items() if isinstance(self.headers, Mapping) else self.headers)

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Self:
        """JSON; in the names of headers `_` stands for `-`."""
        return cls(status, json.dumps(value).encode(), _typed(f"{JSON}; charset=utf-8", headers))

    @classmethod
    def form(cls, values: Mapping[str, str], status: int = 200, **headers: str) -> Self:
        """A form, as some platforms answer."""
        return cls(status, urlencode(values).encode(), _typed(f"{FORM}; charset=utf-8", headers))

    @classmethod
    def html(cls, text: str, status: int = 200, **headers: str) -> Self:
        """A page for a browser."""
        return cls(status, text.encode(), _typed("text/html; charset=utf-8", headers))

    @classmethod
    def redirect(cls, url: str) -> Self:
        """302 to a URL."""
        return cls(302, b"", {"location": url})

    @classmethod
    def gone(cls) -> Self:
        """The connection ends after the request was read, and nothing is said."""
        return cls(0)


Handler = Callable[[HostRequest], Reply]


class Forward:
    """A handler that hands requests on to an HTTP server on this machine, with the header that says TLS.

    A server that closes the connection without an answer is passed on as that; one that is not there is 502.
    Answers are handed on when they are whole.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self, request: HostRequest) -> Reply:
        target = request.path
        if request.query:
            target += "?" + urlencode(request.query, doseq=True)
        hop = ("connection", "keep-alive", "transfer-encoding", "content-length", "accept-encoding")
        sent = {name: value for name, value in request.headers.items() if name not in hop}
        sent |= {"x-forwarded-proto": "https", "x-forwarded-host": request.host, "connection": "close"}
        if request.body or request.method in {"POST", "PUT", "PATCH"}:
            sent["content-length"] = str(len(request.body))
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_FORWARD_S)
        try:
            connection.request(request.method, target, body=request.body or None, headers=sent)
            answer = connection.getresponse()
            fields = [(name, value) for name, value in answer.getheaders() if name.lower() not in hop]
            return Reply(answer.status, answer.read(), fields)
        except ConnectionRefusedError:
            return Reply(502)
        except (ConnectionError, http.client.RemoteDisconnected):
            return Reply.gone()
        finally:
            connection.close()


class ProviderHosts:
    """An HTTP proxy that leads to these hosts only, and the hosts, each with a handler.

    A host is a name, or `*.name` for every name with one label more; it is TLS on port 443. A host with a
    port (`127.0.0.1:8080`) is plain HTTP through the proxy. Handlers run in threads, several at a time; they
    may sleep, and raise for what is wrong with a request.

    Whatever is not as it should be stands in `faults`, a line each: what a handler raised (answered with
    500), a host that is not there, no TLS, a name in TLS or in `Host` that is not the host's. A client that
    goes away is no fault. `asked` are the requests and `connected` the hosts of the tunnels, both in order.
    A browser's request for `/favicon.ico` is answered with 404 and not kept.

    A request body of more than `max_body` bytes is a fault, too, and ends the connection.

    A host that was taken down refuses connections: the proxy answers 502.
    """

    def __init__(self, hosts: Mapping[str, Handler], *, max_body: int = _MAX_BODY) -> None:
        self._max_body = max_body
        self.asked: list[HostRequest] = []
        self.connected: list[str] = []
        self.faults: list[str] = []
        self._down: set[str] = set()
        self._tunnels: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._hosts = dict(hosts)
        self._names = sorted(host for host in hosts if ":" not in host)
        self._ports = [int(host.rpartition(":")[2]) for host in hosts if ":" in host]
        self._authority = Authority("authority of platforms")
        self._tls = _server_tls(self._authority.pair("platforms", *self._names))
        self._tls.sni_callback = self._named
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._serve)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_LOOK_S,), daemon=True)
        self.proxy = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        capture.exclude_ports(*self._ports)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        capture.include_ports(*self._ports)
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def take_down(self, host: str) -> None:
        """Let a host refuse connections; returns when those that were open to it have ended."""
        with self._lock:
            self._down.add(host)
        eventually(lambda: not self._tunnels[host], every_s=0.01)

    def bring_up(self) -> None:
        """Let every host answer again."""
        self._down.clear()

    def env(self, folder: Path, names: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a service that is to find the hosts; `names` are further ones with addresses."""
        return {
            "INTERLINK_EGRESS_PROXY": self.proxy,
            "INTERLINK_EGRESS_CA_FILE": str(self.authority(folder)),
            NAMES: json.dumps(dict.fromkeys(self._names, PUBLIC) | dict(names or {})),
        }

    def authority(self, folder: Path) -> Path:
        """A file with the certificate of the authority that the hosts' certificates are from."""
        file = folder / "platforms.pem"
        file.write_text(self._authority.pem)
        return file

    def requests(self, host: str, path: str | None = None) -> list[HostRequest]:
        """What a host was asked so far, all of it or one path."""
        return [one for one in list(self.asked) if one.host == host and path in (None, one.path)]

    def _named(self, _socket: Any, name: str | None, _context: Any) -> int | None:
        known = name is not None and _known(name, self._hosts) is not None
        return None if known else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._as_proxy(_Peer(connection, self._over.is_set, self._max_body))
        except (_Gone, ConnectionError, ssl.SSLEOFError, TimeoutError):
            pass  # a client that went away
        except (OSError, ValueError, h11.RemoteProtocolError) as error:
            self.faults.append(repr(error))

    def _as_proxy(self, peer: "_Peer") -> None:
        while True:
            head = peer.head()
            method, target = head.method.decode(), head.target.decode("ascii")
            if method == "CONNECT":
                return self._tunnel(peer, target.removesuffix(":443"))
            url = urlsplit(target)
            handler = self._hosts.get(url.netloc) if url.scheme == "http" else None
            if handler is None:
                peer.answer(Reply(403))
                raise ValueError(f"the proxy was asked for {method} {target}")
            if url.netloc in self._down:
                return peer.answer(Reply(502))
            if not self._answer(peer, head, url.netloc, handler):
                return None

    def _tunnel(self, peer: "_Peer", host: str) -> None:
        handler = _known(host, self._hosts)
        if handler is None:
            peer.answer(Reply(403))
            raise ValueError(f"the proxy was asked for CONNECT {host}")
        with self._lock:
            is_down = host in self._down
            if not is_down:
                self._tunnels[host] += 1
        if is_down:
            return peer.answer(Reply(502))
        try:
            self.connected.append(host)
            peer.socket.settimeout(_PATIENCE_S)
            peer.socket.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self._tls.wrap_socket(peer.socket, server_side=True) as secure:
                inner = _Peer(secure, lambda: self._over.is_set() or host in self._down, self._max_body)
                while self._answer(inner, inner.head(), host, handler):
                    pass
        finally:
            with self._lock:
                self._tunnels[host] -= 1
        return None

    def _answer(self, peer: "_Peer", head: h11.Request, host: str, handler: Handler) -> bool:
        """Whether the connection can be used again."""
        body = peer.body()
        request = None
        try:
            request = _asked(head, host, body)
            if request.path == "/favicon.ico":
                return peer.done(Reply(404))
            self.asked.append(request)
            reply = handler(request)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the test has to hear of it
            where = f"{head.method.decode()} {host}{request.path if request else ''}"
            self.faults.append(f"{where}: {_message(error)}")
            reply = Reply(500, b"the request is not as it should be: see the faults")
        return peer.done(reply)


class _Gone(Exception):
    """The client has closed its side, or nobody needs the connection any more."""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], serve: Callable[[socket.socket], None]) -> None:
        class Each(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        super().__init__(address, Each)


class _Peer:
    """The server's side of one connection; `over` says whether it has to end while it waits for a request."""

    def __init__(self, connection: socket.socket, over: Callable[[], bool], max_body: int) -> None:
        self.socket = connection
        self._max_body = max_body
        self._over = over
        self._method = b""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)

    def head(self) -> h11.Request:
        """The next request's head, however long it takes."""
        event = self._next(patience_s=float("inf"))
        assert isinstance(event, h11.Request)
        self._method = event.method
        return event

    def body(self) -> bytes:
        """The whole body of the request whose head was read."""
        got = bytearray()
        while not isinstance(event := self._next(_PATIENCE_S), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            got += event.data
            if len(got) > self._max_body:
                raise ValueError(f"a body of more than {self._max_body} bytes")
        return bytes(got)

    def done(self, reply: Reply) -> bool:
        """Answer; whether another request may come."""
        if reply.status == 0:
            return False
        self.answer(reply)
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def answer(self, reply: Reply) -> None:
        fields = [(name, value) for name, value in reply.fields if name.lower() != "content-length"]
        bare = reply.status in {204, 304}
        if not bare:
            fields.append(("content-length", str(len(reply.body))))
        head = h11.Response(
            status_code=reply.status,
            reason=http.client.responses.get(reply.status, "").encode(),
            headers=fields,
        )
        data = h11.Data(data=b"" if bare or self._method == b"HEAD" else reply.body[: reply.cut])
        events = (head, data) if reply.cut is not None else (head, data, h11.EndOfMessage())
        sent = [self._http.send(event) or b"" for event in events]
        self.socket.settimeout(_PATIENCE_S)
        self.socket.sendall(b"".join(sent))
        until = time.monotonic() + reply.hold_s
        while time.monotonic() < until and not self._over():
            time.sleep(_LOOK_S)

    def _next(self, patience_s: float) -> Any:
        self.socket.settimeout(_LOOK_S)
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                chunk = self.socket.recv(65536)
            except TimeoutError:
                patience_s -= _LOOK_S
                if self._over() or patience_s < 0:
                    raise _Gone from None
                continue
            if not chunk:
                raise _Gone
            self._http.receive_data(chunk)
        if isinstance(event, h11.ConnectionClosed):
            raise _Gone
        return event


def _asked(head: h11.Request, host: str, body: bytes) -> HostRequest:
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name = raw_name.decode("ascii").lower()
        assert name not in headers, f"the header {name} is there twice"
        headers[name] = raw_value.decode("latin-1")
    assert headers["host"] == host, f"Host is {headers['host']}"
    url = urlsplit(head.target.decode("ascii"))
    query: dict[str, list[str]] = {}
    for name, value in _pairs(url.query):
        query.setdefault(name, []).append(value)
    return HostRequest(head.method.decode(), host, url.path or "/", query, headers, body)


def _message(error: Exception) -> str:
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} at {Path(place.filename).name}:{place.lineno}"


def _pairs(text: str) -> list[tuple[str, str]]:
    if not text:
        return []
    return parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), f"an object has a name twice: {[name for name, _ in pairs]}"
    return found


def _typed(media_type: str, headers: Mapping[str, str]) -> dict[str, str]:
    return {"content-type": media_type} | {name.replace("_", "-"): value for name, value in headers.items()}


def _known(name: str, names: Mapping[str, T]) -> T | None:
    """What is known of a name: itself, or as one of `*.suffix`."""
    return names.get(name) or names.get(f"*.{name.partition('.')[2]}")


def _server_tls(pair: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(pair))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def know(names: Mapping[str, str]) -> None:
    """Put names before those of DNS; what they resolve to is checked as ever."""
    ask_dns = DnsResolver.lookup

    async def lookup(self: DnsResolver, host: str, workspace: str) -> tuple[str, ...]:
        address = _known(host, names)
        return (address,) if address is not None else await ask_dns(self, host, workspace)

    DnsResolver.lookup = lookup  # type: ignore[method-assign]  # what this module is for


if __name__ == "__main__":
    from shared.runtime.service import run

    know(json.loads(os.environ[NAMES]))
    service = sys.argv[1]
    run(service, importlib.import_module(f"services.{service}.app").build)

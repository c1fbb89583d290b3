"""A provider's API on this machine, over TLS: GitLab's addresses, with what a test makes of the answers.

A server of one's own is what GitLab accounts may be at, so a test needs no other names than this machine's.
It issues tokens too (`/oauth`), and refuses those that it revoked.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_hex
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.support.certificates import Authority, server_tls
from tests.support.recorded_secrets import record_secret

_PATIENCE_S: Final = 30.0
_CHUNK: Final = 64 * 1024


class ApiServer:
    """The API. `seen` are the requests below `/api/v4/` but for `user`; `answers` replace its own."""

    def __init__(self, authority: Authority) -> None:
        self.seen: list[dict[str, Any]] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        """By the first part of the path below `/api/v4/`."""
        self.refreshes = 0
        self.access_tokens: dict[str, str] = {}
        """Accounts by token."""
        self._refresh_tokens: dict[str, str] = {}
        self.waiting = 0
        self.sent = 0
        """Bytes that `endless` has sent."""
        self._gate = threading.Event()
        self._server = _server(self)
        self._server.socket = server_tls(authority).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.set()
        self._server.shutdown()
        self._server.server_close()

    def token(self, account: str) -> str:
        """A new access token of an account."""
        made = f"glpat-{token_hex(16)}"
        record_secret("an access token", made)
        self.access_tokens[made] = account
        return made

    def tokens(self, account: str) -> dict[str, Any]:
        """What the token endpoint answers."""
        refresh = f"rt-{token_hex(16)}"
        record_secret("a refresh token", refresh)
        self._refresh_tokens[refresh] = account
        return {
            "access_token": self.token(account),
            "refresh_token": refresh,
            "token_type": "Bearer",
            "expires_in": 7200,
            "scope": "read_user api",
        }

    def spoil(self, account: str) -> None:
        """The access tokens of an account end before their time."""
        for token in [token for token, owner in self.access_tokens.items() if owner == account]:
            del self.access_tokens[token]

    def let_go(self) -> None:
        """End what `slow` waits for."""
        self._gate.set()

    # What it answers.

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        if url.path == "/oauth/authorize":
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            back = urlencode({"code": f"code-of-{query['state'][:8]}", "state": query["state"]})
            return reply(request, 302, b"", [("Location", f"{query['redirect_uri']}?{back}")])
        if url.path == "/oauth/token":
            return self._token(request)
        if not url.path.startswith("/api/v4/"):
            return reply(request, 404)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        account = self.access_tokens.get(token) if scheme == "Bearer" else None
        below = url.path.removeprefix("/api/v4/")
        if below == "user" and account:
            page = {"id": account, "username": account, "web_url": f"{self.url}/{account}"}
            return reply_json(request, page)
        if account is None:
            body(request)
            return reply_json(request, {"error": "invalid_token"}, 401)
        return self._answer(request, below, url.query, account)

    def _answer(self, request: BaseHTTPRequestHandler, below: str, query: str, account: str) -> None:
        first = below.partition("/")[0]
        entry: dict[str, Any] = {
            "method": request.command,
            "path": below,
            "query": query,
            "account": account,
            "headers": [
                (name.lower(), value)
                for name, value in request.headers.items()
                if name.lower() != "authorization"  # `account` says whose it is, and nobody sees the token
            ],
        }
        self.seen.append(entry)
        if first in self.answers:
            return self.answers[first](request)
        if first == "endless":
            return self._endless(request)
        if first == "slow":
            self.waiting += 1
            self._gate.wait(_PATIENCE_S)
            self.waiting -= 1
        sent = body(request)
        entry["body"] = sent
        return reply_json(request, {**entry, "body": len(sent)})

    def _token(self, request: BaseHTTPRequestHandler) -> None:
        form = {name: values[0] for name, values in parse_qs(body(request).decode()).items()}
        if form["grant_type"] == "authorization_code":
            return reply_json(request, self.tokens(form["code"]))
        account = self._refresh_tokens.pop(form["refresh_token"], None)
        if account is None:
            return reply_json(request, {"error": "invalid_grant"}, 400)
        self.refreshes += 1
        return reply_json(request, self.tokens(account))

    def _endless(self, request: BaseHTTPRequestHandler) -> None:
        body(request)
        self.sent = 0
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            write_chunk(request, bytes(_CHUNK))
            self.sent += _CHUNK
        request.close_connection = True


def body(request: BaseHTTPRequestHandler) -> bytes:
    """The whole body of a request, chunked or not."""
    if request.headers.get("transfer-encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("content-length", "0")))
    chunks = []
    while size := int(request.rfile.readline().strip() or b"0", 16):
        chunks.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(chunks)


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    content: bytes = b"",
    headers: Any = (),
    *,
    length: bool = True,
) -> None:
    """Answer; without `length` in chunks."""
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    if length:
        request.send_header("Content-Length", str(len(content)))
    else:
        request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    if request.command == "HEAD":
        return
    if length:
        request.wfile.write(content)
        return
    for start in range(0, len(content), _CHUNK):
        write_chunk(request, content[start : start + _CHUNK])
    write_chunk(request, b"")


def reply_json(request: BaseHTTPRequestHandler, value: Any, status: int = 200, headers: Any = ()) -> None:
    """Answer with JSON."""
    reply(request, status, json.dumps(value).encode(), [("Content-Type", "application/json"), *headers])


def write_chunk(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Write one chunk; an empty one is the end."""
    request.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))


def _server(api: ApiServer) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self._do
            raise AttributeError(name)

        def _do(self) -> None:
            try:
                api.handle(self)
            except OSError:  # the other side has had enough
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name is the library's
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a connection that broke off

    return Server(("127.0.0.1", 0), Handler)

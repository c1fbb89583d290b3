"""A strict authorization server that a test can bend: RFC 6749 with PKCE, rotation and revocation.

What npm's servers cannot be made to do is done here: refresh tokens that work again for a while, answers
without their parts, requests that wait until the test lets them go on.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, Self
from urllib.parse import parse_qs, urlsplit

from tests.support import capture
from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Account, Grant, Place, Refused, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply

_PATIENCE_S: Final = 30.0


class RotatingServer(Fake):
    """One app. `says` replaces fields of the token endpoint's answers; None leaves them out.

    `hold`: refresh requests wait unanswered until `let_go`; `waiting` is how many do. `latest_only`: an
    access token ends when the next one is given for the grant. `refuse_all`: no access token is taken.
    A refresh token that was used is nothing to the revocation endpoint.
    """

    name = "the rotating server"
    authorize_may: ClassVar = frozenset({"prompt"})
    refresh_may: ClassVar = frozenset({"redirect_uri"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.says: dict[str, Any] = {}
        self.latest_only = False
        self.refuse_all = False
        self.waiting = 0
        self._together = threading.Barrier(1)
        self.faults: list[str] = []
        self._open = threading.Event()
        self._open.set()
        self._handle = self.on(
            {
                "GET /authorize": self.authorize,
                "POST /token": self.token,
                "POST /revoke": self.revoke,
                "GET /me": self.me,
                "GET /closed": self.closed,
            }
        )
        self._server = _server(self)
        self._port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        capture.exclude_ports(self._port)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        capture.include_ports(self._port)
        self._open.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def settings(self) -> dict[str, str]:
        """Of the hub's app here."""
        paths = {
            "authorize_url": "authorize",
            "token_url": "token",
            "userinfo_url": "me",
            "revoke_url": "revoke",
        }
        return {name: f"{self.url}/{path}" for name, path in paths.items()}

    def login(self, name: str) -> None:
        """Who logs in from now on."""
        self.accounts = [Account(name, name.title(), f"{name}@example.com", (Place(name, name),))]

    def issue(self) -> dict[str, str]:
        """Tokens for whoever logs in, that the hub knows nothing of."""
        asked = HostRequest("GET", "", "/authorize", {}, {}, b"")
        grant = Grant(self.accounts[0], ("openid",), asked, {}, first=True)
        self._grants.append(grant)
        access = self.give("access", grant, self.lifetime_s, f"at-{self.new_code()}")
        refresh = self.give("refresh", grant, self.refresh_lifetime_s, f"rt-{self.new_code()}")
        return {"access_token": access.value, "refresh_token": refresh.value}

    def spoil(self, account: str) -> None:
        """The access tokens of an account end before their time."""
        for token in self._tokens.values():
            if token.kind == "access" and token.grant.account.id == account:
                token.live = False

    def hold(self) -> None:
        """Let refresh requests wait."""
        self._open.clear()

    def let_go(self) -> None:
        """Let them go on."""
        self._open.set()

    def together(self, requests: int) -> None:
        """Let the next requests for the user info wait until there are so many, and answer them at once."""

        def once() -> None:
            self._together = threading.Barrier(1)

        self._together = threading.Barrier(requests, once)

    def handle(self, request: HostRequest) -> Reply:
        """One request; what is wrong with it stands in `faults`."""
        if (
            request.path == "/token"
            and b"grant_type=refresh_token" in request.body
            and not self._open.is_set()
        ):
            self.waiting += 1
            self._open.wait(_PATIENCE_S)
            self.waiting -= 1
        if request.path == "/me":
            self._together.wait(_PATIENCE_S)
        try:
            return self._handle(request)
        except AssertionError as error:
            self.faults.append(f"{request.method} {request.path}: {error}")
            return Reply(500)

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=False)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        if self.latest_only:
            self.spoil(grant.account.id)
        access = self.give("access", grant, self.lifetime_s, f"at-{self.new_code()}")
        answer: dict[str, Any] = {
            "access_token": access.value,
            "token_type": "Bearer",
            "expires_in": self.seconds(),
            "scope": " ".join(grant.scopes),
        }
        if self.says.get("refresh_token", "") is not None:
            refresh = self.give("refresh", grant, self.refresh_lifetime_s, f"rt-{self.new_code()}", old=old)
            answer["refresh_token"] = refresh.value
        answer |= self.says
        return Reply.json({name: value for name, value in answer.items() if value is not None})

    def refusal(self, why: Why) -> Reply:
        if why in {"client", "secret", "style"}:
            return Reply.json({"error": "invalid_client", "error_description": why}, 401)
        return Reply.json({"error": "invalid_grant", "error_description": f"the token: {why}"}, 400)

    def me(self, request: HostRequest) -> Reply:
        """The user info."""
        token = None if self.refuse_all else self.access(bearer(request))
        if token is None:
            return Reply.json({"error": "invalid_token"}, 401)
        account = token.grant.account
        return Reply.json({"sub": account.id, "name": account.name, "email": account.email})

    def closed(self, request: HostRequest) -> Reply:
        """What no token opens; 401 where others say 403."""
        assert self.known(bearer(request), "access"), "that is no token of ours"
        return Reply.json({"error": "not_for_you"}, 401)

    def revoke(self, request: HostRequest) -> Reply:
        """RFC 7009: 200 also for a token that is not known."""
        try:
            fields = self.authenticated(request)
        except Refused as refused:
            return self.refusal(refused.why)
        token = self.known(fields["token"], "refresh") or self.known(fields["token"], "access")
        if token is not None and token.grant.live and token.used_at is None:
            self.end(token.grant)
        return Reply(200)


def _server(fake: RotatingServer) -> ThreadingHTTPServer:
    class Each(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def _do(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = parse_qs(url.query, keep_blank_values=True)
            reply = fake.handle(HostRequest(self.command, headers["host"], url.path, query, headers, body))
            if reply.status == 0:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.fields:
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name is the library's
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    return Server(("127.0.0.1", 0), Each)

"""Authorization servers that others wrote, as processes of this machine, from npm.

`OidcProvider` is strict: PKCE, consent, refresh tokens that rotate. `MockServer` takes everything. Both count
what they did and can be made to misbehave at the token endpoint. They end with the test, however it ends.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import httpx

from tests.support import capture
from tests.support.npm import Unavailable, installed
from tests.support.recorded_secrets import record_secret

_PACKAGE: Final = Path(__file__).parent / "authorization"
_MONTH_S: Final = 30 * 24 * 3600


@dataclass(frozen=True)
class Client:
    """An application that is registered with an authorization server."""

    id: str
    secret: str
    redirect_uris: Sequence[str]
    auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"


@dataclass(frozen=True)
class Stats:
    """What a server did since it was started.

    `called` counts the requests to the token endpoint by grant type, `granted` those that were answered with
    tokens, `refused` the others by grant type and error (`given 503` is an answer of `fail_next`), `lost`
    those whose answer went nowhere. `revoked` counts the successful calls of the revocation endpoint.
    `events` are the server's own (`refresh_token.consumed`, `grant.revoked`, `userinfo.401`). `secrets` are
    the codes and tokens that it gave out, which must not be seen elsewhere. `faults` are errors inside it.
    """

    called: Mapping[str, int] = field(default_factory=dict)
    granted: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    lost: int = 0
    revoked: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    faults: Sequence[str] = ()
    secrets: Sequence[str] = ()

    def since(self, before: "Stats") -> "Stats":
        """What was done after `before` was read; what was not done is not counted."""
        return Stats(
            called=_more(self.called, before.called),
            granted=_more(self.granted, before.granted),
            refused={
                grant_type: more
                for grant_type, counts in self.refused.items()
                if (more := _more(counts, before.refused.get(grant_type, {})))
            },
            lost=self.lost - before.lost,
            revoked=self.revoked - before.revoked,
            events=_more(self.events, before.events),
            faults=self.faults[len(before.faults) :],
            secrets=self.secrets[len(before.secrets) :],
        )


class AuthServer:
    """A running server. `url` is its issuer, without a slash at the end; `port` is where it listens."""

    authorize_path: str
    token_path = "/token"
    userinfo_path: str
    revoke_path: str
    introspect_path: str

    def __init__(self, script: str, settings: Mapping[str, Any], url: str | None = None) -> None:
        self._script = script
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed when the process has ended
        self._control = ""
        self._ports: tuple[int, ...] = ()
        self.port = 0
        self.url = url or ""

    def __enter__(self) -> Self:
        """Raises Unavailable when the machine has no node or npm."""
        node = shutil.which("node")
        if node is None:
            raise Unavailable("the authorization servers run on node, which is not on the PATH")
        self._process = subprocess.Popen(
            [node, self._script],
            cwd=installed(_PACKAGE),
            env=os.environ | {"SETTINGS": json.dumps(self._settings)},
            stdin=subprocess.PIPE,  # it ends when this does
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(60)
            raise RuntimeError(f"{self._script} did not start:\n{self._message()}")
        ports = json.loads(line)
        self.port = ports["port"]
        self.url = self.url or f"http://127.0.0.1:{self.port}"
        self._control = f"http://127.0.0.1:{ports['control']}"
        self._ports = tuple(ports.values())
        capture.exclude_ports(*self._ports)
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            self.note()
            capture.include_ports(*self._ports)
            assert process.stdin
            assert process.stdout
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        self._log.close()

    @property
    def authorize_url(self) -> str:
        return self.url + self.authorize_path

    @property
    def token_url(self) -> str:
        return self.url + self.token_path

    @property
    def userinfo_url(self) -> str:
        return self.url + self.userinfo_path

    @property
    def revoke_url(self) -> str:
        return self.url + self.revoke_path

    @property
    def introspect_url(self) -> str:
        return self.url + self.introspect_path

    def stats(self) -> Stats:
        """What it did so far."""
        found = Stats(**self._tell("GET", "stats"))
        record_secret("a code, token or verifier of an npm server", *found.secrets)
        return found

    def note(self) -> None:
        """Note what it has given out; a server that somebody has killed has told it before."""
        with suppress(httpx.HTTPError):
            self.stats()

    def fail_next(
        self, status: int, body: Any = None, *, times: int = 1, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer the next token requests so, before the server sees them: JSON, or bytes as they are."""
        text = body.decode() if isinstance(body, bytes) else "" if body is None else json.dumps(body)
        kind = {} if isinstance(body, bytes) else {"content-type": "application/json"}
        given = {"status": status, "headers": {**kind, **(headers or {})}, "body": text}
        self._tell("POST", "settings", {"next": [given] * times})

    def lose_next(self, times: int = 1) -> None:
        """Do what the next token requests ask for, and close the connection instead of answering."""
        self._tell("POST", "settings", {"next": [{"lost": True}] * times})

    def slow(self, seconds: float) -> None:
        """From now on, wait so long before a token request is looked at; 0 ends it."""
        self._tell("POST", "settings", {"slow_s": seconds})

    def _tell(self, method: str, command: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = httpx.request(method, f"{self._control}/{command}", json=body, timeout=10, trust_env=False)
        assert answer.status_code == 200, f"{command}: {answer.text}\n{self._message()}"
        return dict(answer.json())

    def _message(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-3000:]


class OidcProvider(AuthServer):
    """The npm package oidc-provider: strict, with a page where a browser logs in and consents.

    Every login name is an account: it is the `sub` of the user info, which also has `name` with the scope
    `profile` and `email` with the scope `email`. A refresh token needs the scope `offline_access` together
    with `prompt=consent` (OpenID Connect Core 11). It is replaced at every use; using an old one again ends
    the grant with all its tokens. A redirect carries `iss` (RFC 9207). On the page are `#login` and
    `#sign-in`, then `#account`, `#client`, `#scopes`, `#allow` and `#deny`; an error is in `#error`.

    `issuer` is its address for others, when TLS is in front of it (`Forward` of `platforms.py`). Lifetimes
    are in seconds. `scopes` are those that may be asked for beside `openid` and `offline_access`. With
    `claims`, by login name, ID tokens have these and the user info.
    """

    authorize_path = "/auth"
    userinfo_path = "/me"
    revoke_path = "/token/revocation"
    introspect_path = "/token/introspection"

    def __init__(
        self,
        clients: Sequence[Client],
        *,
        issuer: str | None = None,
        access_token_s: int = 60,
        refresh_token_s: int = _MONTH_S,
        code_s: int = 60,
        scopes: Sequence[str] = ("profile", "email", "read", "write"),
        claims: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        record_secret("a client secret", *(client.secret for client in clients))
        registered = [
            {
                "client_id": client.id,
                "client_secret": client.secret,
                "redirect_uris": list(client.redirect_uris),
                "token_endpoint_auth_method": client.auth,
                "grant_types": ["authorization_code", "refresh_token"],
            }
            for client in clients
        ]
        settings = {
            "clients": registered,
            "issuer": issuer,
            "access_token_s": access_token_s,
            "refresh_token_s": refresh_token_s,
            "code_s": code_s,
            "scopes": list(scopes),
            "claims": dict(claims or {}),
        }
        super().__init__("oidc.mjs", settings, issuer)

    def rotate(self) -> None:
        """Sign with a new key from now on, and publish only that."""
        self._tell("POST", "rotate", {})

    def forget(self, account: str) -> int:
        """End every grant of an account, as its owner can in the settings; how many there were."""
        return int(self._tell("POST", "forget", {"account": account})["forgotten"])


class MockServer(AuthServer):
    """The npm package oauth2-mock-server as it comes: takes every client, code and refresh token.

    It asks nobody and redirects at once. Its user is `johndoe`, its access tokens are JWTs of one hour. It
    checks the PKCE verifier only of a code that was asked for with a challenge.
    """

    authorize_path = "/authorize"
    userinfo_path = "/userinfo"
    revoke_path = "/revoke"
    introspect_path = "/introspect"

    def __init__(self) -> None:
        super().__init__("mock.mjs", {})


def _more(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: more for name, count in now.items() if (more := count - before.get(name, 0))}

"""Attacks by calls with connected accounts: other hosts, other accounts, and providers that never end.

The attacker has a GitLab account at a server of his own, which answers what he likes.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import httpx

from tests.attacks.attack import Attack, Setup
from tests.support.account_calls import AccountCalls
from tests.support.api_server import ApiServer, reply
from tests.support.certificates import Authority
from tests.support.hub import Hub
from tests.support.raw_http import exchange

_MIB = 1024 * 1024
_MAX_OPEN = 100
"""Calls of one workspace that run or wait in one process."""
_AUTHORITY = Authority("authority of hostile providers")
_FOLDER = TemporaryDirectory()
_CA_FILE = Path(_FOLDER.name) / "authority.pem"
_CA_FILE.write_text(_AUTHORITY.pem)
_SETUP = Setup(services=("gateway", "oauth"), env={"INTERLINK_EGRESS_CA_FILE": str(_CA_FILE)}, entrance=True)
_ENTRANCES = ("gateway", "oauth")


@contextmanager
def _calls(hub: Hub) -> Iterator[AccountCalls]:
    with ApiServer(_AUTHORITY) as api:
        yield AccountCalls(hub, api)


def _leave_the_host_by_the_path(hub: Hub) -> None:
    """Whatever the path is, only the provider's host is called, below its base."""
    inside = f"127.0.0.1:{hub.ports['gateway']}"
    paths = (
        f"@{inside}/metrics",
        f"%40{inside}/metrics",
        f".{inside}/metrics",
        f"//{inside}/metrics",
        f"%2f%2f{inside}/metrics",
        f"%252f%252f{inside}/metrics",
        f"http://{inside}/metrics",
        f"http:%2f%2f{inside}/metrics",
        f"http:/{inside}/metrics",
        f"\\\\{inside}/metrics",
        f"%5c%5c{inside}/metrics",
        "../../oauth/token",
        "%2e%2e/%2e%2e/oauth/token",
        "..%2f..%2foauth/token",
        "x/..;/..;/oauth/token",
        "%00/x",
        "x%0d%0aHost:%20evil.example",
        "x%20HTTP/1.1%0d%0aHost:%20evil.example",
        "?@evil.example",
        "%3f@evil.example",
        "%23@evil.example",
    )
    with _calls(hub) as world:
        account = world.with_token()
        for at in _ENTRANCES:
            for path in paths:
                target = f"/api/integrations/{account}/proxy/{path}"
                key = [("authorization", f"Bearer {hub.admin_key}")]
                status, body = exchange(hub.ports[at], target, key, method="GET")
                assert status in (200, 400, 404), (path, status)
                assert b"interlink_" not in body, path
        assert {dict(seen["headers"])["host"] for seen in world.api.seen} == {f"127.0.0.1:{world.api.port}"}


def _be_redirected(hub: Hub) -> None:
    """A redirect into the network of the hub is not followed, and not given to callers that would."""
    with _calls(hub) as world:
        account = world.with_token()
        for at in _ENTRANCES:
            inside = f"{hub.url(at)}/metrics"
            for location in (inside, inside.replace("http:", ""), inside.replace("http:", "HTTP:")):
                headers = [("Location", location)]
                world.api.answers["away"] = lambda request, headers=headers: reply(  # type: ignore[misc]
                    request, 307, b"", headers
                )
                answer = world.send("POST", account, "away", at=at, content=b"x")
                assert answer.status_code == 307, answer.text
                # Another scheme is another address: no client takes the API key there.
                assert answer.headers.get("location", "https:").startswith("https:")
                assert b"interlink_" not in answer.content


def _use_another_s_account(hub: Hub) -> None:
    with _calls(hub) as world:
        account = world.with_token()
        stranger = hub.other_workspace()
        for at in _ENTRANCES:
            for method in ("GET", "POST", "DELETE"):
                answer = world.send(method, account, "projects", key=stranger, at=at)
                assert answer.status_code == 404, answer.text
        assert world.api.seen == []


def _exceed_the_limits_of_a_key(hub: Hub) -> None:
    """With another account, method or route, also by what some providers take for a method."""
    with _calls(hub) as world:
        own, other = world.with_token(user="usr_own"), world.with_token(user="usr_other")
        limits = {"integrations": [own, other], "user": "usr_own", "methods": ["GET", "POST"]}
        key = world.key(accounts=limits)["key"]
        for at in _ENTRANCES:
            refused = [
                world.send("GET", other, "projects", key=key, at=at),
                world.send("DELETE", own, "projects", key=key, at=at),
                world.send("GET", own, "projects?method=DELETE", key=key, at=at),
                world.send("GET", own, "projects?x=1&%5Fmethod=DELETE", key=key, at=at),
            ]
            assert {answer.status_code for answer in refused} <= {400, 403, 404}
        assert world.api.seen == []
        names = ("x-http-method-override", "x-http-method", "x-method-override")
        world.send("POST", own, "projects", key=key, headers=[(name, "DELETE") for name in names])
        assert not {name for name, _ in world.last()["headers"]} & set(names)
        for method, path in (
            ("POST", f"/api/integrations/{own}/token"),
            ("PATCH", f"/api/integrations/{own}"),
            ("GET", "/api/integrations"),
            ("GET", "/api/api-keys"),
        ):
            hub.call(method, path, {} if method != "GET" else None, key=key, expect=403)


def _smuggle_a_request(hub: Hub) -> None:
    """Two programs on the way must not see two different requests."""
    with _calls(hub) as world:
        account = world.with_token()
        path = f"/api/integrations/{account}/proxy/projects"
        inner = b"GET /api/v4/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        chunked = b"0\r\n\r\n" + inner
        heads = (
            (b"Transfer-Encoding: chunked\r\nContent-Length: 5", chunked),
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked", chunked),
            (b"Content-Length: 0\r\nContent-Length: 5", b"x" * 5),
            (b"Transfer-Encoding: xchunked", chunked),
            (b"Transfer-Encoding: chunked, identity", chunked),
            (b"Transfer-Encoding : chunked", chunked),
            (b"Content-Length: 0\r\nX: a\r\n Transfer-Encoding: chunked", inner),
            (b"Connection: authorization\r\nContent-Length: 0", inner),
            (b"Connection: content-length\r\nContent-Length: 5", b"x" * 5),
            (b"Content-Length: 0\r\nExpect: 100-continue\r\nUpgrade: h2c\r\nConnection: upgrade", inner),
        )
        for at in _ENTRANCES:
            for head, body in heads:
                with socket.create_connection(("127.0.0.1", hub.ports[at]), timeout=20) as connection:
                    start = f"POST {path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {hub.admin_key}\r\n"
                    connection.sendall(start.encode() + head + b"\r\n\r\n" + body)
                    response = HTTPResponse(connection, method="POST")
                    with suppress(HTTPException, OSError):
                        response.begin()
                        assert response.status in (200, 400, 401, 403, 404, 422), (head, response.status)
        assert {seen["path"] for seen in world.api.seen} <= {"projects"}
        for seen in world.api.seen:
            names = [name for name, _ in seen["headers"]]
            assert names.count("content-length") + names.count("transfer-encoding") == 1
            assert "upgrade" not in names


def _hold_all_calls(hub: Hub) -> None:
    """A provider that does not answer, called as often as possible, costs its own workspace alone."""
    with _calls(hub) as world:
        honest = world.with_token()
        hostile = hub.other_workspace()
        account = world.with_token(key=hostile)

        def hang(_number: int) -> int:
            with suppress(httpx.HTTPError):
                return world.send("GET", account, "slow", key=hostile).status_code
            return 0

        with ThreadPoolExecutor(2 * _MAX_OPEN) as pool:
            hanging = [pool.submit(hang, number) for number in range(2 * _MAX_OPEN)]
            try:
                for _ in range(5):
                    started = monotonic()
                    assert world.send("GET", honest, "projects").status_code == 200
                    assert hub.call("POST", f"/api/integrations/{honest}/check")["status"] == "connected"
                    assert monotonic() - started < 10
                assert world.api.waiting <= 20
            finally:
                world.api.let_go()
            statuses = {call.result() for call in hanging}
        assert statuses <= {200, 429}
        assert 429 in statuses
        assert world.send("GET", account, "projects", key=hostile).status_code == 200


def _never_end(hub: Hub) -> None:
    """Bodies without an end, in both directions, are cut off at their limit."""
    with _calls(hub) as world:
        account = world.with_token()
        for at in _ENTRANCES:
            size = 0
            url = f"{hub.url(at)}/api/integrations/{account}/proxy/endless"
            headers = {"authorization": f"Bearer {hub.admin_key}"}
            with suppress(httpx.RemoteProtocolError), httpx.stream("GET", url, headers=headers) as answer:
                for chunk in answer.iter_raw():
                    size += len(chunk)
                raise AssertionError("the body seems complete")
            assert size <= 10 * _MIB
            endless = (bytes(64 * 1024) for _ in range(10_000))
            with suppress(httpx.WriteError, httpx.ReadError):  # the connection may close before the answer
                answer = world.send("POST", account, "projects", at=at, content=endless)
                assert answer.status_code == 413, answer.text


def _show_a_page(hub: Hub) -> None:
    """What a provider answers is no page of the hub, and sets nothing for its host or a proxy before it."""
    with _calls(hub) as world:
        account = world.with_token()
        page = b"<script>document.cookie</script>"
        hostile = [
            ("Content-Type", "text/html"),
            ("Set-Cookie", "interlink_oauth_x=1; Path=/"),
            ("Content-Security-Policy", "script-src *"),
            ("X-Content-Type-Options", ""),
            ("Access-Control-Allow-Origin", "*"),
            ("Interlink-Provider", "github"),
            ("Service-Worker-Allowed", "/"),
            ("Refresh", "0; url=https://evil.example"),
            ("X-Accel-Redirect", "/internal/"),
            ("X-Sendfile", "/etc/passwd"),
            ("Cache-Control", "public, s-maxage=600"),
        ]
        world.api.answers["page"] = lambda request: reply(request, 200, page, hostile)
        for at in _ENTRANCES:
            answer = world.send("GET", account, "page", at=at)
            assert answer.headers.get_list("content-security-policy") == ["sandbox; default-src 'none'"]
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            assert answer.headers.get_list("interlink-provider") == ["gitlab"]
            assert answer.headers.get_list("cache-control") == ["private"]
            for name in (
                "set-cookie",
                "access-control-allow-origin",
                "service-worker-allowed",
                "refresh",
                "x-accel-redirect",
                "x-sendfile",
            ):
                assert name not in answer.headers


ATTACKS = (
    Attack("account calls: leave the host by the path", _leave_the_host_by_the_path, _SETUP),
    Attack("account calls: be redirected", _be_redirected, _SETUP),
    Attack("account calls: use another workspace's account", _use_another_s_account, _SETUP),
    Attack("account calls: exceed the limits of a key", _exceed_the_limits_of_a_key, _SETUP),
    Attack("account calls: smuggle a request", _smuggle_a_request, _SETUP),
    Attack("account calls: hold all calls", _hold_all_calls, _SETUP),
    Attack("account calls: bodies that never end", _never_end, _SETUP),
    Attack("account calls: show a page", _show_a_page, _SETUP),
)

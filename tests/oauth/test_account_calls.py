"""Calls of a provider's API through the hub: from any language, with the account's credentials."""

import gzip
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any

import httpx
import pytest

from tests.support.account_calls import AccountCalls, account_calls, echoed
from tests.support.api_server import body, reply, reply_json, write_chunk
from tests.support.backends import Bus, Store
from tests.support.raw_http import exchange
from tests.support.second_process import second_process

MIB = 1024 * 1024
ENTRANCES = ("gateway", "oauth")
CALLBACK = "/api/auth/oauth/callback"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[AccountCalls]:
    with account_calls(tmp_path_factory.mktemp("calls"), bus, store) as made:
        yield made


@pytest.fixture(scope="module")
def account(world: AccountCalls) -> str:
    return world.with_token("ada")


class TestRequest:
    @pytest.mark.parametrize("at", ENTRANCES)
    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
    def test_reaches_the_provider_with_the_credentials_of_the_account(
        self, world: AccountCalls, account: str, method: str, at: str
    ) -> None:
        content = None if method == "GET" else b'{"a": 1}'
        path = "projects/7/issues?labels=a%20b&x=%2F&x=2"
        answer = world.send(method, account, path, at=at, content=content)
        assert answer.headers["interlink-provider"] == "gitlab"
        seen = echoed(answer)
        assert (seen["method"], seen["path"]) == (method, "projects/7/issues")
        assert seen["query"] == "labels=a%20b&x=%2F&x=2"
        assert seen["account"] == "ada"
        assert world.last()["body"] == (content or b"")

    def test_head_has_the_headers_of_the_answer(self, world: AccountCalls, account: str) -> None:
        answer = world.send("HEAD", account, "projects")
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) > 0
        assert answer.content == b""

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_headers_that_are_not_for_the_provider_stay(
        self, world: AccountCalls, account: str, at: str
    ) -> None:
        stay = {
            "cookie": "session=1",
            "x-forwarded-for": "10.1.2.3",
            "x-forwarded-host": "evil.example",
            "forwarded": "for=10.1.2.3",
            "x-real-ip": "10.1.2.3",
            "via": "1.1 inside",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "proxy-authorization": "Basic eDp5",
            "te": "trailers",
            "x-mine": "hop",
            "connection": "x-mine, keep-alive",
            "x-http-method-override": "DELETE",
        }
        more = [
            *stay.items(),
            ("idempotency-key", "k1"),
            ("accept", "text/x"),
            ("x-two", "1"),
            ("x-two", "2"),
        ]
        seen = echoed(world.send("POST", account, "projects", at=at, headers=more, content=b"x"))["headers"]
        names = {name for name, _ in seen}
        assert not names & (set(stay) - {"connection"})
        assert [value for name, value in seen if name == "x-two"] == ["1", "2"]
        found = dict(seen)
        assert (found["idempotency-key"], found["accept"]) == ("k1", "text/x")
        assert found["host"] == f"127.0.0.1:{world.api.port}"
        assert world.hub.admin_key not in json.dumps(seen)

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_a_header_that_is_not_text_is_refused(self, world: AccountCalls, account: str, at: str) -> None:
        headers: list[tuple[str, str | bytes]] = [("x-a", b"\xff\xfe")]
        headers.append(("authorization", f"Bearer {world.hub.admin_key}"))
        path = f"/api/integrations/{account}/proxy/projects"
        status, answer = exchange(world.hub.ports[at], path, headers, b"x")
        assert (status, json.loads(answer)["status"]) == (400, 400)

    def test_the_same_idempotency_key_is_the_provider_s(self, world: AccountCalls, account: str) -> None:
        key = token_hex(8)
        before = len(world.api.seen)
        for content in (b"1", b"2"):
            world.send("POST", account, "projects", headers=[("idempotency-key", key)], content=content)
        assert [item["body"] for item in world.api.seen[before:]] == [b"1", b"2"]

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_large_bodies_are_streamed_in_both_directions(
        self, world: AccountCalls, account: str, at: str
    ) -> None:
        sent = token_bytes(10 * MIB)
        world.api.answers["mirror"] = lambda request: reply(request, 200, body(request), length=False)
        known = world.send("PUT", account, "mirror", at=at, content=sent)
        assert known.content == sent
        chunked = world.send("PUT", account, "mirror", at=at, content=iter([sent[:MIB], sent[MIB:]]))
        assert chunked.content == sent

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_a_body_over_10_mib_is_413(self, world: AccountCalls, account: str, at: str) -> None:
        before = len(world.api.seen)
        known = world.send("PUT", account, "projects", at=at, content=bytes(10 * MIB + 1))
        assert known.status_code == 413
        assert len(world.api.seen) == before
        chunks = (bytes(MIB) for _ in range(11))
        assert world.send("PUT", account, "projects", at=at, content=chunks).status_code == 413

    def test_an_answer_before_the_body_was_sent_counts(self, world: AccountCalls, account: str) -> None:
        def early(request: BaseHTTPRequestHandler) -> None:
            reply_json(request, {"error": "no space"}, 507)
            request.close_connection = True

        world.api.answers["full"] = early
        answer = world.send("PUT", account, "full", content=iter([bytes(MIB)] * 3))
        assert answer.status_code in (502, 507)
        assert world.send("GET", account, "projects").status_code == 200


class TestPath:
    @pytest.mark.parametrize("at", ENTRANCES)
    @pytest.mark.parametrize(
        "path",
        [
            "../user",
            "a/../../user",
            "a/%2e%2e/user",
            "a/%252e%252e/user",
            "a%2fb",
            "a%252Fb",
            "a\\b",
            "a%5Cb",
            "a%255cb",
            "a//b",
            "/evil.example/x",
            "https://evil.example/",
            "./a",
            "a/./b",
        ],
    )
    def test_that_could_be_read_differently_is_refused(
        self, world: AccountCalls, account: str, path: str, at: str
    ) -> None:
        before = len(world.api.seen)
        status, answer = exchange(
            world.hub.ports[at],
            f"/api/integrations/{account}/proxy/{path}",
            [("authorization", f"Bearer {world.hub.admin_key}")],
            method="GET",
        )
        assert (status, json.loads(answer)["status"]) == (400, 400)
        assert len(world.api.seen) == before

    @pytest.mark.parametrize("path", ["@evil.example/", ":81/", ".evil.example", "%40evil.example", "https:"])
    def test_stays_below_the_base_whatever_it_is(self, world: AccountCalls, account: str, path: str) -> None:
        answer = world.send("GET", account, path)
        assert answer.headers["interlink-provider"] == "gitlab"
        assert world.last()["path"].rstrip("/") == path.rstrip("/")

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_is_the_same_for_the_records_and_the_provider(self, world: AccountCalls, at: str) -> None:
        """However the part before it is encoded."""
        account = world.with_token()
        target = f"/api/integrations/{account}/%70roxy/one/proxy/t%77o"
        key = [("authorization", f"Bearer {world.hub.admin_key}")]
        assert exchange(world.hub.ports[at], target, key, b"x")[0] == 200
        assert world.last()["path"] == "one/proxy/t%77o"
        [entry] = [entry for entry in world.audit(account) if "proxy" in entry["route"]]
        assert entry["resources"] == [account, "one/proxy/two"]

    def test_with_a_slash_too_few_or_too_many_leads_to_no_other_address(
        self, world: AccountCalls, account: str
    ) -> None:
        """The service behind the entrance knows only its own, which nobody outside reaches."""
        base = f"/api/integrations/{account}/proxy"
        for path, other in ((base, f"{base}/"), (f"{CALLBACK}/?code=x", f"{CALLBACK}?code=x")):
            answer = httpx.get(world.hub.url("gateway") + path, timeout=10)
            assert (answer.status_code, answer.headers["location"]) == (307, other)

    def test_other_methods_are_405(self, world: AccountCalls, account: str) -> None:
        answer = world.send("OPTIONS", account, "projects")
        assert answer.status_code == 405
        assert "PATCH" in answer.headers["allow"]


class TestAnswer:
    def test_is_passed_on_without_what_counts_for_the_hub_s_host(
        self, world: AccountCalls, account: str
    ) -> None:
        away = {
            "Set-Cookie": "a=1",
            "WWW-Authenticate": "Bearer",
            "Access-Control-Allow-Origin": "*",
            "Strict-Transport-Security": "max-age=1",
            "Clear-Site-Data": "*",
            "Content-Security-Policy": "default-src *",
            "X-Hop": "1",
            "Keep-Alive": "timeout=1",
            "X-Accel-Redirect": "/internal/secret",
            "X-Sendfile": "/etc/passwd",
            "X-Reproxy-URL": "http://127.0.0.1/",
            "CDN-Cache-Control": "max-age=60",
        }
        page = b"<script>alert(1)</script>"
        headers = [
            *away.items(),
            ("Connection", "X-Hop"),
            ("Link", "<https://x/?page=2>; rel=next"),
            ("ETag", '"1"'),
        ]
        headers.append(("Content-Type", "text/html"))
        world.api.answers["page"] = lambda request: reply(request, 203, page, headers)
        answer = world.send("GET", account, "page")
        assert (answer.status_code, answer.content) == (203, page)
        csp = answer.headers["content-security-policy"]
        assert csp.startswith("sandbox")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (answer.headers["etag"], answer.headers["content-type"]) == ('"1"', "text/html")
        assert "page=2" in answer.headers["link"]
        for name in set(away) - {"Content-Security-Policy"}:
            assert name.lower() not in answer.headers, name

    @pytest.mark.parametrize(
        ("caching", "expected"),
        [
            ("public, max-age=60, S-Maxage=60", "private, max-age=60"),
            ("private, max-age=0, must-revalidate", "private, max-age=0, must-revalidate"),
            ("no-store", "private, no-store"),
            ("public", "private"),
        ],
    )
    def test_is_for_no_shared_cache(
        self, world: AccountCalls, account: str, caching: str, expected: str
    ) -> None:
        """Which does not check the API key of the next caller."""
        world.api.answers["cached"] = lambda request: reply_json(
            request, {}, 200, [("Cache-Control", caching)]
        )
        assert world.send("GET", account, "cached").headers.get_list("cache-control") == [expected]

    @pytest.mark.parametrize("status", [204, 205, 304, 400, 404, 500, 503, 599])
    def test_keeps_its_status(self, world: AccountCalls, account: str, status: int) -> None:
        content = b"" if status in (204, 304) else b"x"
        world.api.answers["status"] = lambda request: reply(request, status, content)
        answer = world.send("GET", account, "status")
        assert (answer.status_code, answer.content) == (status, content)
        assert answer.headers["interlink-provider"] == "gitlab"

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_with_a_status_that_http_does_not_have_is_502(
        self, world: AccountCalls, account: str, at: str
    ) -> None:
        for status in (600, 999):
            world.api.answers["odd"] = lambda request, status=status: reply(request, status, b"x")  # type: ignore[misc]
            answer = world.send("GET", account, "odd", at=at)
            assert (answer.status_code, "interlink-provider" in answer.headers) == (502, False)
            assert f"answered {status}, which is no status" in answer.json()["detail"]

    def test_of_too_many_requests_keeps_retry_after(self, world: AccountCalls, account: str) -> None:
        world.api.answers["busy"] = lambda request: reply_json(request, {}, 429, [("Retry-After", "7")])
        answer = world.send("POST", account, "busy", content=b"x")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.headers["interlink-provider"] == "gitlab"

    def test_compressed_stays_compressed(self, world: AccountCalls, account: str) -> None:
        packed = gzip.compress(b"plain" * 100)
        world.api.answers["packed"] = lambda request: reply(
            request, 200, packed, [("Content-Encoding", "gzip"), ("Content-Type", "text/plain")]
        )
        answer = world.send("GET", account, "packed", headers=[("accept-encoding", "gzip")])
        assert int(answer.headers["content-length"]) == len(packed)
        assert answer.content == b"plain" * 100

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_comes_as_it_is_sent(self, world: AccountCalls, account: str, at: str) -> None:
        """The first event of a stream arrives while the provider still holds the second one back."""

        def events(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Type", "text/event-stream")
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            write_chunk(request, b"data: 1\n\n")
            assert received.wait(60)
            write_chunk(request, b"data: 2\n\n")
            write_chunk(request, b"")

        received = threading.Event()
        world.api.answers["events"] = events
        url = f"{world.hub.url(at)}/api/integrations/{account}/proxy/events"
        headers = {"authorization": f"Bearer {world.hub.admin_key}"}
        with httpx.stream("GET", url, headers=headers, timeout=20) as answer:
            chunks = answer.iter_raw()
            assert next(chunks) == b"data: 1\n\n"
            received.set()
            assert b"".join(chunks) == b"data: 2\n\n"

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_over_10_mib_is_502_or_cut_off(self, world: AccountCalls, account: str, at: str) -> None:
        long = bytes(10 * MIB + 1)
        world.api.answers["long"] = lambda request: reply(request, 200, long)
        announced = world.send("GET", account, "long", at=at)
        assert announced.status_code == 502
        assert "interlink-provider" not in announced.headers
        world.api.answers["long"] = lambda request: reply(request, 200, long, length=False)
        with pytest.raises(httpx.RemoteProtocolError):
            world.send("GET", account, "long", at=at)

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_that_breaks_off_is_not_complete(self, world: AccountCalls, account: str, at: str) -> None:
        def broken(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(b"ten bytes.")
            request.close_connection = True

        world.api.answers["broken"] = broken
        with pytest.raises(httpx.RemoteProtocolError):
            world.send("GET", account, "broken", at=at)
        [noted] = [line for line in world.hub.log_lines("oauth") if line.get("path") == "broken"][-1:]
        assert (noted["event"], noted["level"]) == ("account.called", "info")
        assert noted["error"].startswith("the provider cannot be reached: closed_mid_response")
        for service in ENTRANCES:
            assert not [line for line in world.hub.log_lines(service) if line["level"] == "error"]

    def test_none_is_502(self, world: AccountCalls, account: str) -> None:
        def hang_up(request: BaseHTTPRequestHandler) -> None:
            body(request)
            request.close_connection = True

        world.api.answers["gone"] = hang_up
        answer = world.send("POST", account, "gone", content=b"x")
        assert answer.status_code == 502
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert "interlink-provider" not in answer.headers

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_the_provider_learns_when_the_caller_has_gone(
        self, world: AccountCalls, account: str, at: str
    ) -> None:
        noticed, over = threading.Event(), threading.Event()

        def drip(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            try:
                while not over.wait(0.01):
                    write_chunk(request, bytes(100))
            except OSError:
                noticed.set()
                raise

        world.api.answers["drip"] = drip
        url = f"{world.hub.url(at)}/api/integrations/{account}/proxy/drip"
        headers = {"authorization": f"Bearer {world.hub.admin_key}"}
        with httpx.stream("GET", url, headers=headers, timeout=20) as answer:
            next(answer.iter_raw())
        try:
            assert noticed.wait(60)
        finally:
            over.set()


class TestRedirect:
    @pytest.mark.parametrize("at", ENTRANCES)
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_is_the_caller_s_to_follow(self, world: AccountCalls, account: str, status: int, at: str) -> None:
        away = "https://files.example/x?sig=1"
        world.api.answers["away"] = lambda request: reply(request, status, b"", [("Location", away)])
        answer = world.send("GET", account, "away", at=at)
        assert (answer.status_code, answer.headers["location"]) == (status, away)

    def test_leads_to_the_provider_when_it_is_relative(self, world: AccountCalls, account: str) -> None:
        world.api.answers["moved"] = lambda request: reply(
            request, 302, b"", [("Location", "/api/v4/there?x")]
        )
        answer = world.send("GET", account, "moved/a")
        assert answer.headers["location"] == f"{world.api.url}/api/v4/there?x"

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_to_the_hub_has_no_location(self, world: AccountCalls, account: str, at: str) -> None:
        """Else a caller that follows redirects would repeat his call there, with his API key."""
        home = world.hub.url(at) + "/api/api-keys"
        world.api.answers["home"] = lambda request: reply(request, 307, b"", [("Location", home)])
        answer = world.send("POST", account, "home", at=at, content=b"x")
        assert answer.status_code == 307
        assert "location" not in answer.headers


class TestRefresh:
    def test_a_401_causes_one_refresh_and_one_repeat(self, world: AccountCalls) -> None:
        integration, name = world.connected()
        assert world.send("GET", integration, "projects").status_code == 200
        world.api.spoil(name)
        refreshes, before = world.api.refreshes, len(world.api.seen)
        seen = echoed(world.send("POST", integration, "projects", content=b'{"once": true}'))
        assert (seen["method"], world.last()["body"]) == ("POST", b'{"once": true}')
        assert world.api.refreshes == refreshes + 1
        assert len(world.api.seen) == before + 1

    def test_a_compressed_error_is_read_too(self, world: AccountCalls) -> None:
        """Providers that answer 400 or 403 to a token that has ended say so in the body alone."""
        integration, _ = world.connected()
        refreshes, packed = world.api.refreshes, gzip.compress(b'{"error":"invalid_token"}')
        headers = [("Content-Encoding", "gzip"), ("Content-Type", "application/json")]

        def once(request: BaseHTTPRequestHandler) -> None:
            if world.api.refreshes == refreshes:
                return reply(request, 403, packed, headers)
            return reply(request, 200, b"new")

        world.api.answers["ended"] = once
        assert world.send("GET", integration, "ended").content == b"new"
        assert world.api.refreshes == refreshes + 1
        for encoding in ("br", "gzip"):
            odd = [("Content-Encoding", encoding)]
            world.api.answers["odd"] = lambda request, odd=odd: reply(request, 403, b"\x00odd", odd)  # type: ignore[misc]
            with world.hub.client("gateway") as client:
                path = f"/api/integrations/{integration}/proxy/odd"
                with client.stream("GET", path) as answer:
                    assert (answer.status_code, b"".join(answer.iter_raw())) == (403, b"\x00odd")

    def test_many_calls_at_once_cause_one_refresh(self, world: AccountCalls) -> None:
        integration, name = world.connected()
        world.api.spoil(name)
        refreshes = world.api.refreshes
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: world.send("GET", integration, "projects"), range(16)))
        assert {answer.status_code for answer in answers} == {200}
        assert world.api.refreshes == refreshes + 1

    def test_after_a_401_a_streamed_body_is_the_caller_s_to_repeat(self, world: AccountCalls) -> None:
        integration, name = world.connected()
        world.api.spoil(name)
        refreshes = world.api.refreshes
        sent = bytes(MIB)
        refused = world.send("PUT", integration, "projects", content=sent)
        assert refused.status_code == 401
        assert refused.headers["interlink-provider"] == "gitlab"
        assert "www-authenticate" not in refused.headers
        assert world.send("PUT", integration, "projects", content=sent).status_code == 200
        assert world.api.refreshes == refreshes + 1

    def test_a_401_about_the_call_is_passed_on(self, world: AccountCalls) -> None:
        integration, _ = world.connected()
        world.api.answers["private"] = lambda request: reply_json(request, {"error": "not_for_you"}, 401)
        for _ in range(3):
            answer = world.send("GET", integration, "private")
            assert (answer.status_code, answer.json()) == (401, {"error": "not_for_you"})
        assert world.hub.call("GET", f"/api/integrations/{integration}")["status"] == "connected"

    def test_an_account_that_the_provider_forgot_has_to_be_connected_again(self, world: AccountCalls) -> None:
        name = f"gone-{token_hex(4)}"
        integration = world.with_token(name)
        world.api.spoil(name)
        answer = world.send("GET", integration, "projects")
        assert answer.status_code == 409
        assert "connect the account again" in answer.json()["detail"]
        assert world.hub.call("GET", f"/api/integrations/{integration}")["status"] == "reauth_required"

    def test_no_call_with_a_disabled_account(self, world: AccountCalls) -> None:
        integration = world.with_token()
        world.hub.call("POST", f"/api/integrations/{integration}/disable")
        before = len(world.api.seen)
        assert world.send("GET", integration, "projects").status_code == 409
        assert len(world.api.seen) == before


class TestAccess:
    def test_the_scope_is_needed(self, world: AccountCalls, account: str) -> None:
        none = world.key("integrations:write")["key"]
        for at in ENTRANCES:
            refused = world.send("GET", account, "projects", key=none, at=at)
            assert refused.status_code == 403
            assert "accounts:call" in refused.json()["detail"]
            assert world.send("GET", account, "projects", key="ilk_unknown", at=at).status_code == 401
        assert world.send("GET", account, "projects", key=world.key()["key"]).status_code == 200

    def test_accounts_of_another_workspace_are_not_there(self, world: AccountCalls, account: str) -> None:
        other = world.hub.other_workspace()
        for integration in (account, "int_unknown"):
            answer = world.send("GET", integration, "projects", key=other)
            assert (answer.status_code, answer.json()["detail"]) == (404, "there is no such integration")

    def test_a_key_is_limited_to_integrations(self, world: AccountCalls, account: str) -> None:
        key = world.key(accounts={"integrations": [account]})
        assert key["accounts"] == {
            "integrations": [account],
            "providers": None,
            "user": None,
            "methods": None,
        }
        assert world.send("GET", account, "projects", key=key["key"]).status_code == 200
        assert world.send("GET", world.with_token(), "projects", key=key["key"]).status_code == 403

    def test_a_key_is_limited_to_providers(self, world: AccountCalls, account: str) -> None:
        allowed = world.key(accounts={"providers": ["github", "gitlab"]})["key"]
        refused = world.key(accounts={"providers": ["github"]})["key"]
        assert world.send("GET", account, "projects", key=allowed).status_code == 200
        assert world.send("GET", account, "projects", key=refused).status_code == 403

    def test_a_key_is_limited_to_a_user(self, world: AccountCalls, account: str) -> None:
        own = world.with_token(user="usr_1")
        key = world.key(accounts={"user": "usr_1"})["key"]
        assert world.send("GET", own, "projects", key=key).status_code == 200
        for integration in (account, world.with_token(user="usr_2")):
            assert world.send("GET", integration, "projects", key=key).status_code == 403

    def test_a_key_is_limited_to_methods(self, world: AccountCalls, account: str) -> None:
        key = world.key(accounts={"methods": ["GET", "HEAD"]})["key"]
        assert world.send("GET", account, "projects", key=key).status_code == 200
        before = len(world.api.seen)
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert world.send(method, account, "projects", key=key).status_code == 403
        for query in ("method=delete", "a=1&_method=DELETE", "%6dethod=post"):
            assert world.send("GET", account, f"projects?{query}", key=key).status_code == 403
        assert len(world.api.seen) == before
        assert world.send("GET", account, "projects?method=x").status_code == 200  # a key without limits

    @pytest.mark.parametrize(
        ("scopes", "accounts", "field"),
        [
            (["admin"], {"user": "usr_1"}, "accounts"),
            (["integrations:read"], {"user": "usr_1"}, "accounts"),
            (["accounts:call", "tokens:read"], {"methods": ["GET"]}, "accounts.methods"),
            (["accounts:call"], {"providers": ["gitlap"]}, "accounts.providers"),
            (["accounts:call"], {"methods": ["TRACE"]}, "accounts.methods.0"),
            (["accounts:call"], {"integrations": []}, "accounts.integrations"),
            (["accounts:call"], {"user": ""}, "accounts.user"),
            (["accounts:call"], {"usr": "x"}, "accounts.usr"),
        ],
    )
    def test_limits_that_would_not_hold_are_refused(
        self, world: AccountCalls, scopes: list[str], accounts: dict[str, Any], field: str
    ) -> None:
        refused = world.key(*scopes, accounts=accounts, expect=422)
        assert [error["field"] for error in refused["errors"]] == [field]

    def test_limits_are_listed(self, world: AccountCalls) -> None:
        limits = {"integrations": ["int_1"], "providers": ["slack"], "user": "usr_9", "methods": ["GET"]}
        made = world.key(accounts=limits)
        listed = world.hub.call("GET", "/api/api-keys", params={"limit": "500"})["items"]
        [shown] = [item for item in listed if item["id"] == made["id"]]
        assert shown["accounts"] == limits
        assert {item["accounts"] for item in listed if item["scopes"] == ["admin"]} == {None}


class TestRecords:
    def test_log_and_audit_have_no_query(self, world: AccountCalls) -> None:
        integration = world.with_token()
        secret = token_hex(12)
        for method in ("GET", "POST", "DELETE"):
            world.send(method, integration, f"notes/1?private_token={secret}", content=b'{"id": 1}')
        entries = [entry for entry in world.audit(integration) if "proxy" in entry["route"]]
        shown = [(entry["method"], entry["route"], entry["resources"]) for entry in entries]
        route = "/api/integrations/{integration_id}/proxy/{path}"
        assert shown == [(method, route, [integration, "notes/1"]) for method in ("POST", "DELETE")]
        assert {entry["status"] for entry in entries} == {200}
        assert secret not in json.dumps(entries)
        for service in ENTRANCES:
            assert secret not in world.hub.log_text(service)
        lines = [line for line in world.hub.log_lines("oauth") if line["event"] == "account.called"]
        mine = [line for line in lines if line["integration_id"] == integration]
        assert [(line["method"], line["path"], line["status"]) for line in mine] == [
            (method, "notes/1", 200) for method in ("GET", "POST", "DELETE")
        ]

    def test_calls_are_counted_by_provider(self, world: AccountCalls, account: str) -> None:
        name = "interlink_account_calls_total"
        before = world.hub.metric("oauth", name, provider="gitlab", outcome="2xx")
        world.send("GET", account, "projects")
        assert world.hub.metric("oauth", name, provider="gitlab", outcome="2xx") == before + 1


class TestAddresses:
    def test_an_account_at_an_internal_address_is_not_called(
        self,
        world: AccountCalls,
        account: str,
        bus: Bus,
        store: Store,
        tmp_path: Path,
    ) -> None:
        """It was connected while internal addresses were allowed; now they are not."""
        strict = {**world.hub.env, "INTERLINK_ALLOW_PRIVATE_NETWORKS": "none"}
        before = len(world.api.seen)
        with second_process("oauth", world.hub, tmp_path, bus, store, **strict) as other:
            url = f"{other.url('oauth')}/api/integrations/{account}/proxy/projects"
            answer = httpx.get(url, headers={"authorization": f"Bearer {world.hub.admin_key}"}, timeout=20)
        assert answer.status_code == 502
        assert "internal address" in answer.json()["detail"]
        assert len(world.api.seen) == before

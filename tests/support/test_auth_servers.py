"""What the tests of connected accounts stand on: real authorization servers, and a browser that says yes.

The application is this test: it keeps the verifier, takes the redirect and exchanges the code.
"""

import asyncio
import base64
import hashlib
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from tests.support.auth_servers import AuthServer, Client, MockServer, OidcProvider
from tests.support.browser import CHROMIUM, Browser, Tab, browser
from tests.support.eventually import eventually
from tests.support.npm import Unavailable
from tests.support.provider_hosts import Forward, Handler, HostRequest, ProviderHosts, Reply

APPLICATION = "application.example.com"
ISSUER = "https://id.example.com"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@dataclass
class Application:
    """The client's side: sends people away, and gets them back with a code."""

    server: AuthServer
    client: Client
    redirect_uri: str
    came_back: list[dict[str, str]] = field(default_factory=list)

    def callback(self, asked: HostRequest) -> Reply:
        """The page at the redirect URI."""
        assert (asked.method, asked.path) == ("GET", "/callback")
        self.came_back.append(asked.params())
        return Reply.html("<p id=done>You can go on.</p>")

    def authorize(self, verifier: str, **more: str) -> str:
        """Where to send somebody; the state is `here`."""
        digest = hashlib.sha256(verifier.encode()).digest()
        params = {
            "response_type": "code",
            "client_id": self.client.id,
            "redirect_uri": self.redirect_uri,
            "scope": "openid profile email read offline_access",
            "prompt": "consent",
            "state": "here",
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        return f"{self.server.authorize_url}?{urlencode(params | more)}"

    def token(self, grant_type: str, **form: str) -> httpx.Response:
        """A call of the token endpoint, straight at the server's port."""
        form = {"grant_type": grant_type, **form}
        auth = None
        if self.client.auth == "client_secret_basic":
            auth = httpx.BasicAuth(self.client.id, self.client.secret)
        else:
            form |= {"client_id": self.client.id, "client_secret": self.client.secret}
        return self._post(self.server.token_path, form, auth)

    def revoke(self, token: str) -> httpx.Response:
        auth = httpx.BasicAuth(self.client.id, self.client.secret)
        return self._post(self.server.revoke_path, {"token": token}, auth)

    def exchange(self, code: str, verifier: str) -> dict[str, Any]:
        """The tokens for a code."""
        redirect_uri = self.redirect_uri
        answer = self.token(
            "authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=verifier
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def refresh(self, refresh_token: str) -> httpx.Response:
        return self.token("refresh_token", refresh_token=refresh_token)

    def who(self, access_token: str) -> httpx.Response:
        """The user info."""
        at = f"http://127.0.0.1:{self.server.port}{self.server.userinfo_path}"
        return httpx.get(at, headers={"authorization": f"Bearer {access_token}"}, trust_env=False)

    def _post(self, path: str, form: dict[str, str], auth: httpx.BasicAuth | None) -> httpx.Response:
        at = f"http://127.0.0.1:{self.server.port}{path}"
        with httpx.Client(trust_env=False) as client:
            return client.post(at, data=form, auth=auth or httpx.USE_CLIENT_DEFAULT)


@dataclass
class World:
    """An application and an authorization server on TLS, which a browser finds."""

    application: Application
    oidc: OidcProvider
    platforms: ProviderHosts


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    redirect_uri = f"https://{APPLICATION}/callback"
    basic = Client("hub", token_urlsafe(24), [redirect_uri])
    post = Client("hub-post", token_urlsafe(24), [redirect_uri], "client_secret_post")
    oidc = OidcProvider([basic, post], issuer=ISSUER, access_token_s=2)
    application = Application(oidc, basic, redirect_uri)
    with ExitStack() as stack:
        try:
            stack.enter_context(oidc)
        except Unavailable as why:
            pytest.skip(str(why))
        hosts: dict[str, Handler] = {APPLICATION: application.callback, "id.example.com": Forward(oidc.port)}
        platforms = stack.enter_context(ProviderHosts(hosts))
        yield World(application, oidc, platforms)
        assert platforms.faults == []
        assert oidc.stats().faults == []


@pytest.fixture(scope="module")
async def chromium(world: World) -> AsyncIterator[Browser]:
    async with browser(proxy=world.platforms.proxy) as started:
        yield started


async def connected(tab: Tab, world: World, account: str) -> dict[str, Any]:
    """The tokens after somebody logged in and said yes."""
    application, verifier = world.application, token_urlsafe(48)
    await tab.goto(application.authorize(verifier))
    await tab.fill("#login", account)
    await tab.press("#sign-in")
    assert await tab.see("#account") == account
    assert await tab.see("#scopes") == "openid profile email read offline_access"
    await tab.press("#allow")
    await tab.at(f"^https://{APPLICATION}/callback")
    assert await tab.see("#done")
    back = application.came_back[-1]
    assert {"state": "here", "iss": ISSUER}.items() <= back.items()
    return await asyncio.to_thread(application.exchange, back["code"], verifier)


async def session_of(tab: Tab, oidc: OidcProvider) -> str:
    """The cookie by which the authorization server knows who this is."""
    await tab.goto(f"{ISSUER}/.well-known/openid-configuration")
    return str({one["name"]: one["value"] for one in await tab.cookies()}[f"_s{oidc.port}"])


@needs_browser
async def test_two_people_connect_and_only_the_last_refresh_token_works(
    world: World, chromium: Browser
) -> None:
    application, oidc = world.application, world.oidc
    before = oidc.stats()
    async with chromium.user() as ada, chromium.user() as bob:
        first = await connected(ada, world, "ada")
        assert application.who(first["access_token"]).json() == {
            "sub": "ada",
            "name": "ada Example",
            "email": "ada@example.com",
        }
        other = await connected(bob, world, "bob")
        sessions = [await session_of(tab, oidc) for tab in (ada, bob)]
        assert sessions[0] != sessions[1]
    assert first["expires_in"] == 2
    await asyncio.sleep(2.5)
    assert application.who(first["access_token"]).status_code == 401

    second = application.refresh(first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert application.who(second["access_token"]).json()["sub"] == "ada"
    again = application.refresh(first["refresh_token"])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert application.refresh(second["refresh_token"]).status_code == 400  # the grant has ended

    stored = application.refresh(other["refresh_token"]).json()  # another's goes on
    assert application.revoke(stored["refresh_token"]).status_code == 200
    assert application.refresh(stored["refresh_token"]).status_code == 400

    stats = oidc.stats().since(before)
    assert stats.granted == {"authorization_code": 2, "refresh_token": 2}
    assert stats.refused == {"refresh_token": {"invalid_grant": 3}}
    assert stats.called == {"authorization_code": 2, "refresh_token": 5}
    assert (stats.revoked, stats.events["refresh_token.consumed"], stats.lost) == (1, 2, 0)
    assert {first["access_token"], stored["refresh_token"]} <= set(stats.secrets)


@needs_browser
async def test_a_person_says_no_and_a_grant_is_forgotten(world: World, chromium: Browser) -> None:
    application, oidc = world.application, world.oidc
    async with chromium.user() as tab:
        tokens = await connected(tab, world, "eve")
        await tab.goto(application.authorize(token_urlsafe(48)))  # still logged in: asked for consent alone
        assert await tab.see("#account") == "eve"
        await tab.press("#deny")
        await tab.see("#done")
        assert application.came_back[-1]["error"] == "access_denied"
        assert application.came_back[-1]["state"] == "here"
    assert application.who(tokens["access_token"]).status_code == 200
    assert oidc.forget("eve") == 1
    assert application.who(tokens["access_token"]).status_code == 401
    assert application.refresh(tokens["refresh_token"]).json()["error"] == "invalid_grant"


@needs_browser
async def test_the_server_is_strict(world: World, chromium: Browser) -> None:
    application = world.application
    async with chromium.user() as tab:
        wrong = application.authorize(token_urlsafe(48), redirect_uri=f"https://{APPLICATION}/elsewhere")
        await tab.goto(f"http://127.0.0.1:{world.oidc.port}/.well-known/openid-configuration")
        assert "code_challenge_methods_supported" in await tab.text()  # loopback needs no proxy
        await tab.goto(wrong)
        assert "invalid_redirect_uri" in await tab.see("#error")
        plain = re.sub("&code_challenge.*", "", application.authorize(token_urlsafe(48)))
        await tab.goto(plain)
        await tab.see("#done")
        assert application.came_back[-1]["error"] == "invalid_request"
        assert "PKCE" in application.came_back[-1]["error_description"]
    post = Application(world.oidc, Client("hub-post", "wrong", [], "client_secret_post"), "")
    assert (post.refresh("x").status_code, post.refresh("x").json()["error"]) == (401, "invalid_client")


@needs_browser
async def test_an_answer_that_is_lost_ends_the_grant(world: World, chromium: Browser) -> None:
    application, oidc = world.application, world.oidc
    async with chromium.user() as tab:
        tokens = await connected(tab, world, "kim")
    before = oidc.stats()
    oidc.fail_next(503, {"error": "temporarily_unavailable"}, times=2, headers={"retry-after": "1"})
    for _ in range(2):
        answer = application.refresh(tokens["refresh_token"])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    oidc.lose_next()
    with pytest.raises(httpx.RemoteProtocolError):
        application.refresh(tokens["refresh_token"])  # done, and nobody knows the new token
    assert application.refresh(tokens["refresh_token"]).json()["error"] == "invalid_grant"
    stats = oidc.stats().since(before)
    assert (stats.lost, stats.granted) == (1, {"refresh_token": 1})
    assert stats.refused == {"refresh_token": {"given 503": 2, "invalid_grant": 1}}


def test_the_mock_server_takes_everything_and_misbehaves_on_request() -> None:
    application: Application
    with ExitStack() as stack:
        try:
            server = stack.enter_context(MockServer())
        except Unavailable as why:
            pytest.skip(str(why))
        application = Application(server, Client("any", "any", []), "http://127.0.0.1:1/callback")
        verifier = token_urlsafe(48)
        sent = httpx.get(application.authorize(verifier), trust_env=False)
        back = dict(parse_qsl(urlsplit(sent.headers["location"]).query))
        assert back["state"] == "here"
        tokens = application.exchange(back["code"], verifier)
        assert application.who(tokens["access_token"]).json() == {"sub": "johndoe"}
        server.fail_next(500, b"<html>down</html>")
        assert application.refresh(tokens["refresh_token"]).text == "<html>down</html>"
        server.slow(0.3)
        answer = application.refresh(tokens["refresh_token"])
        assert answer.elapsed.total_seconds() >= 0.3
        assert application.revoke("x").status_code == 200
        stats = server.stats()
        assert stats.called == {"authorization_code": 1, "refresh_token": 2}
        assert (stats.granted["refresh_token"], stats.revoked) == (1, 1)


def test_a_server_ends_with_the_test_that_started_it(tmp_path: Path) -> None:
    script = """
import os, sys
from tests.support.auth_servers import MockServer
with MockServer() as server:
    print(server.url, flush=True)
    os.kill(os.getpid(), 9)
"""
    try:
        with MockServer():
            pass
    except Unavailable as why:
        pytest.skip(str(why))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert died.returncode == -9, died.stderr
    port = int(died.stdout.strip().rpartition(":")[2])
    assert eventually(lambda: not _listens(port))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

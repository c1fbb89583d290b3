"""Attacks on connected accounts: other people's integrations, used states, and forged result pages."""

from secrets import token_hex
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.attacks.attack import Attack, Setup
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.rotating_server import RotatingServer

SETUP = Setup(
    services=("gateway", "oauth"),
    env={"INTERLINK_RETURN_ORIGINS": "https://chat.example.com"},
    entrance=True,
)
SECRET = "the-secret-of-the-hub"
_RESULT = "/api/auth/oauth/result/"
_FORM = "application/x-www-form-urlencoded"
_VICTIM, _ATTACKER = "usr_victim", "usr_attacker"


def server_of(hub: Hub) -> RotatingServer:
    """Return an authorization server that the hub's app is registered at."""
    server = RotatingServer("app", SECRET, hub.url("gateway") + "/api/auth/oauth/callback")
    body = {"client_id": "app", "client_secret": SECRET, "settings": server.settings, "verified": True}
    hub.call("PUT", "/api/platform-credentials/oidc", body)
    return server


def _take_over(hub: Hub) -> None:
    """Connect somebody else's account under another user's name, by each call that could."""
    name = f"shared-{token_hex(4)}"
    with server_of(hub) as server:
        server.login(name)
        with Person(hub, name, entrance="gateway") as person:
            started = person.connect("oidc", user=_VICTIM, name="Private name")
            assert person.go(started["authorization_url"]).status_code == 200
            integration = started["integration_id"]
            page = person.go(person.connect("oidc", user=_ATTACKER)["authorization_url"])
            assert page.status_code == 409
            for secret in (_VICTIM, "Private name", integration):
                assert secret not in page.text
            person.reconnect(integration, user=_ATTACKER, expect=409)
        current = hub.call("GET", f"/api/integrations/{integration}")
        assert (current["user"], current["status"]) == (_VICTIM, "connected")
        assert hub.call("POST", f"/api/integrations/{integration}/refresh")["health"] == "ok"


def _replay(hub: Hub) -> None:
    """Bring a state that was used once more: with another code, an error, and in another browser."""
    name = f"replayed-{token_hex(4)}"
    with server_of(hub) as server:
        server.login(name)
        with Person(hub, name, entrance="gateway") as person:
            started = person.connect("oidc")
            came = person.consent(started["authorization_url"])
            assert person.client.get(came).status_code == 303
            exchanges = server.exchanges
            for url in (came, f"{came}&error=access_denied", came.replace("code=", "code=x")):
                assert person.client.get(url).status_code == 303
                stranger = httpx.get(url, follow_redirects=True, timeout=10)
                assert name not in stranger.text
                assert "Finished" in stranger.text
            assert server.exchanges == exchanges
        assert hub.call("GET", f"/api/integrations/{started['integration_id']}")["status"] == "connected"


def _forge(hub: Hub) -> None:
    """Have the result page say what nobody connected, run a script, or send people elsewhere."""
    base = hub.url("gateway") + _RESULT
    for text in ("x", "0" * 64, "%3Cscript%3Ealert(1)%3C%2Fscript%3E", "a" * 3000):
        for query in ("", "?return_to=https://evil.example&status=connected&title=Connected"):
            answer = httpx.get(base + text + query, timeout=10)
            assert answer.is_client_error, (text, answer.status_code)
            for word in ("<script>", "evil", "Connected"):
                assert word not in answer.text


def _redirect(hub: Hub) -> None:
    """Be sent elsewhere by the second arrival of a state that was used."""
    name = f"redirected-{token_hex(4)}"
    with server_of(hub) as server:
        server.login(name)
        with Person(hub, name, entrance="gateway") as person:
            came = person.consent(person.connect("oidc", return_to="/healthz")["authorization_url"])
            for more in ("", "&return_to=https://evil.example", "&integration_id=int_x"):
                where = person.client.get(came + more).headers["location"]
                assert where.startswith(hub.url("gateway") + "/healthz?"), where
                assert "evil" not in where
                assert "int_x" not in where


def _post_a_response(hub: Hub) -> None:
    """Post a response of a provider: to another browser, elsewhere, or to exhaust what reads it."""
    name = f"posted-{token_hex(4)}"
    callback = hub.url("gateway") + "/api/auth/oauth/callback"
    with server_of(hub) as server:
        server.login(name)
        with Person(hub, name, entrance="gateway") as person:
            came = person.consent(person.connect("oidc")["authorization_url"])
            fields = dict(parse_qsl(urlsplit(came).query))
            # The attacker's code and state in the browser of somebody else: its GET has no cookie of them.
            extra = {
                "id_token": "a-token",
                "redirect_uri": "https://evil.example",
                "return_to": "//evil.example",
            }
            posted = httpx.post(callback, data={**fields, **extra}, timeout=10)
            assert posted.status_code == 303
            assert "set-cookie" not in posted.headers
            where = posted.headers["location"]
            assert dict(parse_qsl(urlsplit(where).query)) == fields
            assert where.partition("?")[0] == callback
            assert httpx.get(where, timeout=10).status_code == 403
            assert server.exchanges == 0
            # The browser that started can go on.
            own = person.client.post(callback, data=fields).headers["location"]
            assert person.client.get(own).status_code == 303
    for body in (b"state=x&" * 10_000, b"state=" + b"x" * 10_000, b"\xff" * 100, b"", b"state=a&state=b"):
        refused = httpx.post(callback, content=body, headers={"content-type": _FORM}, timeout=10)
        assert refused.status_code == 400, (body[:20], refused.status_code)
        assert "location" not in refused.headers
    for media in ("text/plain", "multipart/form-data; boundary=x", "application/json", ""):
        headers = {"content-type": media} if media else {}
        assert httpx.post(callback, content=b"state=x", headers=headers, timeout=10).status_code == 400


ATTACKS = (
    Attack("accounts: take over another user's integration", _take_over, SETUP),
    Attack("accounts: replay a state that was used", _replay, SETUP),
    Attack("accounts: forge a result page", _forge, SETUP),
    Attack("accounts: an open redirect by a finished state", _redirect, SETUP),
    Attack("accounts: post a response of a provider", _post_a_response, SETUP),
)

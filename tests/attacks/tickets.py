"""Attacks on connections by ticket: an account of a victim for the attacker's workspace, and replays."""

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from urllib.parse import urlsplit

import httpx

from tests.attacks.accounts import SETUP, server_of
from tests.attacks.attack import Attack
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.person import Person
from tests.support.recorded_secrets import record_secret
from tests.support.rotating_server import RotatingServer
from tests.support.tickets import RETURN_TO, Started, bring_back, confirm, press, start

_VICTIM, _ATTACKER = "usr_victim", "usr_attacker"
_MARKUP = '"><script>alert(1)</script><form action=https://evil.example>'


@contextmanager
def _victim(hub: Hub) -> Iterator[tuple[RotatingServer, Person]]:
    """Yield a provider, and somebody who has just logged in to it."""
    name = f"victim-{token_hex(4)}"
    with server_of(hub) as server:
        server.login(name)
        with Person(hub, name, entrance="gateway") as victim:
            yield server, victim


def _start(hub: Hub, user: str) -> Started:
    return start(hub, service="gateway", user=user)


def _unconnected(hub: Hub, server: RotatingServer, victim: Person, integration: str) -> None:
    """Wait until the victim's grant is revoked, and nothing is connected."""
    eventually(lambda: server.grants_of(victim.name) == [])
    items = hub.call("GET", "/api/integrations?limit=500")["items"]
    assert victim.name not in str([item for item in items if item["status"] != "disconnected"])
    key = {"authorization": f"Bearer {hub.admin_key}"}
    url = f"{hub.url('gateway')}/api/integrations/{integration}"
    eventually(lambda: httpx.get(url, headers=key, timeout=10).status_code == 404)


def _forward(hub: Hub) -> None:
    """Send the link to a victim, who connects an account to the attacker's user (account fixation).

    The chat's page confirms for whoever is logged in to it: the victim.
    """
    with _victim(hub) as (server, victim):
        started = _start(hub, _ATTACKER)
        came = bring_back(victim, started)
        answer = confirm(hub, came["confirmation_code"], user=_VICTIM, service="gateway")
        assert answer.status_code == 403, answer.text
        late = confirm(hub, came["confirmation_code"], user=_ATTACKER, service="gateway")
        assert late.status_code == 404, late.text
        _unconnected(hub, server, victim, started.integration)


def _collect(hub: Hub) -> None:
    """Have the victim go the way, and fetch the code with the cookie of the start call, or with none."""
    with _victim(hub) as (_, victim):
        started = _start(hub, _ATTACKER)
        onward = press(victim, started.connect_url)
        came = victim.consent(onward.headers["location"])
        for moment in ("before", "after"):
            for cookies in (started.cookies, httpx.Cookies()):
                with httpx.Client(cookies=cookies, follow_redirects=False, timeout=10) as attacker:
                    answer = attacker.get(came)
                    assert RETURN_TO not in answer.headers.get("location", ""), moment
                    assert "confirmation_code" not in str(answer.headers), moment
                    page = attacker.get(answer.headers["location"]) if answer.is_redirect else answer
                    assert victim.name not in page.text, moment
            if moment == "before":
                assert victim.client.get(came).status_code == 303


def _open_first(hub: Hub) -> None:
    """Open the ticket, and send the provider's address on: another browser comes back with the answer."""
    with _victim(hub) as (server, victim), Person(hub, "attacker", entrance="gateway") as attacker:
        started = _start(hub, _ATTACKER)
        onward = press(attacker, started.connect_url).headers["location"]
        exchanges = server.exchanges
        page = victim.client.get(victim.consent(onward))
        assert (page.status_code, server.exchanges) == (403, exchanges)
        assert hub.call("GET", f"/api/integrations/{started.integration}")["status"] == "pending"


def _force(hub: Hub) -> None:
    """Have the victim's browser post the ticket from another site, which sends no cookie along."""
    with _victim(hub) as (_, victim):
        started = _start(hub, _ATTACKER)
        answer = victim.client.post(started.connect_url, headers={"origin": "https://evil.example"})
        assert (answer.status_code, "location" in answer.headers) == (403, False)
        page = httpx.get(started.connect_url, timeout=10)
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def _replay(hub: Hub) -> None:
    """Use a ticket in a second browser, and a code a second time."""
    with _victim(hub) as (server, victim), Person(hub, "attacker", entrance="gateway") as attacker:
        started = _start(hub, _VICTIM)
        came = bring_back(victim, started)
        for method in ("GET", "POST"):
            answer = attacker.client.request(method, started.connect_url)
            assert answer.status_code == 410
            assert victim.name not in answer.text
        code = came["confirmation_code"]
        assert confirm(hub, code, user=_VICTIM, service="gateway").status_code == 200
        for user in (_VICTIM, _ATTACKER):
            assert confirm(hub, code, user=user, service="gateway").status_code == 404
        current = hub.call("GET", f"/api/integrations/{started.integration}")
        assert (current["user"], current["status"]) == (_VICTIM, "connected")
        assert len(server.grants_of(victim.name)) == 1


def _use_early(hub: Hub) -> None:
    """Use the account before it is confirmed, by every call that could."""
    with _victim(hub) as (_, victim):
        started = _start(hub, _ATTACKER)
        bring_back(victim, started)
        scopes = ["integrations:write", "integrations:read", "accounts:call", "tokens:read"]
        key = hub.call("POST", "/api/api-keys", {"name": "attacker", "scopes": scopes})["key"]
        record_secret("an API key", key)
        headers = {"authorization": f"Bearer {key}"}
        base = f"{hub.url('gateway')}/api/integrations/{started.integration}"
        for path, body in (
            ("check", {}),
            ("refresh", {}),
            ("choose", {"choice": victim.name}),
            ("enable", {}),
            ("token", {}),
            ("token/refused", {"version": 0}),
            ("proxy/me", {}),
        ):
            answer = httpx.post(f"{base}/{path}", json=body, headers=headers, timeout=30)
            assert answer.status_code in (409, 422), (path, answer.text)
        current = httpx.get(base, headers=headers, timeout=10).json()
        assert (current["status"], current["account"], current["scopes"]) == ("pending", None, [])


def _listen(hub: Hub) -> None:
    """Have the code brought to an inbound endpoint of the attacker's, who reads its requests."""
    with _victim(hub):
        endpoint = hub.github_endpoint()
        path = urlsplit(endpoint["url"]).path
        chat = RETURN_TO.removesuffix("/back")
        for address in (
            path,
            endpoint["url"],
            f"{chat}{path}",
            f"{chat}/hub{path}",
            f"{chat}/x/..{path}",
            f"{chat}/x/%2e%2e{path.replace('webhooks', 'webhook%73')}",
            f"{chat}{path.replace('/', '//')}",
            f"{chat}/api%2Fwebhooks/generic/{endpoint['id']}",
            f"{chat}/integrations/slack/webhook",
        ):
            body = {"provider": "oidc", "user": _ATTACKER, "return_to": address}
            answer = hub.call("POST", "/api/auth/oauth/connect", body)
            assert answer["connect_url"] is None, address


def _mark_up(hub: Hub) -> None:
    """Have the hub's page run a script or send people elsewhere, by what the caller named."""
    with _victim(hub):
        started = start(hub, service="gateway", user=_MARKUP, return_to=f"{RETURN_TO}?x=%22%3E%3Cb%3E")
        page = httpx.get(started.connect_url, timeout=10)
        assert page.status_code == 200
        for text in ("<script>", "<form action", "<b>"):
            assert text not in page.text


ATTACKS = (
    Attack("tickets: connect the account of a victim who was sent the link", _forward, SETUP),
    Attack("tickets: fetch the code of another browser", _collect, SETUP),
    Attack("tickets: open the ticket and send the provider's address on", _open_first, SETUP),
    Attack("tickets: have the code brought to an inbound endpoint", _listen, SETUP),
    Attack("tickets: press the button from another site", _force, SETUP),
    Attack("tickets: replay a ticket and a code", _replay, SETUP),
    Attack("tickets: use an account before it is confirmed", _use_early, SETUP),
    Attack("tickets: markup on the hub's page", _mark_up, SETUP),
)

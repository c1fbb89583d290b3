"""Attacks with what an account is stored with: tokens of another app, labels, and names of apps."""

from secrets import token_hex
from typing import Any

import httpx

from tests.attacks.accounts import SECRET, SETUP, server_of
from tests.attacks.attack import Attack
from tests.support.hub import Hub

_APPS = "/api/platform-credentials/oidc"


def _call(hub: Hub, method: str, path: str, body: Any = None, *, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.request(method, hub.url("gateway") + path, json=body, headers=headers, timeout=30)


def _claim(hub: Hub) -> None:
    """Import a victim's token that was issued to the attacker's app, as if it were of the installation's.

    The attacker's workspace would receive what the provider sends for the victim to the installation's app.
    """
    with server_of(hub) as server:
        server.login(f"victim-{token_hex(4)}")
        body = {"client_id": "app", "client_secret": SECRET, "settings": server.settings, "verified": True}
        operator = f"ilk_operator_{token_hex(16)}"
        hub.init("default", operator)
        for app in ({}, {"app": "named", "client_id": "app-named"}):
            answer = _call(hub, "PUT", _APPS, body | {"scope": "installation"} | app, key=operator)
            assert answer.status_code == 200, answer.text
        try:
            key = hub.other_workspace()
            for fields in ({}, {"app": "named"}, {"takeover": True, "user": "usr_victim"}):
                request = {"provider": "oidc", "tokens": server.issue(), **fields}
                answer = _call(hub, "POST", "/api/integrations", request, key=key)
                assert answer.status_code == 409, answer.text
            assert _call(hub, "GET", "/api/integrations", key=key).json()["items"] == []
        finally:
            for query in ("scope=installation", "scope=installation&app=named"):
                _call(hub, "DELETE", f"{_APPS}?{query}", key=operator)


def _label(hub: Hub) -> None:
    """Find integrations of others, or have the database run an operator, by tags and metadata."""
    with server_of(hub):
        owner = {"tags": ["secret"], "metadata": {"crm": "42"}}
        made = hub.call("POST", "/api/auth/oauth/connect", {"provider": "oidc", **owner})["integration_id"]
        key = hub.other_workspace()
        for query in ("tag=secret", "metadata=crm:42", "tag=secret&workspace=attacks", "tag[$ne]=x"):
            answer = _call(hub, "GET", f"/api/integrations?{query}", key=key)
            assert made not in answer.text, query
        for labels in (
            {"metadata": {"$where": "1"}},
            {"metadata": {"a.$gt": "1"}},
            {"metadata": {"a": {"$gt": ""}}},
            {"tags": [{"$gt": ""}]},
            {"metadata": {"a": "x" * 5000}},
        ):
            for method, path in (("PATCH", f"/api/integrations/{made}"), ("POST", "/api/auth/oauth/connect")):
                body = labels if method == "PATCH" else {"provider": "oidc", **labels}
                assert _call(hub, method, path, body, key=hub.admin_key).status_code == 422, labels
        assert hub.call("GET", f"/api/integrations/{made}")["metadata"] == owner["metadata"]


def _name(hub: Hub) -> None:
    """Use the app of another workspace by its name, or any app by a name that does not exist."""
    with server_of(hub) as server:
        body = {"client_id": "private", "client_secret": SECRET, "settings": server.settings}
        hub.call("PUT", _APPS, body | {"app": "private", "verified": True})
        key = hub.other_workspace()
        for name in ("private", "nobodys"):
            request = {"provider": "oidc", "app": name}
            answer = _call(hub, "POST", "/api/auth/oauth/connect", request, key=key)
            assert answer.status_code == 409, answer.text
            assert _call(hub, "GET", f"{_APPS}?app={name}", key=key).status_code == 404
            assert _call(hub, "DELETE", f"{_APPS}?app={name}", key=key).status_code == 404
        for name in ("../oidc", "a" * 41, "", "A", "a:b"):
            answer = _call(hub, "PUT", _APPS, body | {"app": name}, key=key)
            assert answer.status_code == 422, name
        assert hub.call("GET", f"{_APPS}?app=private")["client_id"] == "private"
        hub.call("DELETE", f"{_APPS}?app=private")


ATTACKS = (
    Attack("imports: claim an account for the installation's app by a token of another app", _claim, SETUP),
    Attack("imports: labels with operators, and those of another workspace", _label, SETUP),
    Attack("imports: the app of another workspace by its name", _name, SETUP),
)

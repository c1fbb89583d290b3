"""Attacks of a tenant on what belongs to the installation: its default endpoints and its workspaces."""

from secrets import token_hex
from typing import Any

import httpx

from tests.attacks.attack import Attack
from tests.support.github import signed
from tests.support.hub import Hub

_ENDPOINTS = "/api/inbound-endpoints"
_GITHUB: dict[str, Any] = {"provider": "github", "name": "x"}
_BODY = b'{"zen":"x"}'
_OPERATOR_KEY = f"ilk_operator_{token_hex(12)}"


def _post(hub: Hub, path: str, secret: str) -> int:
    headers = signed(secret, "ping", _BODY)
    return httpx.post(hub.url("gateway") + path, content=_BODY, headers=headers, timeout=10).status_code


def _take_the_default_address(hub: Hub) -> None:
    """The workspace of the tests is not the operator's: it is a tenant here."""
    own = hub.github_endpoint()
    item = f"{_ENDPOINTS}/{own['id']}"
    for body in ({"installation_default": True}, {"installation_default": True, "require_signature": True}):
        hub.call("PATCH", item, body, expect=403)
        hub.call("POST", _ENDPOINTS, {**_GITHUB, **body}, expect=403)
    for field in ("is_default", "default", "workspace"):
        hub.call("PATCH", item, {field: True}, expect=422)
    assert _post(hub, "/api/webhooks/github", own["secret"]) == 404
    # With a default of the operator there, the tenant's secret opens it as little.
    hub.init("default", _OPERATOR_KEY)
    body = {**_GITHUB, "installation_default": True}
    default = hub.call("POST", _ENDPOINTS, body, key=_OPERATOR_KEY, expect=201)
    try:
        assert _post(hub, "/api/webhooks/github", own["secret"]) == 401
        assert _post(hub, "/api/webhooks/github", default["secret"]) == 202
        hub.call("PATCH", f"{_ENDPOINTS}/{default['id']}", {"installation_default": False}, expect=404)
    finally:
        hub.call("DELETE", f"{_ENDPOINTS}/{default['id']}", key=_OPERATOR_KEY, expect=204)


def _manage_workspaces(hub: Hub) -> None:
    hub.init("default", _OPERATOR_KEY)
    other = hub.call("POST", "/api/workspaces", {"name": "victim"}, key=_OPERATOR_KEY, expect=201)
    item = f"/api/workspaces/{other['id']}"
    for method, path, body in (
        ("POST", "/api/workspaces", {"name": "x"}),
        ("POST", "/api/workspaces", {"id": "default", "name": "x"}),
        ("GET", "/api/workspaces", None),
        ("GET", item, None),
        ("PATCH", item, {"name": "x"}),
        ("DELETE", item, None),
        ("POST", f"{item}/api-keys", {}),
        ("POST", "/api/workspaces/default/api-keys", {}),
    ):
        hub.call(method, path, body, expect=403)
    assert hub.call("GET", item, key=_OPERATOR_KEY)["name"] == "victim"
    assert hub.call("GET", "/api/api-keys", key=other["key"])["items"]


ATTACKS = (
    Attack("become the default endpoint of the installation", _take_the_default_address),
    Attack("manage the workspaces of others", _manage_workspaces),
)

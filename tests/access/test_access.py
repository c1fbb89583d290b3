"""Every route x scope x workspace, from the services' own OpenAPI: a route without a row here fails."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any

import httpx
import pytest

from shared.contracts.routes import SERVICE_PATHS, service_for_path
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with

hub = hub_with(env={"INTERLINK_RETURN_ORIGINS": "https://chat.example.com"})
ROW = tuple[str, str]
CLIENT = httpx.Client(timeout=30)
"""One client for all calls: a new one would cost more than a call."""

SCOPES = (
    "events:write",
    "webhooks:read",
    "webhooks:operate",
    "webhooks:write",
    "integrations:read",
    "integrations:operate",
    "integrations:write",
    "accounts:call",
    "tokens:read",
    "imports:read",
    "imports:write",
    "sync:read",
    "sync:write",
    "portal:write",
    "connect:write",
    "admin",
)

NEEDS: dict[ROW, str] = {
    ("POST", "/api/portal-sessions"): "portal:write",
    ("DELETE", "/api/portal-sessions/{session_id}"): "portal:write",
    ("POST", "/api/connect-sessions"): "connect:write",
    ("DELETE", "/api/connect-sessions/{session_id}"): "connect:write",
    ("POST", "/api/inbound-endpoints"): "integrations:write",
    ("GET", "/api/inbound-endpoints"): "integrations:read",
    ("GET", "/api/inbound-endpoints/{endpoint_id}"): "integrations:read",
    ("PATCH", "/api/inbound-endpoints/{endpoint_id}"): "integrations:write",
    ("DELETE", "/api/inbound-endpoints/{endpoint_id}"): "integrations:write",
    ("POST", "/api/inbound-endpoints/{endpoint_id}/rotate-secret"): "integrations:write",
    ("POST", "/api/inbound-endpoints/{endpoint_id}/enable"): "integrations:write",
    ("POST", "/api/inbound-endpoints/{endpoint_id}/disable"): "integrations:write",
    ("POST", "/api/inbound-endpoints/{endpoint_id}/handed-over-secret"): "integrations:write",
    ("POST", "/api/inbound-endpoints/{endpoint_id}/test"): "integrations:write",
    ("GET", "/api/inbound-endpoints/{endpoint_id}/events"): "integrations:read",
    ("GET", "/api/inbound-endpoints/{endpoint_id}/events/{execution_id}"): "integrations:read",
    ("GET", "/api/inbound-endpoints/{endpoint_id}/events/{execution_id}/payload"): "integrations:read",
    ("POST", "/api/inbound-endpoints/{endpoint_id}/events/{execution_id}/replay"): "integrations:operate",
    ("GET", "/api/endpoint-templates"): "integrations:read",
    ("POST", "/api/endpoint-templates/{template_id}"): "integrations:write",
    ("GET", "/api/catalog"): "integrations:read",
    ("GET", "/api/integration-webhooks"): "integrations:read",
    ("POST", "/api/incoming-webhooks"): "integrations:write",
    ("GET", "/api/incoming-webhooks"): "integrations:read",
    ("GET", "/api/incoming-webhooks/{endpoint_id}"): "integrations:read",
    ("PATCH", "/api/incoming-webhooks/{endpoint_id}"): "integrations:write",
    ("DELETE", "/api/incoming-webhooks/{endpoint_id}"): "integrations:write",
    ("POST", "/api/incoming-webhooks/{endpoint_id}/rotate-token"): "integrations:write",
    ("POST", "/api/events"): "events:write",
    ("POST", "/api/event-types"): "webhooks:write",
    ("GET", "/api/event-types"): "webhooks:read",
    ("GET", "/api/event-types/{name}"): "webhooks:read",
    ("PATCH", "/api/event-types/{name}"): "webhooks:write",
    ("DELETE", "/api/event-types/{name}"): "webhooks:write",
    ("POST", "/api/api-keys"): "admin",
    ("GET", "/api/api-keys"): "admin",
    ("DELETE", "/api/api-keys/{key_id}"): "admin",
    ("POST", "/api/members"): "admin",
    ("GET", "/api/members"): "admin",
    ("GET", "/api/members/{member_id}"): "admin",
    ("PATCH", "/api/members/{member_id}"): "admin",
    ("DELETE", "/api/members/{member_id}"): "admin",
    ("POST", "/api/members/{member_id}/rotate-key"): "admin",
    ("POST", "/api/members/{member_id}/restore"): "admin",
    ("POST", "/api/outgoing-webhooks"): "webhooks:write",
    ("GET", "/api/outgoing-webhooks"): "webhooks:read",
    ("GET", "/api/outgoing-webhooks/{webhook_id}"): "webhooks:read",
    ("PATCH", "/api/outgoing-webhooks/{webhook_id}"): "webhooks:write",
    ("DELETE", "/api/outgoing-webhooks/{webhook_id}"): "webhooks:write",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/test"): "webhooks:operate",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/rotate-secret"): "webhooks:write",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/enable"): "webhooks:write",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/disable"): "webhooks:write",
    ("GET", "/api/deliveries"): "webhooks:read",
    ("GET", "/api/deliveries/{delivery_id}"): "webhooks:read",
    ("GET", "/api/deliveries/count"): "webhooks:read",
    ("POST", "/api/deliveries/retry"): "webhooks:operate",
    ("POST", "/api/deliveries/{delivery_id}/resend"): "webhooks:operate",
    ("POST", "/api/deliveries/{delivery_id}/retry"): "webhooks:operate",
    ("POST", "/api/deliveries/{delivery_id}/cancel"): "webhooks:operate",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/recover"): "webhooks:operate",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/replay"): "webhooks:operate",
    ("GET", "/api/delivery-jobs"): "webhooks:read",
    ("GET", "/api/delivery-jobs/{job_id}"): "webhooks:read",
    ("POST", "/api/delivery-jobs/{job_id}/cancel"): "webhooks:operate",
    ("GET", "/api/dead-letters"): "webhooks:read",
    ("GET", "/api/dead-letters/{dead_letter_id}"): "webhooks:read",
    ("POST", "/api/dead-letters/replay"): "webhooks:operate",
    ("POST", "/api/dead-letters/discard"): "webhooks:operate",
    ("GET", "/api/queue/stats"): "webhooks:read",
    ("GET", "/api/queue/stats/hours"): "webhooks:read",
    ("GET", "/api/statistics"): "webhooks:read",
    ("GET", "/api/statistics/endpoints"): "integrations:read",
    ("GET", "/api/usage"): "webhooks:read",
    ("GET", "/api/executions"): "integrations:read",
    ("GET", "/api/retention/gateway"): "webhooks:read",
    ("GET", "/api/retention/delivery"): "webhooks:read",
    ("GET", "/api/retention/sync"): "sync:read",
    ("GET", "/api/retention/importer"): "imports:read",
    ("POST", "/api/queue/pause"): "webhooks:operate",
    ("POST", "/api/queue/resume"): "webhooks:operate",
    ("POST", "/api/outgoing-webhooks/preview"): "webhooks:write",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/pause"): "webhooks:operate",
    ("POST", "/api/outgoing-webhooks/{webhook_id}/resume"): "webhooks:operate",
    ("GET", "/api/outgoing-webhooks/{webhook_id}/stats"): "webhooks:read",
    ("POST", "/api/deliveries/erase"): "webhooks:write",
    ("GET", "/api/events/unmatched"): "webhooks:read",
    ("POST", "/api/auth/oauth/connect"): "integrations:write",
    ("POST", "/api/auth/oauth/confirm"): "integrations:write",
    ("POST", "/api/integrations"): "integrations:write",
    ("GET", "/api/integrations"): "integrations:read",
    ("GET", "/api/integrations/{integration_id}"): "integrations:read",
    ("GET", "/api/integrations/{integration_id}/status"): "integrations:read",
    ("PATCH", "/api/integrations/{integration_id}"): "integrations:write",
    ("DELETE", "/api/integrations/{integration_id}"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/reconnect"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/fields"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/choose"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/check"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/refresh"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/disable"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/enable"): "integrations:write",
    ("POST", "/api/integrations/{integration_id}/disconnect"): "integrations:write",
    ("GET", "/api/integrations/{integration_id}/watches"): "integrations:read",
    ("POST", "/api/integrations/{integration_id}/watches"): "integrations:write",
    ("DELETE", "/api/integrations/{integration_id}/watches/{watch_id}"): "integrations:write",
    ("GET", "/api/integrations/{integration_id}/proxy/{path}"): "accounts:call",
    ("POST", "/api/integrations/{integration_id}/proxy/{path}"): "accounts:call",
    ("PUT", "/api/integrations/{integration_id}/proxy/{path}"): "accounts:call",
    ("PATCH", "/api/integrations/{integration_id}/proxy/{path}"): "accounts:call",
    ("DELETE", "/api/integrations/{integration_id}/proxy/{path}"): "accounts:call",
    ("POST", "/api/integrations/{integration_id}/token"): "tokens:read",
    ("POST", "/api/integrations/{integration_id}/token/refused"): "tokens:read",
    ("GET", "/api/polling-triggers"): "integrations:read",
    ("POST", "/api/polling-triggers"): "integrations:write",
    ("GET", "/api/polling-triggers/{polling_trigger_id}"): "integrations:read",
    ("PATCH", "/api/polling-triggers/{polling_trigger_id}"): "integrations:write",
    ("DELETE", "/api/polling-triggers/{polling_trigger_id}"): "integrations:write",
    ("POST", "/api/polling-triggers/{polling_trigger_id}/pause"): "integrations:write",
    ("POST", "/api/polling-triggers/{polling_trigger_id}/resume"): "integrations:write",
    ("GET", "/api/platform-credentials"): "integrations:read",
    ("GET", "/api/platform-credentials/{provider}"): "integrations:read",
    ("PUT", "/api/platform-credentials/{provider}"): "admin",
    ("DELETE", "/api/platform-credentials/{provider}"): "admin",
    ("POST", "/api/platform-credentials/{provider}/verify"): "admin",
    ("GET", "/api/audit"): "admin",
    ("POST", "/api/messages/preview"): "webhooks:read",
    ("POST", "/api/mappings"): "sync:write",
    ("GET", "/api/mappings"): "sync:read",
    ("POST", "/api/mappings/preview"): "sync:write",
    ("GET", "/api/mappings/{mapping_id}"): "sync:read",
    ("PATCH", "/api/mappings/{mapping_id}"): "sync:write",
    ("DELETE", "/api/mappings/{mapping_id}"): "sync:write",
    ("POST", "/api/mappings/{mapping_id}/pause"): "sync:write",
    ("POST", "/api/mappings/{mapping_id}/resume"): "sync:write",
    ("POST", "/api/mappings/{mapping_id}/test"): "sync:write",
    ("GET", "/api/sync/conversations"): "sync:read",
    ("GET", "/api/sync/people"): "sync:read",
    ("GET", "/api/sync/queue/stats"): "sync:read",
    ("PUT", "/api/people-links"): "sync:write",
    ("GET", "/api/people-links"): "sync:read",
    ("DELETE", "/api/people-links/{person_link_id}"): "sync:write",
    ("GET", "/api/synced-messages"): "sync:read",
    ("GET", "/api/synced-messages/{synced_message_id}"): "sync:read",
    ("POST", "/api/synced-messages/{synced_message_id}/retry"): "sync:write",
    ("POST", "/api/synced-messages/{synced_message_id}/discard"): "sync:write",
    ("GET", "/api/conflicts"): "sync:read",
    ("POST", "/api/conflicts/{conflict_id}/resolve"): "sync:write",
    ("POST", "/api/uploads"): "imports:write",
    ("GET", "/api/uploads"): "imports:read",
    ("GET", "/api/uploads/{upload_id}"): "imports:read",
    ("HEAD", "/api/uploads/{upload_id}"): "imports:read",
    ("PATCH", "/api/uploads/{upload_id}"): "imports:write",
    ("DELETE", "/api/uploads/{upload_id}"): "imports:write",
    ("POST", "/api/integrations/{integration_id}/import"): "imports:write",
    ("POST", "/api/imports"): "imports:write",
    ("GET", "/api/imports"): "imports:read",
    ("GET", "/api/imports/{import_id}"): "imports:read",
    ("GET", "/api/imports/{import_id}/plan"): "imports:read",
    ("PUT", "/api/imports/{import_id}/plan"): "imports:write",
    ("PATCH", "/api/imports/{import_id}/plan"): "imports:write",
    ("POST", "/api/imports/{import_id}/start"): "imports:write",
    ("POST", "/api/imports/{import_id}/pause"): "imports:write",
    ("POST", "/api/imports/{import_id}/resume"): "imports:write",
    ("POST", "/api/imports/{import_id}/cancel"): "imports:write",
    ("GET", "/api/imports/{import_id}/undo"): "imports:read",
    ("POST", "/api/imports/{import_id}/undo"): "imports:write",
    ("GET", "/api/imports/{import_id}/channels"): "imports:read",
    ("GET", "/api/imports/{import_id}/people"): "imports:read",
    ("GET", "/api/imports/{import_id}/issues"): "imports:read",
    ("GET", "/api/imports/{import_id}/files"): "imports:read",
    ("GET", "/api/imports/{import_id}/report"): "imports:read",
    ("GET", "/api/imports/{import_id}/report/days"): "imports:read",
    ("GET", "/api/imports/{import_id}/report/channels"): "imports:read",
    ("GET", "/api/imports/{import_id}/events"): "imports:read",
}
OPERATOR: frozenset[ROW] = frozenset(
    {
        ("POST", "/api/workspaces"),
        ("GET", "/api/workspaces"),
        ("GET", "/api/workspaces/{workspace_id}"),
        ("PATCH", "/api/workspaces/{workspace_id}"),
        ("DELETE", "/api/workspaces/{workspace_id}"),
        ("POST", "/api/workspaces/{workspace_id}/api-keys"),
    }
)
"""For admin keys of the operator's workspace alone: see test_workspaces.py."""
OPEN: dict[ROW, int] = {
    ("GET", "/api/auth/oauth/callback"): 400,
    ("GET", "/api/files/{token}"): 404,
    ("GET", "/api/files/imported/{token}"): 404,
    ("OPTIONS", "/api/uploads"): 204,
}
"""Routes without a key, and their status without anything else.

Providers redirect browsers to the first, with a state and its cookie. The address of a file is its proof. A
client of tus asks for the limits before it has a key.
"""

ROWS = sorted(NEEDS)
EXPECTED_STATUS: dict[ROW, int] = {
    ("POST", "/api/inbound-endpoints/{endpoint_id}/handed-over-secret"): 409,
    ("POST", "/api/inbound-endpoints/{endpoint_id}/events/{execution_id}/replay"): 409,
    ("GET", "/api/executions"): 422,
    ("POST", "/api/auth/oauth/confirm"): 404,
    ("POST", "/api/integrations"): 422,
    ("POST", "/api/integrations/{integration_id}/fields"): 409,
    ("POST", "/api/integrations/{integration_id}/choose"): 422,
    ("POST", "/api/integrations/{integration_id}/check"): 409,
    ("POST", "/api/integrations/{integration_id}/refresh"): 409,
    ("POST", "/api/integrations/{integration_id}/disable"): 409,
    ("POST", "/api/integrations/{integration_id}/enable"): 409,
    ("POST", "/api/integrations/{integration_id}/watches"): 422,
    ("POST", "/api/integrations/{integration_id}/import"): 422,
    ("DELETE", "/api/integrations/{integration_id}/watches/{watch_id}"): 404,
    ("GET", "/api/integrations/{integration_id}/proxy/{path}"): 409,
    ("POST", "/api/integrations/{integration_id}/proxy/{path}"): 409,
    ("PUT", "/api/integrations/{integration_id}/proxy/{path}"): 409,
    ("PATCH", "/api/integrations/{integration_id}/proxy/{path}"): 409,
    ("DELETE", "/api/integrations/{integration_id}/proxy/{path}"): 409,
    ("POST", "/api/integrations/{integration_id}/token"): 409,
    ("POST", "/api/integrations/{integration_id}/token/refused"): 409,
    ("POST", "/api/platform-credentials/{provider}/verify"): 503,
    ("GET", "/api/sync/conversations"): 422,
    ("GET", "/api/sync/people"): 422,
    ("PUT", "/api/people-links"): 404,
    ("DELETE", "/api/people-links/{person_link_id}"): 404,
    ("GET", "/api/synced-messages/{synced_message_id}"): 404,
    ("POST", "/api/synced-messages/{synced_message_id}/retry"): 404,
    ("POST", "/api/synced-messages/{synced_message_id}/discard"): 404,
    ("POST", "/api/conflicts/{conflict_id}/resolve"): 404,
    ("POST", "/api/uploads"): 400,
    ("PATCH", "/api/uploads/{upload_id}"): 404,
    ("DELETE", "/api/uploads/{upload_id}"): 404,
    ("GET", "/api/uploads/{upload_id}"): 404,
    ("HEAD", "/api/uploads/{upload_id}"): 404,
    ("POST", "/api/imports"): 404,
    **{row: 404 for row in NEEDS if row[1].startswith("/api/imports/")},
}
"""Expected statuses of permitted calls that fail for the items of this test: its account was never connected,
and its provider is not there."""
PROVIDER = "oidc"
SINCE = {"since": "2020-01-01T00:00:00Z"}


def allows(held: str, needed: str) -> bool:
    """Return whether a scope includes another: `admin` all but `tokens:read`, `x:write` also `x:read`."""
    if needed == "tokens:read":
        return held == needed
    return held in (needed, "admin") or held == re.sub(":(read|operate)", ":write", needed)


def two_channels() -> dict[str, Any]:
    """Return a mapping of two channels that nothing else uses."""
    names = (f"c-{token_hex(8)}" for _ in range(2))
    return {"legs": [{"provider": "chat", "conversation": name} for name in names]}


def body_for(row: ROW) -> Any:
    """Return a body that the route accepts."""
    method, path = row
    bodies: dict[ROW, Any] = {
        ("POST", "/api/portal-sessions"): {
            "customer": "acme",
            "events": ["message.created"],
            "origins": ["https://chat.example.com"],
        },
        ("POST", "/api/connect-sessions"): {
            "user": "ada",
            "providers": ["github"],
            "origin": "https://chat.example.com",
        },
        ("POST", "/api/inbound-endpoints"): {"provider": "github", "name": "x"},
        ("POST", "/api/incoming-webhooks"): {"name": "x", "target_channel_id": "general"},
        ("POST", "/api/events"): {"specversion": "1.0", "id": "1", "type": "note.written", "source": "/t"},
        ("POST", "/api/event-types"): {"name": f"own.t{token_hex(8)}", "about": "x"},
        ("POST", "/api/api-keys"): {"name": "x", "scopes": ["events:write"]},
        ("POST", "/api/members"): {"name": "x", "role": "viewer"},
        ("POST", "/api/outgoing-webhooks"): {
            "name": "x",
            "url": f"http://127.0.0.1:9/{token_hex(8)}",
            "events": ["never.sent"],
        },
        ("POST", "/api/endpoint-templates/{template_id}"): {"channel_id": "general"},
        ("POST", "/api/auth/oauth/connect"): {"provider": PROVIDER},
        ("POST", "/api/auth/oauth/confirm"): {"confirmation_code": "x", "user": "ada"},
        ("POST", "/api/integrations"): {"provider": PROVIDER, "fields": {}},
        ("POST", "/api/messages/preview"): {"provider": "github", "event": "ping", "payload": {}},
        ("POST", "/api/mappings"): two_channels(),
        ("POST", "/api/mappings/preview"): two_channels(),
        ("PUT", "/api/people-links"): {"provider": "slack", "person_id": "U1", "user_id": "usr_1"},
        ("POST", "/api/conflicts/{conflict_id}/resolve"): {"use": "other"},
        ("POST", "/api/imports"): {"upload_id": "upl_x"},
        ("PUT", "/api/imports/{import_id}/plan"): {},
        ("POST", "/api/imports/{import_id}/start"): {},
        ("POST", "/api/imports/{import_id}/undo"): {"messages": 0},
        ("PATCH", "/api/integrations/{integration_id}"): {"name": "x"},
        ("POST", "/api/integrations/{integration_id}/reconnect"): {},
        ("POST", "/api/integrations/{integration_id}/fields"): {"fields": {}},
        ("POST", "/api/integrations/{integration_id}/choose"): {"choice": "x"},
        ("POST", "/api/integrations/{integration_id}/watches"): {"watch": "x"},
        ("POST", "/api/integrations/{integration_id}/import"): {},
        ("POST", "/api/integrations/{integration_id}/token/refused"): {"version": 0},
        ("POST", "/api/polling-triggers"): {
            "trigger": "rss_trigger_new_item",
            "params": {"url": "http://127.0.0.1:9/feed"},
        },
        ("PUT", "/api/platform-credentials/{provider}"): {
            "client_id": "x",
            "client_secret": "x",
            "settings": {
                name: f"http://127.0.0.1:9/{name}" for name in ("authorize_url", "token_url", "userinfo_url")
            },
            "verified": True,
        },
    }
    if method in ("GET", "HEAD", "DELETE"):
        return None
    if path.startswith("/api/inbound-endpoints/"):
        return {} if method == "PATCH" or path.endswith(("rotate-secret", "/test")) else None
    if path == "/api/deliveries/retry":
        return {"ids": ["dlv_x"]}
    if path.endswith("/erase"):
        return {"event_id": "evt_x"}
    if path == "/api/outgoing-webhooks/preview":
        return {}
    if path.startswith("/api/synced-messages/"):
        return None
    if path.endswith(("/recover", "/replay", "/discard")):
        return {"ids": ["dlv_x"]} if "dead-letters" in path else SINCE
    return bodies.get(
        row, {} if method == "PATCH" or path.endswith(("rotate-secret", "rotate-token")) else None
    )


@dataclass
class Items:
    """The ids of one item of each kind in a workspace."""

    endpoint: str
    incoming: str
    webhook: str
    delivery: str
    key: str
    member: str = "mem_x"
    event_type: str = "own.x"
    dead_letter: str = "dlv_x"
    job: str = "job_x"
    execution: str = "exe_x"
    integration: str = "int_x"
    polling_trigger: str = "pol_x"
    mapping: str = "map_x"

    def path(self, template: str) -> str:
        endpoint = self.incoming if "/incoming-webhooks/" in template else self.endpoint
        return (
            template.replace("{endpoint_id}", endpoint)
            .replace("{webhook_id}", self.webhook)
            .replace("{delivery_id}", self.delivery)
            .replace("{key_id}", self.key)
            .replace("{member_id}", self.member)
            .replace("{name}", self.event_type)
            .replace("{dead_letter_id}", self.dead_letter)
            .replace("{job_id}", self.job)
            .replace("{execution_id}", self.execution)
            .replace("{integration_id}", self.integration)
            .replace("{watch_id}", "wch_x")
            .replace("{path}", "user")
            .replace("{polling_trigger_id}", self.polling_trigger)
            .replace("{mapping_id}", self.mapping)
            .replace("{person_link_id}", "pl_x")
            .replace("{synced_message_id}", "syn_x")
            .replace("{conflict_id}", "cfl_x")
            .replace("{upload_id}", "upl_x")
            .replace("{import_id}", "imp_x")
            .replace("{session_id}", "ptl_x")
            .replace("{template_id}", "github-to-channel")
            .replace("{provider}", PROVIDER)
        )


def register(hub: Hub, key: str | None = None) -> None:
    """Register the workspace's OAuth app."""
    row = ("PUT", "/api/platform-credentials/{provider}")
    hub.call("PUT", f"/api/platform-credentials/{PROVIDER}", body_for(row), key=key)


def connect(hub: Hub, key: str | None = None) -> str:
    """Create an integration that waits for its user, and return its id."""
    row = ("POST", "/api/auth/oauth/connect")
    return str(hub.call(*row, body_for(row), key=key)["integration_id"])


def create_items(hub: Hub, key: str | None = None) -> Items:
    register(hub, key)
    webhook = hub.call(
        "POST", "/api/outgoing-webhooks", body_for(("POST", "/api/outgoing-webhooks")), key=key
    )["id"]
    delivery = hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test", key=key)["delivery_id"]
    once = body_for(("POST", "/api/outgoing-webhooks")) | {"retry": {"schedule": [0]}}
    dying = hub.call("POST", "/api/outgoing-webhooks", once, key=key)["id"]
    items = Items(
        endpoint=hub.call("POST", "/api/inbound-endpoints", {"provider": "github", "name": "x"}, key=key)[
            "id"
        ],
        incoming=hub.call(
            "POST", "/api/incoming-webhooks", {"name": "x", "target_channel_id": "general"}, key=key
        )["id"],
        webhook=webhook,
        delivery=delivery,
        key=hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["events:write"]}, key=key)["id"],
        member=hub.call("POST", "/api/members", {"name": "x", "role": "viewer"}, key=key)["id"],
        event_type=hub.call("POST", "/api/event-types", body_for(("POST", "/api/event-types")), key=key)[
            "name"
        ],
        dead_letter=hub.call("POST", f"/api/outgoing-webhooks/{dying}/test", key=key)["delivery_id"],
        job=hub.call("POST", f"/api/outgoing-webhooks/{dying}/recover", SINCE, key=key)["job"]["id"],
        integration=connect(hub, key),
        polling_trigger=hub.call(
            "POST", "/api/polling-triggers", body_for(("POST", "/api/polling-triggers")), key=key
        )["id"],
        mapping=hub.call("POST", "/api/mappings", two_channels(), key=key)["id"],
    )
    httpx.post(f"{hub.url('gateway')}/api/webhooks/github/{items.endpoint}", content=b"{}")
    received = f"/api/inbound-endpoints/{items.endpoint}/events"
    eventually(lambda: bool(hub.call("GET", received, key=key)["items"]))
    items.execution = hub.call("GET", received, key=key)["items"][0]["id"]
    eventually(lambda: len(hub.call("GET", "/api/deliveries", key=key)["items"]) == 2)
    eventually(lambda: bool(hub.call("GET", "/api/dead-letters", key=key)["items"]))
    return items


def ask(hub: Hub, row: ROW, path: str, headers: dict[str, str]) -> httpx.Response:
    base = hub.url(service_for_path(path.partition("?")[0]))
    return CLIENT.request(row[0], base + path, json=body_for(row), headers=headers)


WITH_API = ("gateway", *SERVICE_PATHS)
"""The services with a management API. Each has an OpenAPI document."""
WHERE = {
    "gateway": "/api/inbound-endpoints",
    "delivery": "/api/outgoing-webhooks",
    "sync": "/api/mappings",
    "oauth": "/api/integrations",
    "importer": "/api/imports",
}


def wait_until_known(hub: Hub, key: str, *, status: int, within_s: float = 60) -> None:
    """Wait until every service answers this key with this status."""
    for service, path in WHERE.items():

        def check(url: str = hub.url(service) + path) -> bool:
            return httpx.get(url, headers=bearer(key)).status_code == status

        eventually(check, within_s)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def scoped(hub: Hub) -> dict[str, str]:
    """Keys with one scope each, which every service knows."""
    keys = {
        scope: hub.call("POST", "/api/api-keys", {"name": scope, "scopes": [scope]})["key"]
        for scope in SCOPES
    }
    last = hub.call("POST", "/api/api-keys", {"name": "last", "scopes": ["admin"]})["key"]
    wait_until_known(hub, last, status=200)  # made after the others, so those are known too
    register(hub)
    return keys


@pytest.fixture(scope="module")
def others(hub: Hub) -> Items:
    """Items of another workspace."""
    key = hub.other_workspace()
    wait_until_known(hub, key, status=200)
    return create_items(hub, key)


def test_every_route_has_a_row(hub: Hub) -> None:
    routes: set[ROW] = set()
    for service in WITH_API:
        document = httpx.get(f"{hub.url(service)}/openapi/{service}.json").json()
        routes |= {
            (method.upper(), path) for path, methods in document["paths"].items() for method in methods
        }
    assert routes == NEEDS.keys() | OPEN.keys() | OPERATOR


def test_the_documents_name_the_scopes(hub: Hub) -> None:
    named: dict[ROW, Any] = {}
    for service in WITH_API:
        document = httpx.get(f"{hub.url(service)}/openapi/{service}.json").json()
        assert document["components"]["securitySchemes"].keys() == {"ApiKey"}
        for path, methods in document["paths"].items():
            named |= {(method.upper(), path): call["security"] for method, call in methods.items()}
    needs = NEEDS | dict.fromkeys(OPERATOR, "admin")
    assert named == {row: [{"ApiKey": [scope]}] for row, scope in needs.items()} | {row: [] for row in OPEN}


@pytest.mark.parametrize("row", sorted(OPEN), ids=" ".join)
def test_a_key_changes_nothing_where_none_is_needed(hub: Hub, row: ROW) -> None:
    answers = [ask(hub, row, row[1], headers) for headers in ({}, bearer("ilk_wrong"), bearer(hub.admin_key))]
    assert {answer.status_code for answer in answers} == {OPEN[row]}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_without_a_key(hub: Hub, row: ROW) -> None:
    path = Items("ep_x", "ep_x", "wh_x", "dlv_x", "key_x").path(row[1])
    refused: tuple[dict[str, str], ...] = (
        {},
        {"authorization": "Bearer"},
        {"authorization": hub.admin_key},
        bearer("ilk_wrong"),
        bearer("x" * 5000),
    )
    for headers in refused:
        answer = ask(hub, row, path, headers)
        assert answer.status_code == 401, (headers, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"


def permitted(hub: Hub, scoped: dict[str, str], row: ROW) -> dict[str, str]:
    """Return the header of a key that may make the call: the admin key, if it includes the scope."""
    return bearer(hub.admin_key if allows("admin", NEEDS[row]) else scoped[NEEDS[row]])


@pytest.mark.parametrize("row", [row for row in ROWS if "{path}" not in row[1]], ids=" ".join)
def test_an_unknown_parameter_is_rejected_with_permission(hub: Hub, scoped: dict[str, str], row: ROW) -> None:
    """But for calls with an account, whose parameters are the provider's."""
    path = Items("ep_x", "ep_x", "wh_x", "dlv_x", "key_x").path(row[1]) + "?no_such=hidden"
    refused = ask(hub, row, path, permitted(hub, scoped, row))
    assert refused.status_code == 422, refused.text
    if row[0] != "HEAD":  # whose answer has no body
        assert [error["field"] for error in refused.json()["errors"]] == ["query.no_such"]
    assert "hidden" not in refused.text
    assert ask(hub, row, path, {}).status_code == 401
    unfit = next(scope for scope in SCOPES if not allows(scope, NEEDS[row]))
    assert ask(hub, row, path, bearer(scoped[unfit])).status_code == 403


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_each_scope(hub: Hub, scoped: dict[str, str], row: ROW) -> None:
    for scope, key in scoped.items():
        path = make_path(hub, row)
        status = ask(hub, row, path, bearer(key)).status_code
        if status == 409 and path.endswith("/retry"):  # it is being attempted just now: it can be soon

            def later(path: str = path, key: str = key) -> int:
                again = ask(hub, row, path, bearer(key)).status_code
                return 0 if again == 409 else again

            status = eventually(later)
        if allows(scope, NEEDS[row]):
            assert status == EXPECTED_STATUS[row] if row in EXPECTED_STATUS else status < 400, (scope, status)
        else:
            assert status == 403, (scope, status)


def make_path(hub: Hub, row: ROW) -> str:
    """Return the path of an existing item, a new one if the call deletes it."""
    if "{" not in row[1]:
        return row[1]
    if row[0] == "DELETE" and "{watch_id}" not in row[1] and "{path}" not in row[1]:
        kind = row[1].split("/")[2]
        if kind == "integrations":
            return f"/api/{kind}/{connect(hub)}"
        if kind in ("people-links", "uploads"):
            return f"/api/{kind}/none"
        if kind == "platform-credentials":
            app = {"client_id": "x", "client_secret": "x", "verified": True}
            hub.call("PUT", f"/api/{kind}/zoom", app)
            return f"/api/{kind}/zoom"
        created = hub.call("POST", f"/api/{kind}", body_for(("POST", f"/api/{kind}")))
        return f"/api/{kind}/{created.get('id') or created['name']}"
    return _own_items(hub).path(row[1])


_OWN_ITEMS: dict[int, Items] = {}


def _own_items(hub: Hub) -> Items:
    if id(hub) not in _OWN_ITEMS:
        _OWN_ITEMS[id(hub)] = create_items(hub)
    return _OWN_ITEMS[id(hub)]


OF_THE_WORKSPACE = [
    row for row in ROWS if "{" in row[1] and not row[1].startswith(("/api/endpoint-t", "/api/platform-c"))
]
"""Routes with an id. Templates are everybody's, apps depend on the caller: tests/oauth/test_apps.py."""


@pytest.mark.parametrize("row", OF_THE_WORKSPACE, ids=" ".join)
def test_items_of_another_workspace_are_not_found(
    hub: Hub, others: Items, scoped: dict[str, str], row: ROW
) -> None:
    key = permitted(hub, scoped, row)
    theirs = ask(hub, row, others.path(row[1]), key)
    nobodys = ask(hub, row, Items("ep_x", "ep_x", "wh_x", "dlv_x", "key_x").path(row[1]), key)
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.text == nobodys.text


LISTS = [row for row in ROWS if row[0] == "GET" and "{" not in row[1] and row[1] != "/api/audit"]
"""Entries of the audit log repeat the ids that callers of the workspace sent: see test_audit.py."""


@pytest.mark.parametrize("row", LISTS, ids=" ".join)
def test_lists_show_only_the_keys_workspace(hub: Hub, others: Items, row: ROW) -> None:
    text = ask(hub, row, row[1], bearer(hub.admin_key)).text
    for item in vars(others).values():
        assert item not in text


def test_another_workspaces_deliveries_by_filter(hub: Hub, others: Items) -> None:
    assert hub.call("GET", f"/api/deliveries?webhook_id={others.webhook}")["items"] == []
    assert hub.call("GET", f"/api/queue/stats?webhook_id={others.webhook}")["total"] == 0


def test_a_revoked_key_is_refused_everywhere_within_seconds(hub: Hub) -> None:
    created = hub.call("POST", "/api/api-keys", {"name": "short", "scopes": ["admin"]})
    wait_until_known(hub, created["key"], status=200)
    hub.call("DELETE", f"/api/api-keys/{created['id']}")
    wait_until_known(hub, created["key"], status=401)


def test_a_key_expires_by_itself(hub: Hub) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    created = hub.call("POST", "/api/api-keys", {"name": "brief", "scopes": ["admin"], "expires_at": soon})
    url = hub.url("gateway") + "/api/inbound-endpoints"
    assert httpx.get(url, headers=bearer(created["key"])).status_code == 200
    eventually(lambda: httpx.get(url, headers=bearer(created["key"])).status_code == 401)
    hub.call(
        "POST",
        "/api/api-keys",
        {"name": "x", "scopes": ["admin"], "expires_at": "2001-01-01T00:00:00Z"},
        expect=422,
    )


def test_a_key_is_shown_once_and_its_use_is_stored(hub: Hub) -> None:
    created = hub.call("POST", "/api/api-keys", {"name": "once", "scopes": ["events:write"]})
    listed = httpx.get(hub.url("gateway") + "/api/api-keys?limit=500", headers=bearer(hub.admin_key)).text
    assert created["key"] not in listed
    assert created["prefix"] in listed
    for service in hub.services:
        assert created["key"] not in hub.log_text(service)
        assert hub.admin_key not in hub.log_text(service)

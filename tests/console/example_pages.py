"""A hub with one object of each kind, and the pages of all of them."""

from pathlib import Path

import interlink.examples
from services.console.pages.registry import KINDS
from tests.importer.archives import zipped
from tests.importer.test_imports import reached, uploaded
from tests.support.eventually import eventually
from tests.support.hub import Hub


def filled(hub: Hub) -> list[str]:
    """Create one object of each kind; return the pages of all lists, forms and objects."""
    long = "a name without any space in it " + "x" * 60
    endpoint = hub.github_endpoint(name=long[:90])
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/hook", name=long[:90])["id"]
    delivery = hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")["delivery_id"]
    hub.call("POST", f"/api/inbound-endpoints/{endpoint['id']}/test", {})
    events = f"/api/inbound-endpoints/{endpoint['id']}/events"
    eventually(lambda: hub.call("GET", events)["items"])
    execution = hub.call("GET", events)["items"][0]["id"]
    eventually(
        lambda: [item for item in hub.deliveries() if item["id"] == delivery and item["attempt_count"]]
    )
    paths = ["", "/statistics", "/help", "/retention", "/sessions", "/find?id=C0123456789", "/nothing"]
    for kind in KINDS:
        if "{" not in kind.path:
            paths.append(f"/{kind.path}")
            paths += [f"/{kind.path}/do/{action.name}" for action in kind.list_actions]
            paths += [f"/{kind.path}/bulk/{action.name}" for action in kind.bulk]
    paths += [f"/endpoints/{endpoint['id']}", f"/endpoints/{endpoint['id']}/events"]
    paths += [f"/endpoints/{endpoint['id']}/events/{execution}", f"/webhooks/{webhook}"]
    paths += [
        f"/webhooks/{webhook}/do/edit",
        f"/deliveries/{delivery}",
        f"/paths/{execution}",
        f"/webhooks/{webhook}/do/recover",
        f"/webhooks/{webhook}/do/delete",
    ]
    paths += [
        "/imports/new",
        "/event-types/message.created",
        "/catalogue",
        "/catalogue/github",
        "/catalogue/github/oauth2",
    ]
    paths += ["/catalogue/github/oauth-app", "/catalogue/telegram"]
    app = {"client_id": "a-client", "client_secret": "a-secret", "verified": True, "app": "other"}
    hub.call("PUT", "/api/platform-credentials/slack", app)
    paths += ["/apps", "/apps/slack/delete?scope=workspace&app=other", "/catalogue/slack"]
    member = hub.call("POST", "/api/members", {"name": long[:90], "role": "viewer"}, expect=201)["id"]
    paths += [f"/members/{member}", f"/members/{member}/do/remove"]
    paths += ["/connected?error=access_denied&provider=github", "/endpoints/new"]
    own = f"/endpoints/{endpoint['id']}"
    paths += ["/endpoints/new/slack", f"{own}/setup", f"{own}/do/edit"]
    return [*paths, *import_paths(hub)]


def import_paths(hub: Hub) -> list[str]:
    """Try an import of the sample export, and map channels; return the pages of both."""
    folder = Path(interlink.examples.__file__).parent / "slack-export"
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.json")}
    made = hub.call(
        "POST", "/api/imports", {"upload_id": uploaded(hub, zipped(files).getvalue())}, expect=201
    )
    reached(hub, made["id"], "ready")
    hub.call("POST", f"/api/imports/{made['id']}/start", {"dry_run": True})
    eventually(lambda: reached(hub, made["id"], "ready")["dry_run"])
    legs = [{"provider": "chat", "conversation": f"{name}-{made['id']}"} for name in ("one", "two")]
    mapping = hub.call("POST", "/api/mappings", {"name": "two channels", "legs": legs}, expect=201)["id"]
    own = f"/imports/{made['id']}"
    found = [f"{own}/{part}" for part in ("people", "channels", "options", "report", "do/undo")]
    found += ["/imports/account", "/mappings/find", f"/mappings/{mapping}", f"/mappings/{mapping}/do/edit"]
    return [own, *found]

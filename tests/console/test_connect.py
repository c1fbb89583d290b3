"""Accounts are connected from the catalogue: by OAuth at a strict server; every form is shown."""

from collections.abc import Iterator
from secrets import token_hex

import pytest

from shared.manifests.registry import registry
from tests.console.person import Person
from tests.support.hub import Hub
from tests.support.recorded_secrets import record_secret
from tests.support.rotating_server import RotatingServer

CALLBACK = "/api/auth/oauth/callback"


@pytest.fixture(scope="module")
def server(hub: Hub) -> Iterator[RotatingServer]:
    """An authorization server where somebody is signed in already."""
    secret = f"the-secret-of-the-app-{token_hex(8)}"
    record_secret("a client secret", secret)
    with RotatingServer("console", secret, hub.url("gateway") + CALLBACK) as server:
        server.login("ada")
        yield server


def test_an_account_is_connected_in_two_clicks_once_the_app_is_registered(
    hub: Hub, admin: Person, server: RotatingServer
) -> None:
    page = admin.open("/console/catalogue/oidc")
    assert "First, the operator registers an app" in page.text
    form = admin.open(page.link("/oauth-app"))
    assert hub.url("gateway") + CALLBACK in form.text, "to copy to the provider"
    saved = admin.send(
        form, "/oauth-app", client_id="console", client_secret=server.client_secret, **server.settings
    )
    assert saved.path == "/console/catalogue/oidc", saved.text
    ask = admin.open(saved.link("/oauth2"))
    leave = admin.send(ask, "/oauth2", name="Ada's account")
    assert leave.status == 200, leave.text
    away = next(link for link in leave.links if link.startswith(server.url))
    connected = admin.open(away)
    assert connected.path.startswith("/console/integrations/int_")
    assert "Ada's account" in connected.text
    assert "connected" in connected.text
    assert connected.path.rpartition("/")[2] == hub.call("GET", "/api/integrations")["items"][0]["id"]
    again = admin.send(connected, "/reconnect")
    assert again.status == 200
    assert any(link.startswith(server.url) for link in again.links)


def test_a_link_to_a_provider_works_in_no_other_browser(
    hub: Hub, admin: Person, server: RotatingServer
) -> None:
    leave = admin.send(admin.open("/console/catalogue/oidc/oauth2"), "/oauth2")
    away = next(link for link in leave.links if link.startswith(server.url))
    before = len(hub.call("GET", "/api/integrations")["items"])
    other = Person(hub.url("gateway"))
    assert other.client.get(away).status_code in (400, 403, 409)
    states = [item["status"] for item in hub.call("GET", "/api/integrations")["items"]]
    assert len(states) == before
    assert states.count("connected") == 1


def test_a_refusal_says_what_to_do(admin: Person) -> None:
    page = admin.open("/console/connected?error=access_denied&integration_id=int_x")
    assert "refused. Connect it again" in page.text
    page = admin.open("/console/connected?error=<script>alert(1)</script>")
    assert "<script>alert(1)</script>" in page.text


def test_every_provider_and_each_of_its_forms_is_shown(admin: Person) -> None:
    catalogue = admin.open("/console/catalogue")
    for provider in registry().providers:
        page = admin.open(catalogue.link(f"/console/catalogue/{provider}"))
        assert page.status == 200
        for link in page.links:
            if link.startswith(f"/console/catalogue/{provider}/"):
                assert admin.open(link).status == 200, link
    assert admin.open("/console/catalogue/none").status == 404
    assert admin.open("/console/catalogue/github/none").status == 404
    assert "generic" in admin.open("/console/catalogue?q=nothing+like+this").text
    found = admin.open("/console/catalogue?q=github")
    assert found.link("/console/catalogue/github")

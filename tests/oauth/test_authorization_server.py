"""An authorization at a real authorization server (npm's oidc-provider): PKCE, rotation, revocation."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.auth_servers import Client, OidcProvider
from tests.support.hub import Hub, hub_with
from tests.support.npm import Unavailable
from tests.support.person import Person

CALLBACK = "/api/auth/oauth/callback"


hub = hub_with(services=("gateway", "oauth"), env={"INTERLINK_UPKEEP_EVERY_S": "0.5"}, entrance=True)


@pytest.fixture(scope="module")
def server(hub: Hub) -> Iterator[OidcProvider]:
    client = Client("hub", "the-secret-of-the-hub", [hub.url("gateway") + CALLBACK])
    with ExitStack() as stack:
        try:
            server = stack.enter_context(OidcProvider([client], access_token_s=8))
        except Unavailable as error:
            pytest.skip(str(error))
        register(hub, server, client)
        yield server


def register(hub: Hub, server: OidcProvider, client: Client) -> None:
    """Tell the hub about the app that it has at the server."""
    settings = {
        "authorize_url": server.authorize_url,
        "token_url": server.token_url,
        "userinfo_url": server.userinfo_url,
        "revoke_url": server.revoke_url,
        "issuer": server.url,
    }
    body = {"client_id": client.id, "client_secret": client.secret, "settings": settings}
    shown = hub.call("PUT", "/api/platform-credentials/oidc", body)
    assert shown["verified"], shown


def test_an_account_is_connected_refreshed_and_disconnected(hub: Hub, server: OidcProvider) -> None:
    with Person(hub, "ada", entrance="gateway") as ada:
        integration = ada.connected("oidc")
        shown = hub.call("GET", f"/api/integrations/{integration}/status")
        assert (shown["status"], shown["health"]) == ("connected", "ok")
        assert shown["account"]["id"] == "ada"
        assert "offline_access" in shown["scopes"]
        before = server.stats()
        again = hub.call("POST", f"/api/integrations/{integration}/refresh")
        assert again["refreshed_at"] > shown["connected_at"]
        assert server.stats().since(before).granted == {"refresh_token": 1}
        hub.call("POST", f"/api/integrations/{integration}/check")
        gone = hub.call("POST", f"/api/integrations/{integration}/disconnect")
        assert gone["status"] == "disconnected"
        assert server.stats().since(before).revoked == 1

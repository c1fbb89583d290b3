"""A hub whose accounts are at a provider's API of the test, and calls with them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.support.api_server import ApiServer
from tests.support.backends import Bus, Store
from tests.support.certificates import Authority
from tests.support.hub import Hub
from tests.support.recorded_secrets import record_secret

PROVIDER: Final = "gitlab"
ALL: Final = ("accounts:call",)


class AccountCalls:
    """Calls with accounts at `api`, by the gateway unless a call names another entrance."""

    def __init__(self, hub: Hub, api: ApiServer) -> None:
        self.hub = hub
        self.api = api

    def with_token(self, account: str = "", *, key: str | None = None, **fields: Any) -> str:
        """Connect an account by a token that a person entered; the integration's id."""
        token = self.api.token(account or f"ada-{token_hex(4)}")
        body = {"provider": PROVIDER, "fields": {"base_url": self.api.url, "access_token": token}, **fields}
        return str(self.hub.call("POST", "/api/integrations", body, key=key, expect=201)["id"])

    def connected(self, **fields: Any) -> tuple[str, str]:
        """Connect an account by OAuth; the integration's id, and the account's at the provider."""
        started = httpx.post(
            self.hub.url("oauth") + "/api/auth/oauth/connect",
            json={"provider": PROVIDER, **fields},
            headers={"authorization": f"Bearer {self.hub.admin_key}"},
            timeout=20,
        )
        assert started.status_code == 201, started.text
        query = parse_qs(urlsplit(started.json()["authorization_url"]).query)
        account = f"eve-{token_hex(4)}"
        back = self.hub.url("oauth") + "/api/auth/oauth/callback"
        cookies = dict(started.cookies)
        params = {"code": account, "state": query["state"][0]}
        done = httpx.get(back, params=params, cookies=cookies, follow_redirects=True, timeout=20)
        assert done.status_code == 200, done.text
        return started.json()["integration_id"], account

    def key(self, *scopes: str, accounts: Mapping[str, Any] | None = None, expect: int = 201) -> Any:
        """A new API key; the problem if it is refused."""
        body: dict[str, Any] = {"name": "test", "scopes": list(scopes or ALL)}
        if accounts is not None:
            body["accounts"] = dict(accounts)
        made = self.hub.call("POST", "/api/api-keys", body, expect=expect)
        if expect == 201:
            record_secret("an API key", made["key"])
        return made

    def send(
        self,
        method: str,
        integration: str,
        path: str,
        *,
        key: str | None = None,
        at: str = "gateway",
        headers: Sequence[tuple[str, str]] = (),
        **more: Any,
    ) -> httpx.Response:
        """Call the provider with an account."""
        url = f"{self.hub.url(at)}/api/integrations/{integration}/proxy/{path}"
        sent = [("authorization", f"Bearer {key or self.hub.admin_key}"), *headers]
        return httpx.request(method, url, headers=sent, timeout=30, **more)

    def last(self) -> dict[str, Any]:
        """The last request that reached the provider."""
        return self.api.seen[-1]

    def audit(self, integration: str) -> list[dict[str, Any]]:
        """The audit entries of an integration, oldest first."""
        page = self.hub.call("GET", "/api/audit", params={"resource": integration})
        return list(reversed(page["items"]))


@contextmanager
def account_calls(folder: Path, bus: Bus, store: Store, **env: str) -> Iterator[AccountCalls]:
    """Start the API, and a hub that trusts its certificate; the workspace has an app there."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority("authority of the provider")
    ca_file = folder / "authority.pem"
    ca_file.write_text(authority.pem)
    settings = {"INTERLINK_EGRESS_CA_FILE": str(ca_file), **env}
    services = ("gateway", "oauth")
    with (
        ApiServer(authority) as api,
        Hub(folder / "hub", bus, store, services=services, env=settings, entrance=True) as hub,
    ):
        app = {
            "client_id": "app",
            "client_secret": "the-secret-of-the-hub",
            "settings": {"base_url": api.url},
            "verified": True,
        }
        hub.call("PUT", f"/api/platform-credentials/{PROVIDER}", app)
        yield AccountCalls(hub, api)


def echoed(answer: httpx.Response) -> dict[str, Any]:
    """What the provider received, as its answer says."""
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.content))

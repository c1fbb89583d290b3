"""Accounts: what each provider's manifest says of `connect` is what its `connect.yaml` proves."""

from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

import shared.providers
from interlink.provider.connect_rules import connect_faults
from interlink.provider.samples import SAMPLES, TOKENS
from shared.manifests.connector import Connector
from shared.manifests.provider_response import GrantRevoked, InvalidClient, ProviderRejected
from shared.manifests.registry import registry
from shared.wire.oauth import new_code_verifier
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from tests.support.fakes.atlassian import Atlassian
from tests.support.fakes.calendly import Calendly
from tests.support.fakes.fake import Fake
from tests.support.fakes.github import GitHub
from tests.support.fakes.google import Google
from tests.support.fakes.mailchimp import Mailchimp
from tests.support.fakes.microsoft import Microsoft
from tests.support.fakes.notion import Notion
from tests.support.fakes.pagerduty import PagerDuty
from tests.support.fakes.shopify import Shopify
from tests.support.fakes.slack import Slack
from tests.support.fakes.tiktok import TikTok
from tests.support.fakes.typeform import Typeform
from tests.support.fakes.zalo import Zalo
from tests.support.fakes.zendesk import Zendesk
from tests.support.fakes.zoom import Zoom
from tests.support.provider_hosts import HostRequest

FOLDERS = Path(next(iter(shared.providers.__path__)))
WITH_SAMPLES = sorted(file.parent.name for file in FOLDERS.glob(f"*/{SAMPLES}"))
OAUTH = {name for name, each in registry().connectors.items() if each.oauth2 or each.oauth1}
MANUAL = {name for name, each in registry().connectors.items() if each.manual_credentials}


@pytest.mark.parametrize("name", WITH_SAMPLES)
def test_requests_and_answers_are_as_its_samples_say(name: str) -> None:
    assert list(connect_faults(FOLDERS / name, registry().providers[name].manifest)) == []


def test_every_provider_with_accounts_has_samples() -> None:
    assert set(WITH_SAMPLES) == set(registry().connectors)


def test_every_integration_that_is_connected_by_oauth_or_a_key_can_be() -> None:
    entries = {name: each.manifest.integration for name, each in registry().providers.items()}
    by_oauth = {name for name, entry in entries.items() if entry and entry.auth_type == "oauth"}
    by_key = {name for name, entry in entries.items() if entry and entry.auth_type == "apiKey"}
    assert by_oauth <= OAUTH
    assert by_key <= OAUTH | MANUAL


@pytest.mark.parametrize("name", sorted(OAUTH))
def test_it_asks_at_least_for_what_the_facts_say(name: str) -> None:
    """Scopes without which there is no refresh token, or no account id."""
    wanted = {
        "jira": {"offline_access", "read:me"},
        "microsoft": {"offline_access", "User.Read"},
        "oidc": {"openid", "offline_access"},
        "twitter": {"offline.access", "users.read"},
        "linear": {"read"},
        "gitlab": {"read_user"},
        "discord": {"identify"},
        "google": {"openid", "email"},
    }
    connector = registry().connectors[name]
    assert wanted.get(connector.app, set()) <= set(connector.scopes)


# Against the strict fakes, which follow the providers' documents and not the manifests

VALUES = {
    "client_id": "the-client",
    "client_secret": "the-secret",
    "redirect_uri": "https://hub.example.com/api/auth/oauth/callback",
}
STATE = "s" * 43
FAKES: dict[str, type[Fake]] = {
    "slack": Slack,
    "github": GitHub,
    "jira": Atlassian,
    "google": Google,
    "gmail": Google,
    "microsoft": Microsoft,
    "onedrive": Microsoft,
    "notion": Notion,
    "shopify": Shopify,
    "zalo": Zalo,
    "tiktok": TikTok,
    "mailchimp": Mailchimp,
    "zoom": Zoom,
    "calendly": Calendly,
    "typeform": Typeform,
    "pagerduty": PagerDuty,
    "zendesk": Zendesk,
}


def answered(fake: Fake, call: ProviderRequest) -> ProviderResponse:
    """What the fake's handler answers, without a network between."""
    url = urlsplit(call.url)
    handler = fake.hosts.get(url.netloc) or fake.hosts["*." + url.netloc.partition(".")[2]]
    headers = {name.lower(): value for name, value in call.headers.items()} | {"user-agent": "test"}
    query = parse_qs(url.query, keep_blank_values=True)
    reply = handler(HostRequest(call.method, url.netloc, url.path, query, headers, call.body))
    return ProviderResponse(reply.status, {name.lower(): value for name, value in reply.fields}, reply.body)


def new_fake(name: str) -> Fake:
    return FAKES[name](VALUES["client_id"], VALUES["client_secret"], VALUES["redirect_uri"])


def values_of(connector: Connector) -> dict[str, str]:
    settings = {f"setting:{key}": each.default for key, each in connector.settings.items() if each.default}
    params = {f"param:{key}": each.example or each.default for key, each in connector.params.items()}
    return {**VALUES, **settings, **params}


def consented(connector: Connector, fake: Fake, values: dict[str, str]) -> ProviderRequest:
    """Return the code exchange after a user's consent. Stored values are added to `values`."""
    verifier = new_code_verifier()
    page = connector.authorize(values, state=STATE, verifier=verifier, scopes=connector.scopes)
    sent_back = answered(fake, ProviderRequest("GET", page))
    assert sent_back.status == 302
    query = parse_qsl(urlsplit(sent_back.headers["location"]).query, keep_blank_values=True)
    assert dict(query)["state"] == STATE
    stored = connector.validate_callback(query, values)
    values |= {f"account:{key}": value for key, value in stored.items()}
    return connector.exchange(values, code=dict(query)["code"], verifier=verifier)


@pytest.mark.parametrize("name", sorted(FAKES))
def test_a_strict_fake_accepts_the_manifests_requests(name: str) -> None:
    connector, fake = registry().connectors[name], new_fake(name)
    values = values_of(connector)
    answer = answered(fake, consented(connector, fake, values))
    tokens = connector.parse_token_response(answer).tokens
    assert tokens
    values |= {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}

    account, selection = connector.account, connector.account_selection
    assert account
    asked = answered(fake, connector.request(account.call, values)) if account.call else answer
    identity = connector.parse_account(account, connector.parse_api_response(asked))
    assert identity.id
    assert identity.label != identity.id
    if selection:
        assert connector.parse_resources(
            connector.parse_api_response(answered(fake, connector.request(selection.call, values)))
        )

    refreshing = connector.refresh_request(values)
    assert bool(refreshing) is (connector.refresh.by != "none")
    if refreshing:
        refreshed = connector.parse_token_response(answered(fake, refreshing)).tokens
        assert refreshed
        assert refreshed.access_token != tokens.access_token
        assert bool(refreshed.refresh_token) is (connector.refresh.rotation != "none")
        values |= {"access_token": refreshed.access_token}
        values |= {"refresh_token": refreshed.refresh_token} if refreshed.refresh_token else {}

    revoking = connector.revoke_request(values)
    if revoking:
        assert not connector.api_error_code(answered(fake, revoking))
        if account.call:
            assert connector.is_token_rejected(answered(fake, connector.request(account.call, values)))


@pytest.mark.parametrize("name", sorted(FAKES))
def test_the_errors_of_a_strict_fake_are_understood(name: str) -> None:
    connector, fake = registry().connectors[name], new_fake(name)
    values = values_of(connector)
    exchange = consented(connector, fake, values)
    assert connector.parse_token_response(answered(fake, exchange)).tokens
    with pytest.raises(ProviderRejected):  # a code is good for once
        connector.parse_token_response(answered(fake, exchange))
    wrong = {**values, "client_secret": "another"}
    with pytest.raises(InvalidClient):
        connector.parse_token_response(
            answered(fake, connector.exchange(wrong, code="code", verifier=new_code_verifier()))
        )
    refreshing = connector.refresh_request({**values, **TOKENS})
    if refreshing:
        with pytest.raises(GrantRevoked):
            connector.parse_token_response(answered(fake, refreshing))

"""Accounts in the catalogue and in the documents: credentials, steps, pages."""

import pytest

from interlink.provider.manifest_text import (
    duration_text,
    refresh_text,
    subscription_creation,
    subscription_lifetime,
)
from interlink.provider.pages import pages
from shared.manifests.catalogue import Credential, app_setup_steps, credentials, placeholder_url, setup_steps
from shared.manifests.connect_models import ApiRequest, TokenRefresh
from shared.manifests.registry import registry


def credentials_of(name: str) -> dict[str, Credential]:
    return {each.name: each for each in credentials(registry().providers[name].manifest)}


def test_an_app_has_an_id_a_secret_and_its_settings() -> None:
    found = credentials_of("microsoft")
    assert list(found) == ["client_id", "client_secret", "tenant"]
    assert [each.required for each in found.values()] == [True, True, False]
    assert found["client_secret"].type == "secret"
    assert "register with Microsoft" in found["client_id"].about


def test_the_provider_of_a_shared_app_is_named() -> None:
    assert "the provider google" in credentials_of("gmail")["client_id"].about


def test_inputs_of_the_user_are_listed() -> None:
    assert credentials_of("shopify")["shop"].required


def test_the_only_kind_of_credential_is_required_and_one_of_several_is_not() -> None:
    token = credentials_of("telegram")["bot_token.access_token"]
    assert (token.type, token.required) == ("secret", True)
    assert not credentials_of("github")["personal_token.access_token"].required
    assert not credentials_of("email")["smtp.password"].required


def test_a_provider_without_webhooks_says_how_its_app_is_registered() -> None:
    manifest = registry().providers["google"].manifest
    message = setup_steps(manifest, placeholder_url("https://hub.example.com", manifest))
    assert any("https://hub.example.com/api/auth/oauth/callback" in step for step in message)
    assert not any("{" in step for step in message)


def test_without_an_app_the_steps_list_manual_credentials() -> None:
    connect = registry().providers["email"].manifest.connect
    assert connect
    assert [step.partition(":")[0] for step in app_setup_steps(connect, "")] == [
        "Sending mail (SMTP)",
        "Reading mail (IMAP)",
    ]


@pytest.mark.parametrize(
    ("seconds", "message"), [(1, "1 second"), (300, "5 minutes"), (3600, "1 hour"), (7776000, "90 days")]
)
def test_a_duration_has_the_largest_unit(seconds: int, message: str) -> None:
    assert duration_text(seconds) == message


def test_refresh_in_words() -> None:
    assert refresh_text(TokenRefresh(by="none")).startswith("never")
    longer = TokenRefresh(by="request", request=ApiRequest(url="https://example.com"), ahead_s=86400)
    assert refresh_text(longer) == "1 day before its end, with the access token itself while it is valid"
    single = TokenRefresh(rotation="single-use", lifetime_s=86400, fixed=True)
    assert refresh_text(single).endswith("each works once. It lives 1 day from the consent on.")


def test_a_subscriptions_creation_and_lifetime_in_words() -> None:
    [mailbox] = registry().providers["gmail"].manifest.watches
    assert subscription_creation(mailbox).startswith(
        "when an account is connected, if the app has `pubsub_topic`; with"
    )
    assert subscription_lifetime(mailbox) == "7 days; after 1 day it is renewed"
    [events] = registry().providers["google-calendar"].manifest.watches
    assert subscription_lifetime(events).endswith(
        "1 day before its end another one is created, and this one is cancelled"
    )
    [base] = registry().providers["airtable"].manifest.watches
    assert subscription_creation(base) == "on request; with the scope `webhook:manage`"


def test_a_page_lists_provider_subscriptions() -> None:
    made = pages(registry().providers, dict.fromkeys(registry().providers, "# X\n\nFirst.\n"))
    part = made["onedrive.md"].partition("## Provider subscriptions")[2].partition("## ")[0]
    assert "| `drive` |" in part
    assert "its own, of [microsoft-graph](microsoft-graph.md)" in part
    assert "## Provider subscriptions" not in made["slack.md"]


def test_a_page_lists_scopes_and_manual_credentials() -> None:
    made = pages(registry().providers, dict.fromkeys(registry().providers, "# X\n\nFirst.\n"))
    slack = made["slack.md"]
    part = slack[slack.index("## Connecting accounts") : slack.index("## Credentials")]
    assert "`channels:read`" in part
    assert "https://hub.example.com/api/auth/oauth/callback" in part
    assert "| `bot_token` |" in part
    assert "[Google](google.md)" in made["gmail.md"]
    assert "`gmail`" in made["email.md"]
    assert "through google" in made["README.md"]

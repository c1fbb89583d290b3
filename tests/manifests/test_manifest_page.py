"""docs/manifest.md has every field of the models, in the table of its place."""

import re
from pathlib import Path

import pytest
import yaml

from interlink.provider import manifest_text
from shared.manifests import connect_models, models, schemes, sender_description, subscriptions
from shared.manifests.base import ManifestModel
from shared.verification import sources

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text("utf-8")
SECTIONS: dict[type[ManifestModel], str] = {
    models.Manifest: "The provider",
    models.WebhookSpec: "webhook",
    models.CatalogueEntry: "integration",
    models.PollingSpec: "polled",
    models.SecretSpec: "secret",
    connect_models.Setting: "settings",
    models.BodyFormat: "body",
    models.EmbeddedJson: "decoded",
    models.EventNaming: "event",
    models.HandshakeSpec: "handshakes",
    models.ResponseSpec: "answers",
    models.RejectionSpec: "refused",
    models.ProviderLimits: "limits",
    models.HandledEvent: "handled",
    models.MessageTemplates: "message",
    models.EndpointTemplate: "templates",
    models.AppWebhookSpec: "app",
    sender_description.SenderDescription: "source",
    connect_models.ConnectSpec: "connect",
    connect_models.OAuth2: "oauth2",
    connect_models.OAuth1: "oauth1",
    connect_models.ClientAuthentication: "client",
    connect_models.TokenResponseMapping: "answer",
    connect_models.TokenMapping: "grant",
    connect_models.Callback: "callback",
    connect_models.TokenRefresh: "refresh",
    connect_models.TokenRevocation: "revoke",
    connect_models.ApiRequest: "request",
    connect_models.Api: "api",
    connect_models.Account: "account",
    connect_models.AccountSelection: "choices",
    connect_models.ManualCredential: "entered",
    connect_models.Preset: "presets",
    subscriptions.SubscriptionSpec: "watches",
    subscriptions.PreliminaryRequest: "before",
    subscriptions.SubscriptionResult: "made",
    schemes.HmacScheme: "hmac",
    schemes.DigestScheme: "digest",
    schemes.TokenScheme: "token",
    schemes.BasicScheme: "basic",
    schemes.KeyPairScheme: "ed25519, ecdsa, rsa",
    schemes.JwtScheme: "jwt",
    schemes.SignatureLocation: "signature",
    schemes.KeySpec: "key",
    schemes.TimestampSpec: "timestamp",
    schemes.BodyDigest: "body_hash",
    schemes.BodyHashClaim: "claim",
    schemes.RemoteKey: "keys",
    schemes._SchemeBase: "verification",
}


WRITTEN_OUT = {connect_models.AccountMapping}
"""Bases whose fields stand in the tables of the models that have them."""


def fields_of(model: type[ManifestModel]) -> set[str]:
    """The fields of its own table: those of a base with a table stand there."""
    inherited = {
        name for base in SECTIONS if base in model.__mro__ and base is not model for name in base.model_fields
    }
    return {field.alias or name for name, field in model.model_fields.items() if name not in inherited}


def table_of(heading: str) -> set[str]:
    """The names in the first column of the section's own table."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    cells = re.findall(r"^\| (`[^|]*?`) \|", found[1], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z_0-9]+)`", cell)}


def test_no_model_is_left_out() -> None:
    found = {
        each
        for module in (connect_models, models, sender_description, subscriptions, schemes)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, ManifestModel) and each is not ManifestModel
    }
    assert found == SECTIONS.keys() | WRITTEN_OUT


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.__name__)
def test_every_field_is_there_and_no_other(model: type[ManifestModel]) -> None:
    assert table_of(SECTIONS[model]) == fields_of(model)


def test_every_source_is_there_and_has_words() -> None:
    written = set(re.findall(r"`([a-z_0-9]+)(?::[^`]*)?`", PAGE.partition("## The provider")[0]))
    for name in sources._SOURCES:
        assert name in written
        assert manifest_text.template_text(f"{{{name}}}")
    for name in sources._SOURCES_WITH_ARGUMENT:
        assert name in written
        argument = "sha256" if name.startswith("hmac") else "x"
        assert argument in manifest_text.template_text(f"{{{name}:{argument}}}").replace("SHA-256", "sha256")


@pytest.mark.parametrize(
    ("heading", "model"),
    [("connect", connect_models.ConnectSpec), ("watches", subscriptions.SubscriptionSpec)],
)
def test_its_example_is_right(heading: str, model: type[ManifestModel]) -> None:
    found = re.search(rf"^## {heading}\n.*?```yaml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    message = yaml.safe_load(found[1])[heading]
    for each in message if isinstance(message, list) else [message]:
        model.model_validate(each)


def test_every_link_leads_to_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= headings

"""Validation of what an owner sets on an inbound endpoint: provider, secret, settings, source, public URL."""

import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from services.gateway.api.fields import invalid_field
from shared.contracts.errors import FieldError, Invalid
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import Provider
from shared.manifests.scheme_signers import new_basic_secret, new_secret
from shared.manifests.sender_description import apply_description
from shared.manifests.webhook import WebhookDefinition


def require_webhooks(providers: Mapping[str, Provider], provider_id: str) -> tuple[Provider, WebhookSpec]:
    """Return a provider that sends webhooks, and its manifest's `webhook`. Raises `Invalid`."""
    provider = providers.get(provider_id)
    if provider is None or provider.manifest.webhook is None:
        senders = ", ".join(sorted(item.id for item in providers.values() if item.manifest.webhook))
        raise invalid_field("provider", f"one of: {senders}")
    return provider, provider.manifest.webhook


def choose_secret(webhook: WebhookSpec, definition: WebhookDefinition, secret: str | None) -> str:
    """Return the endpoint's secret: the given one, a generated one, or '' if there is none yet.

    Raises `Invalid` if the given secret cannot be one of this provider.
    """
    spec = webhook.secret
    if secret is None:
        generated = (new_secret(webhook), new_basic_secret()) if spec.source == "ours" else ()
        usable = (item for item in generated if definition.accepts_secret(item.encode(), generated=True))
        return next(usable, "")
    if spec.source == "none":
        raise invalid_field("secret", "this provider's webhooks are verified without a secret")
    if secret != secret.strip() and "-----BEGIN" not in secret:
        raise invalid_field("secret", f"{spec.name} begins or ends with a blank or a line break")
    if not spec.min_length <= len(secret) <= spec.max_length:
        raise invalid_field("secret", f"{spec.name} has {spec.min_length} to {spec.max_length} characters")
    if spec.pattern and not re.fullmatch(spec.pattern, secret):
        raise invalid_field("secret", f"{spec.name} has another form: {spec.about or spec.pattern}")
    if not definition.accepts_secret(secret.encode()):
        raise invalid_field("secret", f"{spec.name} is not valid for this provider's signature scheme")
    return secret


def secret_settings(webhook: WebhookSpec) -> frozenset[str]:
    """Return the names of the settings that are stored sealed."""
    return frozenset(name for name, setting in webhook.settings.items() if setting.secret)


def validate_settings(webhook: WebhookSpec, values: Mapping[str, str], *, complete: bool) -> dict[str, str]:
    """Return the valid settings among `values`, without empty ones. Raises `Invalid` with every error.

    With `complete`, generated values and defaults are added, and a missing required setting is an error.
    """
    errors: list[FieldError] = []
    valid: dict[str, str] = {}
    for name in values.keys() - webhook.settings.keys():
        names = ", ".join(sorted(webhook.settings)) or "none"
        errors.append(FieldError(f"settings.{name}", f"no such setting: there is {names}"))
    for name, setting in webhook.settings.items():
        value = values.get(name)
        if value is None and complete:
            value = secrets.token_urlsafe(24) if setting.generated else setting.default
            if not value and setting.required:
                errors.append(FieldError(f"settings.{name}", f"required: {setting.name}. {setting.about}"))
        if not value:
            continue
        if setting.pattern and not re.fullmatch(setting.pattern, value):
            errors.append(FieldError(f"settings.{name}", f"{setting.name} has another form: {setting.about}"))
        valid[name] = value
    if errors:
        raise Invalid("some fields are not acceptable", errors=tuple(errors))
    return valid


def compile_definition(webhook: WebhookSpec, source: Mapping[str, Any] | None) -> WebhookDefinition:
    """Return the definition that an endpoint verifies with: the provider's, or that of its own `source`.

    Raises `Invalid` if `source` is not valid, or if the provider is not a generic one.
    """
    if source is None:
        return WebhookDefinition(webhook)
    if not webhook.configurable:
        raise invalid_field(
            "source", "only a generic provider takes a source: leave it out for this provider"
        )
    definition = WebhookDefinition(apply_description(webhook, source))
    if source.get("message"):
        # A gateway without such endpoints need not have Liquid in memory.
        from shared.manifests.sender_message import check_message  # noqa: PLC0415 -- saves memory

        check_message(source)
    return definition


def check_unsigned_reason(require_signature: bool, reason: str) -> None:
    """Raise `Invalid` if signatures are not required and there is no reason of at least three words.

    The reason is shown with the endpoint, so that nobody gives up signatures unnoticed.
    """
    if not require_signature and len(reason.split()) < 3:
        raise invalid_field(
            "unsigned_reason", "say in at least three words why unsigned requests are accepted"
        )


def public_origin(url: object) -> str | None:
    """Return scheme and host of the hub as the provider knows them; None for the hub's own.

    Raises `Invalid` if the URL has more than that.
    """
    if url is None:
        return None
    parts = urlsplit(str(url))
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise invalid_field("public_url", "only scheme and host, for example https://hooks.example.com")
    return f"{parts.scheme}://{parts.netloc}"

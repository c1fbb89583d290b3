"""List what a person still has to do for an inbound endpoint: missing values and setup steps."""

from collections.abc import Mapping
from typing import Final, Literal

from services.gateway.ingest.endpoint_records import ProviderEndpoint
from shared.manifests.models import WebhookSpec

_STORED_SECRET_TEXT: Final = "the endpoint's secret (shown once when it is created: rotate it to get another)"  # noqa: S105


def missing_setup(
    webhook: WebhookSpec | None, record: ProviderEndpoint
) -> Literal["secret", "handshake"] | None:
    """Return what an endpoint needs before it can verify requests; None if it needs nothing."""
    if webhook is None or record.secrets or webhook.secret.source == "none":
        return None
    return "handshake" if webhook.secret.source == "handshake" else "secret"


def endpoint_setup_steps(
    webhook: WebhookSpec | None, url: str, secret: str | None, settings: Mapping[str, str | None]
) -> list[str]:
    """Return the setup steps of the manifest with the endpoint's values.

    `secret` is None if it must not be shown; a setting that is None is shown by its name.
    """
    if webhook is None:
        return []
    values = {"{url}": url, "{secret}": secret or _STORED_SECRET_TEXT}
    values |= {
        f"{{setting:{name}}}": settings.get(name) or f"({setting.name})"
        for name, setting in webhook.settings.items()
    }
    steps: list[str] = []
    for step in webhook.setup_steps:
        text = step
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        steps.append(text)
    return steps

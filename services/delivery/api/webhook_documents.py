"""Outgoing webhooks between the API's models and the documents in MongoDB."""

from collections.abc import Mapping
from typing import Any, Final

from services.delivery.api.fields import optional_rfc3339
from services.delivery.api.webhook_schemas import (
    RetrySettings,
    UnreadablePartOut,
    WebhookAuthOut,
    WebhookCreate,
    WebhookHealthOut,
    WebhookOut,
)
from services.delivery.engine.subscriptions import OutgoingWebhooks
from services.delivery.engine.waiting_reasons import hold_state_of
from services.delivery.log.endpoint_health import EndpointHealthRecord
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Misconfigured
from shared.manifests.event_names import event_names
from shared.runtime.mongo import Document, utcnow
from shared.webhooks.signatures import public_key

_STORED_FIELDS: Final = tuple(
    WebhookOut.model_fields.keys()
    - {"id", "disabled_reason", "public_keys", "headers", "auth", "retry", "health", "secret", "warnings"}
    - {"unreadable", "created_at", "updated_at"}
)
"""Fields that the API shows as they are stored."""
_DEFAULTS: Final[Document] = {
    **{name: field.default for name, field in WebhookCreate.model_fields.items() if not field.is_required()},
    **RetrySettings().model_dump(),
    "header_names": [],
    "auth_shown": {"type": "none"},
    "paused": False,
}
"""Values for webhooks that were stored before a field existed."""


class WebhookDocuments:
    """Converts outgoing webhooks; it seals what is secret and unseals only to derive public keys."""

    def __init__(self, subscriptions: OutgoingWebhooks) -> None:
        self._subscriptions = subscriptions

    def sealed_fields(self, workspace: str, webhook_id: str, values: Mapping[str, Any]) -> Document:
        """Return the stored fields for `headers` and `auth`, where `values` has them.

        The values are sealed. Header names and the public part of the authentication are stored beside them,
        so that the API can show them without a key.
        """
        fields: Document = {}
        if "headers" in values:
            headers = values["headers"]
            fields |= {"headers": self._subscriptions.sealed_value(workspace, webhook_id, "headers", headers)}
            fields |= {"header_names": sorted(headers)}
        if "auth" in values:
            auth = values["auth"]
            fields |= {"auth": self._subscriptions.sealed_value(workspace, webhook_id, "auth", auth)}
            public = {name: auth[name] for name in ("type", "username", "name") if name in auth}
            fields |= {"auth_shown": public}
        return fields

    def webhook_out(
        self, document: Document, health: EndpointHealthRecord, secret: str | None = None
    ) -> WebhookOut:
        """Return a stored webhook as the API shows it. `secret` is shown if it is given."""
        values = _DEFAULTS | document
        hold_state = hold_state_of(document, health, utcnow())
        return WebhookOut(
            **{name: values[name] for name in _STORED_FIELDS},
            id=document["_id"],
            disabled_reason=None if document["enabled"] else document.get("disabled_reason"),
            public_keys=self._public_keys(document),
            headers=values["header_names"],
            auth=WebhookAuthOut(**values["auth_shown"]),
            retry=RetrySettings(**{name: values[name] for name in RetrySettings.model_fields}),
            health=WebhookHealthOut(
                circuit="open" if hold_state.is_open else "closed",
                next_probe_at=optional_rfc3339(hold_state.next_probe_at),
                held_until=optional_rfc3339(hold_state.held_until),
                failing_since=optional_rfc3339(health.since),
            ),
            unreadable=[
                UnreadablePartOut(part=part, reason=reason)
                for part, reason in self._subscriptions.unreadable_parts(document["_id"]).items()
            ],
            created_at=rfc3339(document["created_at"]),
            updated_at=rfc3339(document["changed_at"]),
            secret=secret or None,
            warnings=event_names().check(document["events"], document["events"], suggesting=False).warnings,
        )

    def _public_keys(self, document: Document) -> list[str]:
        """Return the public keys of the secrets that are valid now.

        The list is empty if the secrets do not decrypt: `unreadable` reports that.
        """
        try:
            secrets, now = self._subscriptions.secrets(document), utcnow()
        except Misconfigured:
            return []
        valid = [text for text, expires_at in secrets if expires_at is None or expires_at > now]
        return [public for text in valid if (public := public_key(document["profile"], text))]


def stored_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as the document has them: the retry settings are fields of their own."""
    retry = values.pop("retry", None) or {}
    return values | retry


def deleted_fields() -> Document:
    """Return the change that deletes a webhook.

    The document stays for a while, without secrets, so that other processes see the deletion.
    """
    return {"deleted_at": utcnow(), "claims_url": False, "secrets": [], "headers": None, "auth": None}


def enabled_fields(*, on: bool) -> Document:
    """Return the change that enables or disables a webhook.

    Failures from before `enabled_at` do not count towards disabling it again.
    """
    if on:
        return {"enabled": True, "disabled_reason": None, "enabled_at": utcnow()}
    return {"enabled": False, "disabled_reason": "by_hand"}

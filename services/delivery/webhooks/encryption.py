"""The sealed parts of an outgoing webhook: signing secrets, header values, authentication."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import orjson

from services.delivery.model.outgoing_webhook import EncryptedPart, SigningKeys
from services.delivery.model.webhook_auth import WebhookAuth, webhook_auth
from services.delivery.webhooks.repository import AuthSummary, WebhookRecord
from shared.contracts.errors import InterlinkError
from shared.runtime.clock import utcnow
from shared.runtime.record_secrets import StoredSecret, decrypt_all, rotate_secret, store_secret
from shared.runtime.secrets import Sealed, Vault
from shared.webhooks.signatures import signing_key

T = TypeVar("T")

_NO_AUTH: Final = AuthSummary(type="none")


@dataclass(frozen=True, slots=True)
class DecryptedParts:
    """The sealed parts of a webhook in plain text; a part with an error is empty."""

    keys: SigningKeys
    headers: Mapping[str, str]
    auth: WebhookAuth
    errors: Mapping[EncryptedPart, Exception]

    def reasons(self) -> dict[EncryptedPart, str]:
        """Return why each part does not decrypt, without secrets."""
        return {
            part: str(error) if isinstance(error, InterlinkError) else type(error).__name__
            for part, error in self.errors.items()
        }


class WebhookEncryption:
    """Seals and opens the parts of webhooks, bound to workspace, webhook and field."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def new_secret(self, workspace: str, webhook_id: str, secret: str) -> StoredSecret:
        """Return the secret of a new webhook as it is stored."""
        return store_secret(self._vault, workspace, webhook_id, secret)

    def rotated_secrets(self, record: WebhookRecord, secret: str, overlap: timedelta) -> list[StoredSecret]:
        """Return the stored secrets after a rotation; old ones stay valid for `overlap`.

        Raises `Conflict` if more than five would be valid.
        """
        return rotate_secret(self._vault, _with_secrets(record, record.secrets), secret, overlap)

    def sealed_headers(self, workspace: str, webhook_id: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of a record for these headers: sealed, with their names in clear."""
        return {
            "headers": self._seal(workspace, webhook_id, "headers", headers),
            "header_names": tuple(sorted(headers)),
        }

    def sealed_auth(self, workspace: str, webhook_id: str, auth: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a record for these authentication settings: sealed, with a summary."""
        return {
            "auth": self._seal(workspace, webhook_id, "auth", auth),
            "auth_summary": AuthSummary(
                type=auth["type"], username=auth.get("username"), name=auth.get("name")
            ),
        }

    def secrets(self, record: WebhookRecord) -> tuple[tuple[str, datetime | None], ...]:
        """Return the unexpired secrets in plain text, with the times at which they expire.

        Raises `Misconfigured` if one does not decrypt.
        """
        now = utcnow()
        valid = [item for item in record.secrets if item["expires_at"] is None or item["expires_at"] > now]
        return decrypt_all(self._vault, _with_secrets(record, valid))

    def decrypt(self, record: WebhookRecord) -> DecryptedParts:
        """Decrypt the parts of a webhook, each on its own. An absent part needs no key."""
        errors: dict[EncryptedPart, Exception] = {}

        def decrypt_part(part: EncryptedPart, decrypt: Callable[[WebhookRecord], T], default: T) -> T:
            try:
                return decrypt(record)
            except Exception as error:  # noqa: BLE001 -- whatever is wrong with a part, no event may be lost
                errors[part] = error
                return default

        return DecryptedParts(
            keys=decrypt_part("secret", self._signing_keys, ()),
            headers=decrypt_part("headers", self._headers, {}),
            auth=decrypt_part("auth", self._auth, WebhookAuth()),
            errors=errors,
        )

    def _signing_keys(self, record: WebhookRecord) -> SigningKeys:
        return tuple((signing_key(record.profile, secret), ends) for secret, ends in self.secrets(record))

    def _headers(self, record: WebhookRecord) -> Mapping[str, str]:
        # No headers, nothing to decrypt: the webhook works without the key.
        return {} if record.header_names == () else self._open(record, "headers", record.headers)

    def _auth(self, record: WebhookRecord) -> WebhookAuth:
        if record.auth_summary == _NO_AUTH:
            return WebhookAuth()
        return webhook_auth(self._open(record, "auth", record.auth))

    def _seal(self, workspace: str, webhook_id: str, field: str, value: Mapping[str, Any]) -> Sealed:
        text = orjson.dumps(value).decode()
        return self._vault.seal(text, workspace=workspace, record=webhook_id, field=field)

    def _open(self, record: WebhookRecord, field: str, sealed: Sealed | None) -> dict[str, Any]:
        if sealed is None:
            return {}
        text = self._vault.open(sealed, workspace=record.workspace, record=record.id, field=field)
        value: dict[str, Any] = orjson.loads(text)
        return value


def _with_secrets(record: WebhookRecord, secrets: Any) -> dict[str, Any]:
    """Return what `record_secrets` reads of a record, with these secrets."""
    return {"_id": record.id, "workspace": record.workspace, "secrets": secrets}

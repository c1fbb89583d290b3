"""Connect accounts by manual credentials, such as a bot's token or a mail login.

Credentials are checked at the provider before they are stored.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

from services.oauth.authorization.account_identity import CONNECTED_EVENTS, account_in_use, has_another_user
from services.oauth.credentials.mail_login import MailLoginChecker
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.integration_record import (
    Account,
    Integration,
    IntegrationEventType,
    LastError,
    new_integration,
)
from shared.connections.integrations import IntegrationRepository
from shared.connections.refresh_types import NoAnswer
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, FieldError, Invalid, Misconfigured
from shared.manifests.accounts import AccountIdentity, manual_credential_values
from shared.manifests.connect_models import ManualCredential
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.provider_response import GrantRevoked, ProviderRejected
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.runtime.mongo import Duplicate
from shared.runtime.retry import Backoff
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

_MAX_ATTEMPTS: Final = 20
_RETRY_PAUSES: Final = Backoff(first_s=0.025, max_s=0.025, spread=1.0)
_REJECTED_DETAIL: Final = "the provider rejected it"
_FIELD_BY_ERROR: Final[Mapping[str, str]] = {
    "unknown_host": "fields.host",
    "address_refused": "fields.host",
    "port_refused": "fields.port",
    "tls": "fields.security",
    "insecure": "fields.security",
}
"""The field that an error of a mail login is about, by its code. Other errors are about all fields."""
_HOST_IN_TEMPLATE: Final = re.compile(r"\{|https://[^/?#]*\{")
"""Matches a request URL whose host comes from the fields."""
_INVALID_HOST_FAILURES: Final = frozenset({"dns", "tls", "address_refused", "bad_url"})
"""Failures of a request that mean that a host from the fields is wrong."""


class ManualCredentials:
    """Checks and stores manual credentials."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        tokens: TokenSource,
        mail_logins: MailLoginChecker,
        subscriptions: SubscriptionLifecycle,
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._tokens = tokens
        self._mail_logins = mail_logins
        self._subscriptions = subscriptions
        self._log = log

    async def add(
        self,
        provider: str,
        kind: str | None,
        fields: Mapping[str, str],
        *,
        preset: str | None,
        name: str | None,
        workspace: str,
        user: str | None,
        takeover: bool = False,
        labels: Mapping[str, Any] | None = None,
    ) -> Integration:
        """Connect an account. Return its integration: the existing one with new secrets, or a new one.

        `kind` is a kind of manual credential of the provider; None if it has one only. `preset` names values
        of the manifest that `fields` overwrite. `user` is the chat's id of the user whose account it is; None
        leaves the stored user unchanged. With `takeover`, an integration of another user becomes this user's.
        `labels` are its tags and metadata, as fields of the record.

        Raises `Invalid` if provider, kind or fields are not acceptable, or if the provider rejects them;
        `Conflict`, `ProviderUnavailable`, `DatabaseUnavailable`.
        """
        connector, credential = self._manual_credential(provider, kind)
        values = validate_fields(
            credential.fields, {**_preset_values(credential, preset), **fields}, place="fields"
        )
        provider_account = await self._validate_account(connector, credential, values, workspace)
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            existing = await self._same_account(provider, credential.id, provider_account, workspace)
            if existing is not None:
                changed = await self._save(
                    existing, provider_account, values, user, takeover=takeover, labels=labels
                )
                if changed is not None:
                    return changed
                await asyncio.sleep(_RETRY_PAUSES.pause_s(attempt))
                continue
            integration = new_integration(
                workspace,
                provider,
                credential.id,
                name=name,
                status="connected",
                is_sole=True,
                params={},
            )
            change = {**self._change(integration, provider_account, values, user), **(labels or {})}
            try:
                added = await self._integrations.add(
                    integration.model_copy(update=change), publish="integration.connected"
                )
            except Duplicate:  # Another request saved the same account at the same time.
                continue
            await self._subscriptions.prepare_automatic(added)
            return added
        raise Conflict("the integration changed while it was updated: try again")

    async def update(
        self,
        integration: Integration,
        fields: Mapping[str, str],
        *,
        any_account: bool,
        user: str | None,
        takeover: bool = False,
    ) -> Integration:
        """Replace credentials of an integration and return it. Fields that are left out stay unchanged.

        If the stored fields cannot be decrypted, none may be left out. Raises as `add` does, and `Conflict`
        if the credentials are of another account and `any_account` is not set.
        """
        if has_another_user(integration, user) and not takeover:
            raise account_in_use()
        connector, credential = self._manual_credential(integration.provider, integration.kind)
        try:
            before = self._stored_fields(integration, credential)
        except Misconfigured as error:
            self._log.error("credential.unreadable", integration_id=integration.id, error=str(error))
            before = {}
        values = validate_fields(credential.fields, {**before, **fields}, place="fields")
        provider_account = await self._validate_account(connector, credential, values, integration.workspace)
        account = integration.account
        if account and account.id != provider_account.id and not any_account:
            raise Conflict(
                f"these credentials are of {provider_account.label}, but this integration is for "
                f"{account.label}: send any_account: true to change the account"
            )
        try:
            changed = await self._save(integration, provider_account, values, user, takeover=takeover)
        except Duplicate:
            raise Conflict(f"another integration is connected to {provider_account.label} already") from None
        if changed is None:
            raise Conflict("the integration was changed at the same time: try again")
        return changed

    async def check(self, integration: Integration) -> Integration:
        """Check the stored credentials at the provider. Return the integration with the result stored.

        Raises `Invalid` if the manifest does not have this kind any more; `ProviderUnavailable`, which
        changes nothing; `Conflict` if the credentials cannot be decrypted, or if the integration changed.
        """
        connector, credential = self._manual_credential(integration.provider, integration.kind)
        try:
            values = self._stored_fields(integration, credential)
        except Misconfigured as error:
            self._log.error("credential.unreadable", integration_id=integration.id, error=str(error))
            raise Conflict(
                "the account's credential cannot be decrypted: the log of the service says why"
            ) from None
        change: dict[str, Any] = {"status": "connected", "reason": "", "last_error": None, "failures": 0}
        was_error = integration.status == "error"
        events: tuple[IntegrationEventType, ...] = ("integration.recovered",) if was_error else ()
        try:
            await self._fetch_account(connector, credential, values, integration.workspace)
        except ProviderRejected as error:
            is_revoked = isinstance(error, GrantRevoked)
            change = {
                "status": "reauth_required" if is_revoked else "error",
                "reason": "credentials_refused" if is_revoked else "check_failed",
                "last_error": LastError(
                    at=utcnow(),
                    code=_redact_fields(error.code, credential, values),
                    detail=_redacted_detail(error, credential, values),
                ),
            }
            if is_revoked:
                events = ("integration.reauth_required",)
            else:
                events = () if was_error else ("integration.error",)
        changed = await self._integrations.change(
            integration, publish=events, condition={"status": integration.status}, **change
        )
        self._tokens.forget(integration.id)
        if changed is None:
            raise Conflict("the integration was changed at the same time: try again")
        return changed

    def _stored_fields(self, integration: Integration, credential: ManualCredential) -> dict[str, str]:
        """Return the stored fields, without those that the manifest does not have any more.

        There are none after the integration was disconnected. Raises `Misconfigured` if they cannot be
        decrypted.
        """
        stored = self._integrations.open(integration).get("fields", {})
        return {name: value for name, value in stored.items() if name in credential.fields}

    async def _save(
        self,
        integration: Integration,
        provider_account: AccountIdentity,
        values: Mapping[str, str],
        user: str | None,
        *,
        takeover: bool,
        labels: Mapping[str, Any] | None = None,
    ) -> Integration | None:
        """Store checked credentials in an existing integration. Return None if it changed since it was read.

        Raises `Conflict` if it is disabled or another user's; `Duplicate` if another integration has the
        account; `DatabaseUnavailable`.
        """
        taken_over = has_another_user(integration, user) and integration.status != "disconnected"
        if taken_over and not takeover:
            raise account_in_use()
        if integration.status == "disabled":
            raise Conflict(f"the integration {integration.id} of this account is disabled: enable it first")
        change = {**self._change(integration, provider_account, values, user), **(labels or {})}
        is_unchanged = all(getattr(integration, field) == change[field] for field in ("status", "user"))
        is_same_account = integration.account is not None and integration.account.id == provider_account.id
        # Disconnecting has removed them, or a process died before it added them.
        await self._subscriptions.prepare_automatic(integration)
        changed = await self._integrations.change(
            integration,
            publish=() if is_unchanged and is_same_account else CONNECTED_EVENTS[taken_over],
            condition={"status": integration.status},
            **change,
        )
        self._tokens.forget(integration.id)
        if changed is not None:
            await self._subscriptions.resume(changed.id)
            if not is_same_account:
                await self._subscriptions.recreate_for_choice(changed, is_other_account=True)
        return changed

    def _change(
        self,
        integration: Integration,
        provider_account: AccountIdentity,
        values: Mapping[str, str],
        user: str | None,
    ) -> dict[str, Any]:
        """Return the fields to set on an integration that is connected with these credentials."""
        return {
            "status": "connected",
            "reason": "",
            "account": Account(
                id=provider_account.id,
                label=provider_account.label,
                url=provider_account.url,
                attributes=provider_account.attributes,
            ),
            "credential": self._integrations.seal(integration, {"fields": dict(values)}),
            "version": integration.version + 1,
            "connected_at": utcnow(),
            "user": user or integration.user,
            "last_error": None,
            "failures": 0,
        }

    async def _validate_account(
        self, connector: Connector, credential: ManualCredential, values: Mapping[str, str], workspace: str
    ) -> AccountIdentity:
        """Return the account of the credentials.

        Raises `Invalid` if the provider rejects them, with the field that is wrong if that is known;
        `ProviderUnavailable`.
        """
        try:
            return await self._fetch_account(connector, credential, values, workspace)
        except ProviderRejected as error:
            field = _FIELD_BY_ERROR.get(error.code, "fields") if credential.login else "fields"
            field_error = FieldError(field, _redacted_detail(error, credential, values))
            raise Invalid("the provider rejected these credentials", errors=(field_error,)) from None

    async def _fetch_account(
        self, connector: Connector, credential: ManualCredential, values: Mapping[str, str], workspace: str
    ) -> AccountIdentity:
        """Ask the provider for the account of the credentials.

        Raises `GrantRevoked` if it rejects them; `ProviderRejected` for other errors that the fields cause;
        `ProviderUnavailable`.
        """
        if credential.login is not None:
            await self._mail_logins.check(credential.login, values, workspace)
            username, host = values["username"], values["host"].lower()
            return AccountIdentity(id=f"{username}@{host}", label=f"{username} at {host}")
        account = credential.account
        assert account is not None and account.call is not None  # noqa: S101, PT018 -- the model says so
        template_values = manual_credential_values(credential, values)
        api = connector.api_for(credential.id)
        try:
            answer = await self._tokens.send(connector.request(account.call, template_values, api), workspace)
        except MissingValue as error:
            raise ProviderRejected("missing", str(error)) from None
        except NoAnswer as error:
            if error.failure in _INVALID_HOST_FAILURES and _HOST_IN_TEMPLATE.match(account.call.url):
                raise ProviderRejected(error.failure, f"it cannot be reached: {error.detail}") from None
            raise
        if connector.is_token_rejected(answer, api):
            raise GrantRevoked(connector.api_error_code(answer, api))
        return connector.parse_account(account, connector.parse_api_response(answer, api), template_values)

    def _manual_credential(self, provider: str, kind: str | None) -> tuple[Connector, ManualCredential]:
        """Return the connector and the kind of manual credential; with `kind` None, the only one.

        Raises `Invalid` if there is no such provider or kind.
        """
        connector = self._connectors.get(provider)
        if connector is None:
            field_error = FieldError("provider", "accounts of this provider cannot be connected")
            raise Invalid("no such provider", errors=(field_error,))
        credentials = connector.manual_credentials
        if not credentials:
            field_error = FieldError(
                "provider", "its accounts are connected by OAuth: POST /api/auth/oauth/connect"
            )
            raise Invalid("this provider has no manual credentials", errors=(field_error,))
        only_credential = next(iter(credentials.values())) if len(credentials) == 1 else None
        credential = credentials.get(kind) if kind else only_credential
        if credential is None:
            raise Invalid("no such kind", errors=(FieldError("kind", f"one of {', '.join(credentials)}"),))
        return connector, credential

    async def _same_account(
        self, provider: str, kind: str, provider_account: AccountIdentity, workspace: str
    ) -> Integration | None:
        candidates = await self._integrations.of_account(provider, provider_account.id, workspace)
        return next((integration for integration in candidates if integration.kind == kind), None)


def _preset_values(credential: ManualCredential, name: str | None) -> Mapping[str, str]:
    if name is None:
        return {}
    preset = credential.presets.get(name)
    if preset is None:
        listed = ", ".join(sorted(credential.presets)) or "none"
        raise Invalid("no such preset", errors=(FieldError("preset", f"there is {listed}"),))
    return preset.values


def _redacted_detail(error: ProviderRejected, credential: ManualCredential, values: Mapping[str, str]) -> str:
    """Return the error's text with the secret fields redacted: a provider's text could repeat them."""
    return _redact_fields(error.detail or f"{_REJECTED_DETAIL}: {error.code}", credential, values)


def _redact_fields(text: str, credential: ManualCredential, values: Mapping[str, str]) -> str:
    secrets = [
        values[name] for name, setting in credential.fields.items() if setting.secret and name in values
    ]
    return redact(text, secrets)

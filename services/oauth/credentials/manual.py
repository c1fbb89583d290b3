"""Accounts by what somebody enters, as a bot's token or a mail server's login: tried out when it is saved."""

import asyncio
import random
import re
from collections.abc import Mapping
from typing import Any, Final

from services.oauth.authorization.account_identity import CONNECTED_EVENTS, account_in_use, has_another_user
from services.oauth.credentials.mail_login import MailLoginChecker
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.integrations import IntegrationEventType, IntegrationRepository
from shared.connections.refresher import NoAnswer
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, FieldError, Invalid, Misconfigured
from shared.contracts.ids import new_integration_id
from shared.manifests.accounts import AccountIdentity, manual_credential_values
from shared.manifests.connect_models import ManualCredential
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.provider_response import GrantRevoked, ProviderRejected
from shared.manifests.registry import connectors
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Duplicate, utcnow
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

_TRIES: Final = 20
_MAX_RETRY_DELAY_S: Final = 0.05
_REJECTED_DETAIL: Final = "the platform does not take it"
_FIELD_BY_ERROR: Final[Mapping[str, str]] = {
    "unknown_host": "fields.host",
    "address_refused": "fields.host",
    "port_refused": "fields.port",
    "tls": "fields.security",
    "insecure": "fields.security",
}
"""The field that a refusal of a mail login is about; the others are about all of them."""
_HOST_FROM_FIELDS: Final = re.compile(r"\{|https://[^/?#]*\{")
"""An address whose host is made of what was entered."""
_INVALID_HOST_FAILURES: Final = frozenset({"dns", "tls", "address_refused", "bad_url"})


class ManualCredentials:
    """Takes, tries out and keeps entered credentials."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        mail: MailLoginChecker,
        watching: SubscriptionLifecycle,
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._mail = mail
        self._subscriptions = watching
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
    ) -> Document:
        """A new integration, or the one that this account has already, with new secrets.

        `user` is whose account it is; None leaves that as it is. `takeover`: another user's becomes theirs.
        Raises `Invalid` (also when the platform does not take it), `Conflict`, `ProviderUnavailable`,
        `DatabaseUnavailable`.
        """
        connector, way = _manual_credential(provider, kind)
        values = validate_fields(way.fields, {**_preset_values(way, preset), **fields}, place="fields")
        whose = await self._validate_account(connector, way, values, workspace)
        for _ in range(_TRIES):
            known = await self._same_account(provider, way.id, whose, workspace)
            if known is not None:
                changed = await self._save(known, whose, values, user, takeover=takeover)
                if changed is not None:
                    return changed
                await asyncio.sleep(random.uniform(0, _MAX_RETRY_DELAY_S))  # noqa: S311 -- only to spread
                continue
            document: Document = {
                "_id": new_integration_id(),
                "workspace": workspace,
                "provider": provider,
                "kind": way.id,
                "name": name or "",
                "sole": True,
                "params": {},
                "scopes": [],
                "created_at": utcnow(),
                "deleted_at": None,
                "version": 0,
                "fence": 0,
                "settled_fence": 0,
                "expires_at": None,
                "refreshable": False,
                "open": False,
                "due_at": None,
            }
            try:
                added = await self._integrations.add(
                    document | self._change(document, whose, values, user), publish="integration.connected"
                )
            except Duplicate:  # the same account is being saved beside this
                continue
            await self._subscriptions.prepare_automatic(added)
            return added
        raise Conflict("the integration is changing all the time: try again")

    async def update(
        self,
        document: Document,
        fields: Mapping[str, str],
        *,
        any_account: bool,
        user: str | None,
        takeover: bool = False,
    ) -> Document:
        """New secrets of an integration; fields that are left out stay as they are.

        Where what was entered before cannot be opened, nothing may be left out.
        Raises as `add`, and `Conflict` for another account's.
        """
        if has_another_user(document, user) and not takeover:
            raise account_in_use()
        connector, way = _manual_credential(document["provider"], document["kind"])
        try:
            before = self._stored_fields(document, way) if document.get("credential") else {}
        except Misconfigured as error:
            self._log.error("credential not opened", integration_id=document["_id"], error=str(error))
            before = {}
        values = validate_fields(way.fields, {**before, **fields}, place="fields")
        whose = await self._validate_account(connector, way, values, document["workspace"])
        account = document.get("account")
        if account and account["id"] != whose.id and not any_account:
            raise Conflict(
                f"that is {whose.label}; this integration is of {account['label']}: "
                "with any_account it is taken"
            )
        try:
            changed = await self._save(document, whose, values, user, takeover=takeover)
        except Duplicate:
            raise Conflict(f"another integration is of {whose.label} already") from None
        if changed is None:
            raise Conflict("the integration was changed meanwhile: try again")
        return changed

    async def check(self, document: Document) -> Document:
        """Try what is kept once more: the integration with what came of it.

        Raises `Invalid`: there is no such kind any more; `ProviderUnavailable`, which changes nothing;
        `Conflict`.
        """
        connector, way = _manual_credential(document["provider"], document["kind"])
        try:
            values = self._stored_fields(document, way)
        except Misconfigured as error:
            self._log.error("credential not opened", integration_id=document["_id"], error=str(error))
            raise Conflict(
                "the account's credential cannot be opened: the log of the service says why"
            ) from None
        change: dict[str, Any] = {"status": "connected", "reason": "", "last_error": None, "failures": 0}
        was_error = document["status"] == "error"
        tell: IntegrationEventType | None = "integration.recovered" if was_error else None
        try:
            await self._fetch_account(connector, way, values, document["workspace"])
        except ProviderRejected as error:
            gone = isinstance(error, GrantRevoked)
            change = {
                "status": "reauth_required" if gone else "error",
                "reason": "credentials_refused" if gone else "check_failed",
                "last_error": {
                    "at": utcnow(),
                    "code": _redact_fields(error.code, way, values),
                    "detail": _redacted_detail(error, way, values),
                },
            }
            tell = "integration.reauth_required" if gone else None if was_error else "integration.error"
        only = {"status": document["status"]}
        changed = await self._integrations.change(document, change, publish=tell, condition=only)
        self._tokens.forget(document["_id"])
        if changed is None:
            raise Conflict("the integration was changed meanwhile: try again")
        return changed

    def _stored_fields(self, document: Document, way: ManualCredential) -> dict[str, str]:
        """What was entered before; without fields that the kind does not have any more.

        Raises `Misconfigured`: it cannot be opened.
        """
        kept = self._integrations.open(document)["fields"]
        return {name: value for name, value in kept.items() if name in way.fields}

    async def _save(
        self,
        document: Document,
        whose: AccountIdentity,
        values: Mapping[str, str],
        user: str | None,
        *,
        takeover: bool,
    ) -> Document | None:
        """None when it was changed meanwhile. Raises `Conflict`, `Duplicate`."""
        taken = has_another_user(document, user) and document["status"] != "disconnected"
        if taken and not takeover:
            raise account_in_use()
        if document["status"] == "disabled":
            raise Conflict(f"the integration {document['_id']} of this account is disabled: enable it first")
        change = self._change(document, whose, values, user)
        known = all(document.get(field) == change[field] for field in ("status", "user"))
        known = known and (document.get("account") or {}).get("id") == whose.id
        changed = await self._integrations.change(
            document,
            change,
            publish=() if known else CONNECTED_EVENTS[taken],
            condition={"status": document["status"]},
        )
        self._tokens.forget(document["_id"])
        if changed is not None:
            await self._subscriptions.resume(changed["_id"])
        return changed

    def _change(
        self, document: Document, whose: AccountIdentity, values: Mapping[str, str], user: str | None
    ) -> dict[str, Any]:
        return {
            "status": "connected",
            "reason": "",
            "account": {"id": whose.id, "label": whose.label, "url": whose.url, "kept": dict(whose.kept)},
            "credential": self._integrations.seal(document, {"fields": dict(values)}),
            "version": document["version"] + 1,
            "connected_at": utcnow(),
            "user": user or document.get("user"),
            "last_error": None,
            "failures": 0,
        }

    async def _validate_account(
        self, connector: Connector, way: ManualCredential, values: Mapping[str, str], workspace: str
    ) -> AccountIdentity:
        """Whose it is. Raises `Invalid` when it is not right, with the field where that is known."""
        try:
            return await self._fetch_account(connector, way, values, workspace)
        except ProviderRejected as error:
            place = _FIELD_BY_ERROR.get(error.code, "fields") if way.login else "fields"
            fault = FieldError(place, _redacted_detail(error, way, values))
            raise Invalid("it was tried out, and is not right", errors=(fault,)) from None

    async def _fetch_account(
        self, connector: Connector, way: ManualCredential, values: Mapping[str, str], workspace: str
    ) -> AccountIdentity:
        """Whose it is, from the platform itself.

        Raises `ProviderRejected`, `GrantRevoked`, `ProviderUnavailable`.
        """
        if way.login is not None:
            await self._mail.check(way.login, values, workspace)
            name, host = values["username"], values["host"].lower()
            return AccountIdentity(id=f"{name}@{host}", label=f"{name} at {host}")
        account = way.account
        assert account is not None and account.call is not None  # noqa: S101, PT018 -- the model says so
        filled = manual_credential_values(way, values)
        api = connector.api_for(way.id)
        try:
            answer = await self._tokens.ask(connector.request(account.call, filled, api), workspace)
        except MissingValue as error:
            raise ProviderRejected("missing", str(error)) from None
        except NoAnswer as error:
            if error.failure in _INVALID_HOST_FAILURES and _HOST_FROM_FIELDS.match(account.call.url):
                raise ProviderRejected(error.failure, f"it cannot be reached: {error.detail}") from None
            raise
        if connector.is_token_rejected(answer, api):
            raise GrantRevoked(connector.api_error_code(answer, api))
        return connector.parse_account(account, connector.parse_api_response(answer, api), filled)

    async def _same_account(
        self, provider: str, kind: str, whose: AccountIdentity, workspace: str
    ) -> Document | None:
        found = await self._integrations.of_account(provider, whose.id, workspace)
        return next((document for document in found if document["kind"] == kind), None)


def _manual_credential(provider: str, kind: str | None) -> tuple[Connector, ManualCredential]:
    connector = connectors().get(provider)
    if connector is None:
        fault = FieldError("provider", "accounts of it cannot be connected")
        raise Invalid("no such provider", errors=(fault,))
    ways = connector.entered
    if not ways:
        fault = FieldError("provider", "its accounts are connected by OAuth: POST /api/auth/oauth/connect")
        raise Invalid("nothing to enter", errors=(fault,))
    way = ways.get(kind) if kind else next(iter(ways.values())) if len(ways) == 1 else None
    if way is None:
        raise Invalid("no such kind", errors=(FieldError("kind", f"one of {', '.join(ways)}"),))
    return connector, way


def _preset_values(way: ManualCredential, name: str | None) -> Mapping[str, str]:
    if name is None:
        return {}
    found = way.presets.get(name)
    if found is None:
        known = ", ".join(sorted(way.presets)) or "none"
        raise Invalid("no such preset", errors=(FieldError("preset", f"there is {known}"),))
    return found.values


def _redacted_detail(error: ProviderRejected, way: ManualCredential, values: Mapping[str, str]) -> str:
    """What may be shown: a platform's words could repeat the secret."""
    return _redact_fields(error.detail or f"{_REJECTED_DETAIL}: {error.code}", way, values)


def _redact_fields(text: str, way: ManualCredential, values: Mapping[str, str]) -> str:
    secrets = [values[name] for name, setting in way.fields.items() if setting.secret and name in values]
    return redact(text, secrets)

"""Accounts by what somebody enters, as a bot's token or a mail server's login: tried out when it is saved."""

import asyncio
import random
import re
from collections.abc import Mapping
from typing import Any, Final

from services.oauth.identity import CONNECTED, has_another_user, in_use
from services.oauth.mail import MailLogins
from services.oauth.watch import Watching
from shared.catalog.connect import Entered
from shared.catalog.connector import Connector, ConsentGone, Refused, Whose, entered_values
from shared.catalog.entering import entered
from shared.catalog.registry import connectors
from shared.contracts.errors import Conflict, FieldError, Invalid, Misconfigured
from shared.contracts.ids import new_integration_id
from shared.runtime.integrations import Integrations, Told
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Duplicate, utcnow
from shared.runtime.refresh import NoAnswer
from shared.runtime.tokens import TokenSource
from shared.wire.fills import Unfillable
from shared.wire.oauth import unsaid

_TRIES: Final = 20
_PAUSE_S: Final = 0.05
_PLATFORM: Final = "the platform does not take it"
_PLACES: Final[Mapping[str, str]] = {
    "unknown_host": "fields.host",
    "address_refused": "fields.host",
    "port_refused": "fields.port",
    "tls": "fields.security",
    "insecure": "fields.security",
}
"""The field that a refusal of a mail login is about; the others are about all of them."""
_OWN_HOST: Final = re.compile(r"\{|https://[^/?#]*\{")
"""An address whose host is made of what was entered."""
_NOT_A_PLATFORM: Final = frozenset({"dns", "tls", "address_refused", "bad_url"})


class Entering:
    """Takes, tries out and keeps entered credentials."""

    def __init__(
        self,
        integrations: Integrations,
        tokens: TokenSource,
        mail: MailLogins,
        watching: Watching,
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._mail = mail
        self._watching = watching
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
        Raises `Invalid` (also when the platform does not take it), `Conflict`, `PlatformBusy`,
        `StoreUnavailable`.
        """
        connector, way = _way(provider, kind)
        values = entered(way.fields, {**_preset(way, preset), **fields}, place="fields")
        whose = await self._saved(connector, way, values, workspace)
        for _ in range(_TRIES):
            known = await self._same_account(provider, way.id, whose, workspace)
            if known is not None:
                changed = await self._save(known, whose, values, user, takeover=takeover)
                if changed is not None:
                    return changed
                await asyncio.sleep(random.uniform(0, _PAUSE_S))  # noqa: S311 -- only to spread
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
                    document | self._change(document, whose, values, user), tell="integration.connected"
                )
            except Duplicate:  # the same account is being saved beside this
                continue
            await self._watching.expect(added)
            return added
        raise Conflict("the integration is changing all the time: try again")

    async def again(
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
            raise in_use()
        connector, way = _way(document["provider"], document["kind"])
        try:
            before = self._kept(document, way) if document.get("credential") else {}
        except Misconfigured as error:
            self._log.error("credential not opened", integration_id=document["_id"], error=str(error))
            before = {}
        values = entered(way.fields, {**before, **fields}, place="fields")
        whose = await self._saved(connector, way, values, document["workspace"])
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

        Raises `Invalid`: there is no such kind any more; `PlatformBusy`, which changes nothing; `Conflict`.
        """
        connector, way = _way(document["provider"], document["kind"])
        try:
            values = self._kept(document, way)
        except Misconfigured as error:
            self._log.error("credential not opened", integration_id=document["_id"], error=str(error))
            raise Conflict(
                "the account's credential cannot be opened: the log of the service says why"
            ) from None
        change: dict[str, Any] = {"status": "connected", "reason": "", "last_error": None, "failures": 0}
        was_error = document["status"] == "error"
        tell: Told | None = "integration.recovered" if was_error else None
        try:
            await self._whose(connector, way, values, document["workspace"])
        except Refused as error:
            gone = isinstance(error, ConsentGone)
            change = {
                "status": "reauth_required" if gone else "error",
                "reason": "credentials_refused" if gone else "check_failed",
                "last_error": {
                    "at": utcnow(),
                    "code": _clean(error.code, way, values),
                    "detail": _told(error, way, values),
                },
            }
            tell = "integration.reauth_required" if gone else None if was_error else "integration.error"
        only = {"status": document["status"]}
        changed = await self._integrations.change(document, change, tell=tell, only=only)
        self._tokens.forget(document["_id"])
        if changed is None:
            raise Conflict("the integration was changed meanwhile: try again")
        return changed

    def _kept(self, document: Document, way: Entered) -> dict[str, str]:
        """What was entered before; without fields that the kind does not have any more.

        Raises `Misconfigured`: it cannot be opened.
        """
        kept = self._integrations.open(document)["fields"]
        return {name: value for name, value in kept.items() if name in way.fields}

    async def _save(
        self,
        document: Document,
        whose: Whose,
        values: Mapping[str, str],
        user: str | None,
        *,
        takeover: bool,
    ) -> Document | None:
        """None when it was changed meanwhile. Raises `Conflict`, `Duplicate`."""
        taken = has_another_user(document, user) and document["status"] != "disconnected"
        if taken and not takeover:
            raise in_use()
        if document["status"] == "disabled":
            raise Conflict(f"the integration {document['_id']} of this account is disabled: enable it first")
        change = self._change(document, whose, values, user)
        known = all(document.get(field) == change[field] for field in ("status", "user"))
        known = known and (document.get("account") or {}).get("id") == whose.id
        changed = await self._integrations.change(
            document,
            change,
            tell=() if known else CONNECTED[taken],
            only={"status": document["status"]},
        )
        self._tokens.forget(document["_id"])
        if changed is not None:
            await self._watching.wake(changed["_id"])
        return changed

    def _change(
        self, document: Document, whose: Whose, values: Mapping[str, str], user: str | None
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

    async def _saved(
        self, connector: Connector, way: Entered, values: Mapping[str, str], workspace: str
    ) -> Whose:
        """Whose it is. Raises `Invalid` when it is not right, with the field where that is known."""
        try:
            return await self._whose(connector, way, values, workspace)
        except Refused as error:
            place = _PLACES.get(error.code, "fields") if way.login else "fields"
            fault = FieldError(place, _told(error, way, values))
            raise Invalid("it was tried out, and is not right", errors=(fault,)) from None

    async def _whose(
        self, connector: Connector, way: Entered, values: Mapping[str, str], workspace: str
    ) -> Whose:
        """Whose it is, from the platform itself. Raises `Refused`, `ConsentGone`, `PlatformBusy`."""
        if way.login is not None:
            await self._mail.check(way.login, values, workspace)
            name, host = values["username"], values["host"].lower()
            return Whose(id=f"{name}@{host}", label=f"{name} at {host}")
        account = way.account
        assert account is not None and account.call is not None  # noqa: S101, PT018 -- the model says so
        filled = entered_values(way, values)
        api = connector.api_of(way.id)
        try:
            answer = await self._tokens.ask(connector.request(account.call, filled, api), workspace)
        except Unfillable as error:
            raise Refused("missing", str(error)) from None
        except NoAnswer as error:
            if error.failure in _NOT_A_PLATFORM and _OWN_HOST.match(account.call.url):
                raise Refused(error.failure, f"it cannot be reached: {error.detail}") from None
            raise
        if connector.token_refused(answer, api):
            raise ConsentGone(connector.failure(answer, api))
        return connector.whose(account, connector.read(answer, api), filled)

    async def _same_account(self, provider: str, kind: str, whose: Whose, workspace: str) -> Document | None:
        found = await self._integrations.of_account(provider, whose.id, workspace)
        return next((document for document in found if document["kind"] == kind), None)


def _way(provider: str, kind: str | None) -> tuple[Connector, Entered]:
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


def _preset(way: Entered, name: str | None) -> Mapping[str, str]:
    if name is None:
        return {}
    found = way.presets.get(name)
    if found is None:
        known = ", ".join(sorted(way.presets)) or "none"
        raise Invalid("no such preset", errors=(FieldError("preset", f"there is {known}"),))
    return found.values


def _told(error: Refused, way: Entered, values: Mapping[str, str]) -> str:
    """What may be shown: a platform's words could repeat the secret."""
    return _clean(error.detail or f"{_PLATFORM}: {error.code}", way, values)


def _clean(text: str, way: Entered, values: Mapping[str, str]) -> str:
    secrets = [values[name] for name, setting in way.fields.items() if setting.secret and name in values]
    return unsaid(text, secrets)

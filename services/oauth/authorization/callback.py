"""Taking a person back from a platform: what came with him is made an integration.

Nothing of what a platform gave is kept before it is known whose account it is; what cannot be kept is given
back (revoked).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from services.oauth.authorization.account_identity import (
    ACCOUNT_IN_USE,
    CONNECTED_EVENTS,
    find_same_account,
    has_another_user,
    identity_fields,
    is_same_account,
    person_of,
)
from services.oauth.authorization.account_selection import SELECTION_TIMEOUT
from services.oauth.authorization.flows import app_for, oauth_connector, server_binding
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.authorization.state import LockTimeout, States, UsedCode
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.apps import Apps
from shared.connections.credentials import (
    merge_tokens,
    refresh_schedule,
    reset_refresh_state,
    retained_refresh_tokens,
    template_values,
    token_values,
)
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Misconfigured, NotFound, Rejected
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.connector import Connector
from shared.manifests.oauth1 import OAuth1Flow, RequestToken
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.manifests.token_response import TokenResponse
from shared.runtime.logs import Log
from shared.runtime.mongo import Document, Duplicate, utcnow
from shared.wire.redaction import redact
from shared.wire.request_template import MissingValue

_MAX_CODE_LENGTH: Final = 4096
_MAX_ERROR_LENGTH: Final = 100
_TRIES: Final = 5
_DENIAL_ERRORS: Final = frozenset(
    {"access_denied", "user_denied", "user_cancelled_login", "user_cancelled_authorize"}
)
_GONE_DETAIL: Final = "the integration is not there any more: begin anew"


class AuthorizationFailed(Exception):
    """The dance has ended without a connection. `code` is a stable word, `why` a sentence for people."""

    def __init__(self, code: str, why: str, *, status: int = 400, log_detail: str = "") -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.status = status
        self.log_detail = log_detail or why
        """What may stand in a log: `why` may name accounts."""
        self.holder: Document | None = None
        """The integration that has the account: what it lives on must not be revoked."""
        self.pending_state: Document = {}
        """What the state was made for: where to send the person back to."""


class CallbackHandler:
    """Finishes dances."""

    def __init__(
        self,
        states: States,
        integrations: IntegrationRepository,
        apps: Apps,
        tokens: TokenSource,
        watching: SubscriptionLifecycle,
        revoking: GrantRevoker,
        log: Log,
    ) -> None:
        self._states = states
        self._integrations = integrations
        self._apps = apps
        self._tokens = tokens
        self._subscriptions = watching
        self._revoker = revoking
        self._log = log

    async def complete(
        self, query: Sequence[tuple[str, str]], cookie: str | None
    ) -> tuple[Document, Document]:
        """What the state was made for, and the integration that was connected.

        Raises `AuthorizationFailed`, or what `States.use` raises: nobody is sent on then, and nothing was
        done.
        """
        await self._apps.current()
        begun, verifier = await self._states.consume(dict(query).get("state", ""), cookie)
        try:
            return begun, await self._complete(begun, verifier, query)
        except AuthorizationFailed as error:
            error.pending_state = begun
            await self._states.mark_failed(dict(query)["state"])
            raise
        except (NotFound, DatabaseUnavailable, Misconfigured) as error:
            away = not isinstance(error, NotFound)
            if isinstance(error, Misconfigured):
                self._log.error("connection not finished", why=str(error), provider=begun["provider"])
            why = "something is not available: begin anew in a moment" if away else _GONE_DETAIL
            ended = AuthorizationFailed("unavailable" if away else "gone", why, status=503 if away else 410)
            ended.pending_state = begun
            await self._states.mark_failed(dict(query)["state"])
            raise ended from error

    async def _complete(
        self, pending_state: Document, verifier: str, query: Sequence[tuple[str, str]]
    ) -> Document:
        document = await self._integrations.find(pending_state["integration_id"], pending_state["workspace"])
        connector, values = self._resolve_connector(pending_state, document)
        if document["status"] == "disabled":
            raise AuthorizationFailed("disabled", "the integration is disabled: enable it first")
        kept = await self._check_response(pending_state, document, connector, values, query)
        code = dict(query).get("oauth_verifier" if connector.oauth1 else "code", "")
        if not code or len(code) > _MAX_CODE_LENGTH:
            raise AuthorizationFailed("no_code", "the platform sent no code")
        granted = await self._exchange_code(pending_state, connector, values, code, verifier)
        whose: AccountIdentity | None = None
        try:
            granted = await self._exchange_long_lived(pending_state, connector, values, granted)
            whose, choices = await self._fetch_account(pending_state, connector, values, granted, kept)
            async with self._states.lock(pending_state["workspace"], pending_state["provider"], whose.id):
                return await self._store_connection(
                    pending_state, document["_id"], connector, granted, whose, choices
                )
        except LockTimeout:
            if (
                not connector.revokes_all_grants
            ):  # else the other one's grant, which is just made, would end too
                await self._revoke_unused(document, values, granted, whose, None)
            raise
        except (DatabaseUnavailable, Misconfigured):
            raise  # it may have been written after all
        except (AuthorizationFailed, InterlinkError) as error:
            holder = error.holder if isinstance(error, AuthorizationFailed) else None
            await self._revoke_unused(document, values, granted, whose, holder)
            if isinstance(error, AuthorizationFailed | NotFound):
                raise
            if isinstance(error, ProviderRejected) and error.code == "nothing_to_choose":
                raise AuthorizationFailed(error.code, error.detail) from error
            given = [values.get("client_secret", ""), *_token_values(granted)]
            raise AuthorizationFailed(
                "no_account",
                "the platform did not say whose account it is: try again",
                log_detail=redact(f"not known whose account it is: {error}", given),
            ) from error

    def _resolve_connector(
        self, pending_state: Document, document: Document
    ) -> tuple[Connector, dict[str, str]]:
        """How the answer is to be read, which has to be as it was when the person set out."""
        try:
            connector = oauth_connector(pending_state["provider"])
            app = app_for(self._apps, connector, pending_state["workspace"])
        except Rejected as error:
            raise AuthorizationFailed(
                "app_gone",
                f"the app of {pending_state['provider']} cannot be used here any more",
                log_detail=error.detail,
            ) from error
        values = template_values(
            {**document, "params": pending_state["params"]}, app, pending_state["redirect_uri"]
        )
        if server_binding(connector, app, values) != pending_state["server"]:
            raise AuthorizationFailed(
                "app_changed", f"the app of {pending_state['provider']} was changed: begin anew"
            )
        return connector, values

    async def _check_response(
        self,
        pending_state: Document,
        document: Document,
        connector: Connector,
        values: Mapping[str, str],
        query: Sequence[tuple[str, str]],
    ) -> Mapping[str, str]:
        """What to keep of an answer, which is checked to be the platform's, also when it is an error."""
        got = dict(query)
        said = got.get("error")
        if connector.oauth1 is not None:
            try:
                OAuth1Flow(connector.oauth1).verifier(got, RequestToken(**pending_state["request"]))
            except ProviderRejected as error:
                if error.code != "access_denied":
                    raise AuthorizationFailed(
                        error.code, "the answer is not from the platform that was asked"
                    ) from error
                said = said or error.code
        try:
            kept = connector.validate_callback(query, values) if connector.oauth2 else {}
        except (ProviderRejected, MissingValue) as error:
            code = error.code if isinstance(error, ProviderRejected) else "wrong_answer"
            if not said or code == "wrong_issuer":  # errors need not have what else answers have
                raise AuthorizationFailed(
                    code, "the answer is not from the platform that was asked"
                ) from error
            kept = {}
        if not said:
            return kept
        if said not in _DENIAL_ERRORS:
            raise AuthorizationFailed("platform_error", f"the platform said: {said[:_MAX_ERROR_LENGTH]}")
        if not pending_state["again"] and document["status"] == "pending" and document["credential"] is None:
            await self._integrations.change(document, {"deleted_at": utcnow(), "open": False})
        raise AuthorizationFailed("access_denied", "the platform was told not to allow it")

    async def _exchange_code(
        self,
        pending_state: Document,
        connector: Connector,
        values: Mapping[str, str],
        code: str,
        verifier: str,
    ) -> TokenResponse:
        """The tokens for the code, which is brought to the platform once."""
        try:
            await self._states.consume_code(code)
            if connector.oauth1 is not None:
                flow = OAuth1Flow(connector.oauth1)
                third = flow.access_token_request(values, RequestToken(**pending_state["request"]), code)
                return flow.parse_token_response(await self._tokens.ask(third, pending_state["workspace"]))
            call = connector.exchange(values, code=code, verifier=verifier)
            return connector.parse_token_response(await self._tokens.ask(call, pending_state["workspace"]))
        except (GrantRevoked, UsedCode) as error:
            raise AuthorizationFailed(
                "code_refused", "the platform does not take the code (any more)"
            ) from error
        except ProviderRejected as error:
            request = pending_state.get("request") or {}
            hidden = (code, verifier, values.get("client_secret", ""), *request.values())
            word, detail = redact(error.code, hidden), redact(error.detail, hidden)
            if isinstance(error, InvalidClient):
                workspace, said = pending_state["workspace"], InvalidClient(word, detail)
                app = self._apps.find(connector.app, workspace)
                if await self._tokens.app_checker.handle_invalid_client(app, connector, workspace, said):
                    raise AuthorizationFailed(
                        "app_refused", "the platform refuses the app's client id or secret"
                    ) from error
            why = f"{word} ({detail})" if detail else word
            raise AuthorizationFailed("platform_error", f"the platform refused: {why}") from error
        except (ProviderUnavailable, MissingValue) as error:
            raise AuthorizationFailed(
                "platform_unavailable", "the platform could not be asked: try again"
            ) from error

    async def _exchange_long_lived(
        self, pending_state: Document, connector: Connector, values: Mapping[str, str], granted: TokenResponse
    ) -> TokenResponse:
        """The grant with tokens that live longer, where the platform has them."""
        if granted.tokens is None or connector.oauth2 is None:
            return granted
        longer = connector.long_lived_request({**values, "access_token": granted.tokens.access_token})
        if longer is None:
            return granted
        better = connector.parse_token_response(await self._tokens.ask(longer, pending_state["workspace"]))
        if better.tokens and better.tokens.scopes is None:
            better = replace(better, tokens=replace(better.tokens, scopes=granted.tokens.scopes))
        return replace(better, document=granted.document)

    async def _fetch_account(
        self,
        pending_state: Document,
        connector: Connector,
        values: Mapping[str, str],
        granted: TokenResponse,
        kept: Mapping[str, str],
    ) -> tuple[AccountIdentity, list[AccountResource]]:
        account = connector.account
        assert account is not None  # noqa: S101 -- the manifest has one for every flow
        tokens = granted.tokens or next(iter(granted.others.values()))
        values = {**values, "access_token": tokens.access_token} | {
            f"account:{name}": value for name, value in kept.items()
        }
        document = granted.document
        if account.call is not None:
            call = connector.request(account.call, values)
            document = connector.parse_api_response(await self._tokens.ask(call, pending_state["workspace"]))
        whose = connector.parse_account(account, document)
        person = connector.parse_person(document, token=granted.document)
        whose = replace(whose, kept={**kept, **whose.kept}, person=person)
        if connector.choices is None:
            return whose, []
        values |= {f"account:{name}": value for name, value in whose.kept.items()}
        found = await self._tokens.ask(
            connector.request(connector.choices.call, values), pending_state["workspace"]
        )
        return whose, connector.parse_resources(connector.parse_api_response(found))

    async def _store_connection(
        self,
        pending_state: Document,
        name: str,
        connector: Connector,
        granted: TokenResponse,
        whose: AccountIdentity,
        choices: list[AccountResource],
    ) -> Document:
        """Write it: into the integration that has this account already, or into the one that set out."""
        for _ in range(_TRIES):
            document = await self._integrations.find(name, pending_state["workspace"])
            target = await self._find_target(pending_state, document, whose, choices)
            kept = self._retained_tokens(pending_state, target, granted, whose)
            change = _connection_change(pending_state, target, connector, granted, whose, choices, kept)
            change["credential"] = self._integrations.seal(target, merge_tokens(kept, granted))
            if change["status"] == "connected":
                await self._subscriptions.prepare_automatic(target)
            taken = has_another_user(target, pending_state["user"])
            try:
                changed = await self._integrations.change(
                    target,
                    change,
                    publish=CONNECTED_EVENTS[taken] if change["status"] == "connected" else None,
                    condition={"status": target["status"]},  # disabled, or ended, meanwhile: look again
                )
            except Duplicate:  # another process has connected the same account beside this
                continue
            if changed is not None:
                break
        else:
            raise AuthorizationFailed("overtaken", "the integration is changing all the time: try again")
        self._tokens.forget(changed["_id"])
        await self._revoke_replaced(target, whose, changed, taken=taken)
        if changed["_id"] != document["_id"]:
            gone = {"deleted_at": utcnow(), "open": False, "merged_into": changed["_id"]}
            await self._integrations.change(document, gone)
        await self._subscriptions.resume(changed["_id"])
        return changed

    async def _find_target(
        self,
        pending_state: Document,
        document: Document,
        whose: AccountIdentity,
        choices: Sequence[AccountResource],
    ) -> Document:
        """Which integration it is written into.

        Raises `AuthorizationFailed`: it is not what was to be connected.
        """
        before = document.get("account")
        choice = _preselected_resource(choices, document)
        # Of an account with several places, each may be connected: which one this is, may not be known yet.
        known = choice is not None or not choices
        user = pending_state["user"] or document.get("user")
        same = await find_same_account(self._integrations, document, whose, choice, user) if known else None
        mine = bool(before) and is_same_account(document, whose, document.get("user"))
        if mine and (same is None or choice is None):
            _check_available(pending_state, document)
            return document
        if before and not mine and not pending_state["any_account"]:
            raise _wrong_account(pending_state, document, whose)
        if before and same is not None:
            label = choice.label if choice else whose.label
            called = f": {same['name']}" if same["name"] and not has_another_user(same, user) else ""
            raise AuthorizationFailed(
                "connected_already",
                f"{label} is connected already{called}",
                log_detail=f"the account is that of {same['_id']}",
            )
        target = same or document
        _check_available(pending_state, target)
        return target

    def _retained_tokens(
        self, pending_state: Document, target: Document, granted: TokenResponse, whose: AccountIdentity
    ) -> dict[str, Any]:
        """The refresh tokens that the platform left out, as it gave them before for the same consent."""
        was = target.get("account")
        same = (
            was
            and was["id"] == whose.id
            and person_of(target) == whose.person
            and target["status"] in ("connected", "error")
            and list(target.get("app") or ()) == list(pending_state["server"][:2])
            and target["params"] == pending_state["params"]
        )
        scopes = _granted_scopes(pending_state, granted)
        if not same or not set(target["scopes"]) <= set(
            scopes
        ):  # what it makes may do no more than is allowed now
            return {}
        try:
            before = self._integrations.open(target)
        except Misconfigured:
            return {}
        return retained_refresh_tokens(before, granted)

    async def _revoke_unused(
        self,
        document: Document,
        values: Mapping[str, str],
        granted: TokenResponse,
        whose: AccountIdentity | None,
        holder: Document | None,
    ) -> None:
        """Revoke what will not be kept; not what `holder`, another integration of the account, lives on."""
        account = whose.id if whose else None
        spare = self._tokens_in_use(holder) if holder is not None else ()
        await self._revoker.revoke(document, values, merge_tokens({}, granted), account, tokens_in_use=spare)

    async def _revoke_replaced(
        self, before: Document, whose: AccountIdentity, now: Document, *, taken: bool
    ) -> None:
        """Revoke what an integration had of another account, or user, than it has now."""
        account = before.get("account")
        if not account or not before["credential"]:
            return
        if account["id"] == whose.id and person_of(before) in (None, whose.person) and not taken:
            return
        try:
            secrets = self._integrations.open(before)
        except Misconfigured:
            return
        values, spare = self._tokens.values(before), self._tokens_in_use(now)
        await self._revoker.revoke(before, values, secrets, account["id"], tokens_in_use=spare)

    def _tokens_in_use(self, document: Document) -> Collection[str]:
        """The tokens that an integration lives on."""
        try:
            secrets = self._integrations.open(document) if document["credential"] else {}
        except Misconfigured:
            return ()
        grants = (secrets, *secrets.get("others", {}).values())
        return [token for grant in grants for token in token_values(grant).values()]


def _token_values(granted: TokenResponse) -> list[str]:
    every = [each for each in (granted.tokens, *granted.others.values()) if each is not None]
    return [token for each in every for token in (each.access_token, each.refresh_token)]


def _check_available(pending_state: Mapping[str, Any], document: Document) -> None:
    """Raise `AuthorizationFailed` if the integration is another user's, or disabled.

    Connecting is not enabling.
    """
    if has_another_user(document, pending_state["user"]) and not pending_state.get("takeover"):
        error = AuthorizationFailed("account_in_use", ACCOUNT_IN_USE, status=409)
        error.holder = document
        raise error
    if document["status"] == "disabled":
        raise AuthorizationFailed("disabled", "the integration is disabled: enable it first")


def _wrong_account(
    pending_state: Mapping[str, Any], document: Document, whose: AccountIdentity
) -> AuthorizationFailed:
    """The refusal of an account that is not the integration's; another user's account is not named."""
    label = document["account"]["label"]
    note = "another account signed in"
    if has_another_user(document, pending_state["user"]):
        why = f"that is {whose.label}, and this integration is of another account"
    elif document["account"]["id"] == whose.id:
        why = (
            f"somebody else of {whose.label} signed in. Sign in there as before, or connect it as an account "
            "of its own"
        )
    else:
        why = (
            f"that is {whose.label}; this integration is of {label}. Sign in there as {label}, or connect "
            f"{whose.label} as an account of its own"
        )
    return AuthorizationFailed("other_account", why, log_detail=note)


def _connection_change(
    pending_state: Document,
    target: Document,
    connector: Connector,
    granted: TokenResponse,
    whose: AccountIdentity,
    choices: Sequence[AccountResource],
    kept: Mapping[str, Any],
) -> dict[str, Any]:
    """What connecting changes, but for the credential; `kept` are refresh tokens from before."""
    choice = _preselected_resource(choices, target)
    account: dict[str, Any] = {
        "id": whose.id,
        "label": whose.label,
        "url": whose.url,
        "kept": dict(whose.kept),
        "person": whose.person,
    }
    if choice is not None:
        account |= {"choice": {"id": choice.id, "label": choice.label}}
        account["kept"] = {**whose.kept, **choice.kept}
    whole = choice is not None or not choices
    before = {"refreshable": True, "refresh_expires_at": target["refresh_expires_at"]} if kept else {}
    times = refresh_schedule(connector, granted, before)
    if not whole:
        times |= {"open": True, "due_at": utcnow() + SELECTION_TIMEOUT, "due_once_chosen": times["due_at"]}
    return {
        "status": "connected" if whole else "pending",
        "reason": "" if whole else "choice_required",
        "choices": [{"id": each.id, "label": each.label, "kept": dict(each.kept)} for each in choices],
        "account": account,
        "params": pending_state["params"],
        "app": pending_state["server"][:2],
        "asked": pending_state["asked"],
        "scopes": _granted_scopes(pending_state, granted),
        "version": target["version"] + 1,
        "connected_at": utcnow(),
        "user": pending_state["user"] or target.get("user"),
        **reset_refresh_state(target),
        **times,
        **(identity_fields(target, account) if whole else {"takeover": bool(pending_state.get("takeover"))}),
    }


def _granted_scopes(pending_state: Mapping[str, Any], granted: TokenResponse) -> list[str]:
    """What was granted; what was asked for, where the platform does not say."""
    said = granted.tokens.scopes if granted.tokens else None
    return list(pending_state["asked"] if said is None else said)


def _preselected_resource(
    choices: Sequence[AccountResource], before: Mapping[str, Any]
) -> AccountResource | None:
    """The only one, or the one that was chosen before."""
    if len(choices) == 1:
        return choices[0]
    earlier = ((before.get("account") or {}).get("choice") or {}).get("id")
    return next((each for each in choices if each.id == earlier), None)

"""Write the result of an authorization into an integration, and revoke the tokens that are not stored."""

from collections.abc import Collection, Mapping, Sequence
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
from services.oauth.authorization.errors import AuthorizationFailed
from services.oauth.authorization.revoke import GrantRevoker
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.credentials import (
    merge_tokens,
    refresh_schedule,
    reset_refresh_state,
    retained_refresh_tokens,
    token_values,
)
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Misconfigured
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.connector import Connector
from shared.manifests.token_response import TokenResponse
from shared.runtime.mongo import Document, Duplicate, utcnow

_MAX_ATTEMPTS: Final = 5


class ConnectionWriter:
    """Stores connections, and revokes grants that are unused or replaced."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        subscriptions: SubscriptionLifecycle,
        revoker: GrantRevoker,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._subscriptions = subscriptions
        self._revoker = revoker

    async def store(
        self,
        pending_state: Document,
        integration_id: str,
        connector: Connector,
        granted: TokenResponse,
        provider_account: AccountIdentity,
        resources: list[AccountResource],
    ) -> Document:
        """Store the tokens and return the changed integration.

        The target is the integration that already has this account, else the one that the authorization was
        started for (`integration_id`). The latter is deleted if it is not the target. Call it while holding
        the lock of the account.

        Raises `AuthorizationFailed` if the account is not acceptable, or if the integration changed at every
        attempt; `NotFound`, `DatabaseUnavailable`, `Misconfigured`.
        """
        for _ in range(_MAX_ATTEMPTS):
            document = await self._integrations.find(integration_id, pending_state["workspace"])
            target = await self._find_target(pending_state, document, provider_account, resources)
            retained = self._retained_tokens(pending_state, target, granted, provider_account)
            change = _connection_change(
                pending_state, target, connector, granted, provider_account, resources, retained
            )
            change["credential"] = self._integrations.seal(target, merge_tokens(retained, granted))
            if change["status"] == "connected":
                await self._subscriptions.prepare_automatic(target)
            taken_over = has_another_user(target, pending_state["user"])
            try:
                changed = await self._integrations.change(
                    target,
                    change,
                    publish=CONNECTED_EVENTS[taken_over] if change["status"] == "connected" else None,
                    # If it was disabled or deleted since it was read, read it again. So too if a refresh
                    # began: the change settles the fence that was read.
                    condition={"status": target["status"], "fence": target["fence"]},
                )
            except Duplicate:  # Another process connected the same account at the same time.
                continue
            if changed is not None:
                break
        else:
            raise AuthorizationFailed("overtaken", "the integration changed while it was updated: try again")
        self._tokens.forget(changed["_id"])
        await self._revoke_replaced(target, provider_account, changed, taken_over=taken_over)
        if changed["_id"] != document["_id"]:
            deletion = {"deleted_at": utcnow(), "open": False, "merged_into": changed["_id"]}
            await self._integrations.change(document, deletion)
        await self._subscriptions.resume(changed["_id"])
        return changed

    async def revoke_unused(
        self,
        document: Document,
        values: Mapping[str, str],
        granted: TokenResponse,
        provider_account: AccountIdentity | None,
        holder: Document | None,
    ) -> None:
        """Revoke tokens that will not be stored, except those that the integration `holder` uses.

        `provider_account` is None if the account is not known. Failures are logged, never raised.
        """
        account = provider_account.id if provider_account else None
        tokens_in_use = self._tokens_in_use(holder) if holder is not None else ()
        await self._revoker.revoke(
            document, values, merge_tokens({}, granted), account, tokens_in_use=tokens_in_use
        )

    async def _find_target(
        self,
        pending_state: Document,
        document: Document,
        provider_account: AccountIdentity,
        resources: Sequence[AccountResource],
    ) -> Document:
        """Return the integration to write into.

        Raises `AuthorizationFailed` if the account is connected already, belongs to another user, or is not
        the account that was to be connected.
        """
        before = document.get("account")
        resource = _preselected_resource(resources, document)
        # Each resource of an account can have its own integration. Until one is selected, it is not known
        # which integration is the same.
        is_resource_known = resource is not None or not resources
        user = pending_state["user"] or document.get("user")
        same = (
            await find_same_account(self._integrations, document, provider_account, resource, user)
            if is_resource_known
            else None
        )
        is_unchanged = bool(before) and is_same_account(document, provider_account, document.get("user"))
        if is_unchanged and (same is None or resource is None):
            _check_available(pending_state, document)
            return document
        if before and not is_unchanged and not pending_state["any_account"]:
            raise _wrong_account(pending_state, document, provider_account)
        if before and same is not None:
            label = resource.label if resource else provider_account.label
            name_suffix = f": {same['name']}" if same["name"] and not has_another_user(same, user) else ""
            raise AuthorizationFailed(
                "connected_already",
                f"{label} is connected already{name_suffix}",
                log_detail=f"the account is that of {same['_id']}",
            )
        target = same or document
        _check_available(pending_state, target)
        return target

    def _retained_tokens(
        self,
        pending_state: Document,
        target: Document,
        granted: TokenResponse,
        provider_account: AccountIdentity,
    ) -> dict[str, Any]:
        """Return stored refresh tokens to keep because the provider's response has none.

        Some providers issue a refresh token only with the first consent. It is kept only for the same
        account, person, app and parameters, and only if its scopes are not wider than those granted now.
        """
        account_before = target.get("account")
        is_same_grant = (
            account_before
            and account_before["id"] == provider_account.id
            and person_of(target) == provider_account.person
            and target["status"] in ("connected", "error")
            and list(target.get("app") or ()) == list(pending_state["server"][:2])
            and target["params"] == pending_state["params"]
        )
        scopes = _granted_scopes(pending_state, granted)
        if not is_same_grant or not set(target["scopes"]) <= set(scopes):
            return {}
        try:
            before = self._integrations.open(target)
        except Misconfigured:
            return {}
        return retained_refresh_tokens(before, granted)

    async def _revoke_replaced(
        self, before: Document, provider_account: AccountIdentity, changed: Document, *, taken_over: bool
    ) -> None:
        """Revoke the previous tokens of an integration if they are of another account, person or user."""
        account = before.get("account")
        if not account or not before["credential"]:
            return
        is_same_person = person_of(before) in (None, provider_account.person)
        if account["id"] == provider_account.id and is_same_person and not taken_over:
            return
        try:
            secrets = self._integrations.open(before)
        except Misconfigured:
            return
        values, tokens_in_use = self._tokens.values(before), self._tokens_in_use(changed)
        await self._revoker.revoke(before, values, secrets, account["id"], tokens_in_use=tokens_in_use)

    def _tokens_in_use(self, document: Document) -> Collection[str]:
        """Return the tokens of an integration, in clear; none if they cannot be decrypted."""
        try:
            secrets = self._integrations.open(document) if document["credential"] else {}
        except Misconfigured:
            return ()
        grants = (secrets, *secrets.get("others", {}).values())
        return [token for grant in grants for token in token_values(grant).values()]


def _check_available(pending_state: Mapping[str, Any], document: Document) -> None:
    """Raise `AuthorizationFailed` if the integration belongs to another user or is disabled.

    Connecting an account does not enable a disabled integration.
    """
    if has_another_user(document, pending_state["user"]) and not pending_state.get("takeover"):
        error = AuthorizationFailed("account_in_use", ACCOUNT_IN_USE, status=409)
        error.holder = document
        raise error
    if document["status"] == "disabled":
        raise AuthorizationFailed("disabled", "the integration is disabled: enable it first")


def _wrong_account(
    pending_state: Mapping[str, Any], document: Document, provider_account: AccountIdentity
) -> AuthorizationFailed:
    """Return the error for an account other than the integration's.

    It does not name the integration's account if that belongs to another user.
    """
    label = document["account"]["label"]
    if has_another_user(document, pending_state["user"]):
        detail = f"you signed in as {provider_account.label}, but this integration is for another account"
    elif document["account"]["id"] == provider_account.id:
        detail = (
            f"another person of {provider_account.label} signed in. Sign in at the provider as before, or "
            "connect it as an account of its own"
        )
    else:
        detail = (
            f"you signed in as {provider_account.label}, but this integration is for {label}. Sign in at the "
            f"provider as {label}, or connect {provider_account.label} as an account of its own"
        )
    return AuthorizationFailed("other_account", detail, log_detail="another account signed in")


def _connection_change(
    pending_state: Document,
    target: Document,
    connector: Connector,
    granted: TokenResponse,
    provider_account: AccountIdentity,
    resources: Sequence[AccountResource],
    retained: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the fields to set on `target`, without the credential.

    `retained` are the refresh tokens that are kept from before. The integration stays `pending` if the
    account has several resources and none is selected.
    """
    resource = _preselected_resource(resources, target)
    account: dict[str, Any] = {
        "id": provider_account.id,
        "label": provider_account.label,
        "url": provider_account.url,
        "kept": dict(provider_account.attributes),
        "person": provider_account.person,
    }
    if resource is not None:
        account |= {"choice": {"id": resource.id, "label": resource.label}}
        account["kept"] = {**provider_account.attributes, **resource.attributes}
    is_complete = resource is not None or not resources
    before = {"refreshable": True, "refresh_expires_at": target["refresh_expires_at"]} if retained else {}
    times = refresh_schedule(connector, granted, before)
    if not is_complete:
        times |= {"open": True, "due_at": utcnow() + SELECTION_TIMEOUT, "due_once_chosen": times["due_at"]}
    return {
        "status": "connected" if is_complete else "pending",
        "reason": "" if is_complete else "choice_required",
        "choices": [
            {"id": item.id, "label": item.label, "kept": dict(item.attributes)} for item in resources
        ],
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
        **(
            identity_fields(target, account)
            if is_complete
            else {"takeover": bool(pending_state.get("takeover"))}
        ),
    }


def _granted_scopes(pending_state: Mapping[str, Any], granted: TokenResponse) -> list[str]:
    """Return the granted scopes; the requested ones if the provider does not list them."""
    scopes = granted.tokens.scopes if granted.tokens else None
    return list(pending_state["asked"] if scopes is None else scopes)


def _preselected_resource(
    resources: Sequence[AccountResource], before: Mapping[str, Any]
) -> AccountResource | None:
    """Return the only resource, or the one that the integration had before; None if a person must select."""
    if len(resources) == 1:
        return resources[0]
    earlier = ((before.get("account") or {}).get("choice") or {}).get("id")
    return next((resource for resource in resources if resource.id == earlier), None)

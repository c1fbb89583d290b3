"""Choosing which of an account's places (sites, pages) an integration is of: each has one of its own."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from services.oauth.authorization.account_identity import (
    CONNECTED_EVENTS,
    account_in_use,
    find_same_account,
    has_another_user,
    identity_fields,
)
from services.oauth.authorization.state import States
from services.oauth.subscriptions.lifecycle import SubscriptionLifecycle
from shared.connections.credentials import reset_refresh_state
from shared.connections.integrations import IntegrationRepository, display_name
from shared.connections.tokens import TokenSource
from shared.contracts.errors import Conflict, FieldError, Invalid
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.runtime.mongo import Document, Duplicate, utcnow

SELECTION_TIMEOUT: Final = timedelta(days=7)
"""How long a grant waits for somebody to choose what it is of."""
_TRIES: Final = 5
_GRANT_FIELDS: Final = (
    "params",
    "app",
    "asked",
    "scopes",
    "choices",
    "connected_at",
    "expires_at",
    "renew_at",
    "refresh_expires_at",
    "refreshable",
)
"""What an integration knows of its grant, beside the credential."""


class AccountSelection:
    """Writes down what was chosen."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        states: States,
        watching: SubscriptionLifecycle,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._states = states
        self._subscriptions = watching

    async def choose(self, name: str, workspace: str, choice: str) -> Document:
        """The integration of the place: this one, or the one that it had, with the new grant.

        Raises `NotFound`, `Invalid`: there is no such choice; `Conflict`, `DatabaseUnavailable`.
        """
        for _ in range(_TRIES):
            document = await self._integrations.find(name, workspace)
            place = _find_resource(document, choice)
            account = document["account"]
            async with self._states.lock(workspace, document["provider"], account["id"]):
                taker = await self._find_merged(document, account["id"])
                whose = AccountIdentity(account["id"], account["label"], person=account.get("person") or "")
                same = await find_same_account(
                    self._integrations, document, whose, place, document.get("user")
                )
                if taker is not None:  # who died before it was written down
                    changed: Document | None = taker
                    await self._delete_merged(document, taker)
                else:
                    try:
                        changed = await (
                            self._apply_selection(document, place)
                            if same is None
                            else self._merge_into_existing(document, place, same)
                        )
                    except Duplicate:  # another process has connected the same place beside this
                        changed = None
            if changed is not None:
                await self._subscriptions.resume(changed["_id"])
                return changed
        raise Conflict("the integration is changing all the time: try again")

    async def _apply_selection(self, document: Document, place: AccountResource) -> Document | None:
        account = _account_with_resource(document, place)
        change: dict[str, Any] = {"account": account, **identity_fields(document, account)}
        begins = document["status"] == "pending"
        if begins:
            change |= {"status": "connected", "reason": "", **_due_fields(document)}
            await self._subscriptions.prepare_automatic(document)
        changed = await self._integrations.change(
            document,
            change,
            publish="integration.connected" if begins else None,
            condition={"status": document["status"]},
        )
        self._tokens.forget(document["_id"])
        return changed

    async def _merge_into_existing(
        self, document: Document, place: AccountResource, same: Document
    ) -> Document | None:
        """The place's own integration, with the grant of one that was only begun."""
        taken = has_another_user(same, document.get("user"))
        if document["status"] != "pending":
            called = "" if taken else f": {display_name(same)}"
            raise Conflict(f"{place.label} is connected already{called}")
        if taken and not document.get("takeover"):
            raise account_in_use()
        if same["status"] == "disabled":
            raise Conflict(f"the integration of {place.label} is disabled: enable {same['_id']} first")
        account = _account_with_resource(document, place)
        change = {
            **{name: document[name] for name in _GRANT_FIELDS},
            **_due_fields(document),
            **reset_refresh_state(same),
            "status": "connected",
            "reason": "",
            "user": document.get("user") or same.get("user"),
            "account": account,
            **identity_fields(same, account),
            "grant_of": [document["_id"], document["version"]],
            "credential": self._integrations.seal(same, self._integrations.open(document)),
            "version": same["version"] + 1,
        }
        await self._subscriptions.prepare_automatic(same)
        changed = await self._integrations.change(
            same, change, publish=CONNECTED_EVENTS[taken], condition={"status": same["status"]}
        )
        self._tokens.forget(same["_id"])
        if changed is not None:
            await self._delete_merged(document, same)
        return changed

    async def _find_merged(self, document: Document, account: str) -> Document | None:
        """The integration that has this one's grant already."""
        found = await self._integrations.of_account(document["provider"], account, document["workspace"])
        mine = [document["_id"], document["version"]]
        return next((other for other in found if other.get("grant_of") == mine), None)

    async def _delete_merged(self, document: Document, same: Document) -> None:
        gone = {"deleted_at": utcnow(), "open": False, "credential": None, "merged_into": same["_id"]}
        await self._integrations.change(document, gone)
        await self._subscriptions.unsubscribe_all(document["_id"])


def _due_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """When something is to be done by itself for a grant, now that it is chosen what it is of."""
    at = document.get("due_once_chosen", document["due_at"])
    return {"open": at is not None, "due_at": at}


def _find_resource(document: Mapping[str, Any], choice: str) -> AccountResource:
    """Raises `Invalid`."""
    choices = document.get("choices", [])
    found = next((each for each in choices if each["id"] == choice), None)
    if found is None:
        known = ", ".join(each["id"] for each in choices[:20]) or "there is none"
        raise Invalid("no such choice", errors=(FieldError("choice", known),))
    return AccountResource(found["id"], found["label"], found["kept"])


def _account_with_resource(document: Mapping[str, Any], place: AccountResource) -> dict[str, Any]:
    account = document["account"]
    return {
        **account,
        "kept": {**account["kept"], **place.kept},
        "choice": {"id": place.id, "label": place.label},
    }

"""Select which resource of an account (a site, a page) an integration is for. Each can have its own."""

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
"""How long a grant waits for the selection before it is revoked."""
_MAX_ATTEMPTS: Final = 5
_MAX_LISTED_CHOICES: Final = 20
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
"""The fields of an integration that describe its grant, beside the credential."""


class AccountSelection:
    """Stores selections."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        tokens: TokenSource,
        states: States,
        subscriptions: SubscriptionLifecycle,
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._states = states
        self._subscriptions = subscriptions

    async def choose(self, integration_id: str, workspace: str, choice: str) -> Document:
        """Select the resource with the id `choice`. Return its integration.

        If the resource has an integration already, that one gets the new grant, and the one that was pending
        is deleted.

        Raises `NotFound`, `Invalid` if there is no such resource, `Conflict` if the resource is connected,
        disabled or another user's, or if the integration changed at every attempt; `DatabaseUnavailable`.
        """
        for _ in range(_MAX_ATTEMPTS):
            document = await self._integrations.find(integration_id, workspace)
            resource = _find_resource(document, choice)
            account = document["account"]
            async with self._states.lock(workspace, document["provider"], account["id"]):
                merged = await self._find_merged(document, account["id"])
                provider_account = AccountIdentity(
                    account["id"], account["label"], person=account.get("person") or ""
                )
                same = await find_same_account(
                    self._integrations, document, provider_account, resource, document.get("user")
                )
                if merged is not None:
                    # An earlier call wrote the merged integration and died before it deleted this one.
                    changed: Document | None = merged
                    await self._delete_merged(document, merged)
                else:
                    try:
                        changed = await (
                            self._apply_selection(document, resource)
                            if same is None
                            else self._merge_into_existing(document, resource, same)
                        )
                    except Duplicate:  # Another process connected the same resource at the same time.
                        changed = None
            if changed is not None:
                await self._subscriptions.resume(changed["_id"])
                return changed
        raise Conflict("the integration changed while it was updated: try again")

    async def _apply_selection(self, document: Document, resource: AccountResource) -> Document | None:
        """Store the selection in the integration itself. Return None if it changed since it was read."""
        account = _account_with_resource(document, resource)
        change: dict[str, Any] = {"account": account, **identity_fields(document, account)}
        is_pending = document["status"] == "pending"
        if is_pending:
            change |= {"status": "connected", "reason": "", **_due_fields(document)}
            await self._subscriptions.prepare_automatic(document)
        changed = await self._integrations.change(
            document,
            change,
            publish="integration.connected" if is_pending else None,
            condition={"status": document["status"]},
        )
        self._tokens.forget(document["_id"])
        return changed

    async def _merge_into_existing(
        self, document: Document, resource: AccountResource, same: Document
    ) -> Document | None:
        """Move the grant of a pending integration to `same`, the integration that has the resource.

        Return None if it changed since it was read. Raises `Conflict`.
        """
        taken_over = has_another_user(same, document.get("user"))
        if document["status"] != "pending":
            name_suffix = "" if taken_over else f": {display_name(same)}"
            raise Conflict(f"{resource.label} is connected already{name_suffix}")
        if taken_over and not document.get("takeover"):
            raise account_in_use()
        if same["status"] == "disabled":
            raise Conflict(f"the integration of {resource.label} is disabled: enable {same['_id']} first")
        account = _account_with_resource(document, resource)
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
            # Sealing is bound to the integration's id, so the credential is sealed again.
            "credential": self._integrations.seal(same, self._integrations.open(document)),
            "version": same["version"] + 1,
        }
        await self._subscriptions.prepare_automatic(same)
        changed = await self._integrations.change(
            same,
            change,
            publish=CONNECTED_EVENTS[taken_over],
            # The change settles the fence that was read: not that of a refresh that began since.
            condition={"status": same["status"], "fence": same["fence"]},
        )
        self._tokens.forget(same["_id"])
        if changed is not None:
            await self._delete_merged(document, same)
        return changed

    async def _find_merged(self, document: Document, account_id: str) -> Document | None:
        """Return the integration that already has this integration's grant."""
        candidates = await self._integrations.of_account(
            document["provider"], account_id, document["workspace"]
        )
        grant = [document["_id"], document["version"]]
        return next((other for other in candidates if other.get("grant_of") == grant), None)

    async def _delete_merged(self, document: Document, target: Document) -> None:
        deletion = {"deleted_at": utcnow(), "open": False, "credential": None, "merged_into": target["_id"]}
        await self._integrations.change(document, deletion)
        await self._subscriptions.unsubscribe_all(document["_id"])


def _due_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return when maintenance of the grant is due once the resource is selected."""
    at = document.get("due_once_chosen", document["due_at"])
    return {"open": at is not None, "due_at": at}


def _find_resource(document: Mapping[str, Any], choice: str) -> AccountResource:
    """Return the resource with this id. Raises `Invalid` if there is none."""
    choices = document.get("choices", [])
    stored = next((item for item in choices if item["id"] == choice), None)
    if stored is None:
        listed = ", ".join(item["id"] for item in choices[:_MAX_LISTED_CHOICES])
        raise Invalid(
            "no such choice",
            errors=(FieldError("choice", f"one of {listed}" if listed else "there is nothing to choose"),),
        )
    return AccountResource(stored["id"], stored["label"], stored["kept"])


def _account_with_resource(document: Mapping[str, Any], resource: AccountResource) -> dict[str, Any]:
    account = document["account"]
    return {
        **account,
        "kept": {**account["kept"], **resource.attributes},
        "choice": {"id": resource.id, "label": resource.label},
    }

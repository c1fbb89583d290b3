"""Choosing which of an account's places (sites, pages) an integration is of: each has one of its own."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from services.oauth.identity import CONNECTED, find_same, has_another_user, held, in_use
from services.oauth.states import States
from services.oauth.watch import Watching
from shared.catalog.connector import Choice, Whose
from shared.contracts.errors import Conflict, FieldError, Invalid
from shared.runtime.credentials import of_new_tokens
from shared.runtime.integrations import Integrations, name_of
from shared.runtime.mongo import Document, Duplicate, utcnow
from shared.runtime.tokens import TokenSource

CHOICE: Final = timedelta(days=7)
"""How long a grant waits for somebody to choose what it is of."""
_TRIES: Final = 5
_GRANT: Final = (
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


class Choosing:
    """Writes down what was chosen."""

    def __init__(
        self, integrations: Integrations, tokens: TokenSource, states: States, watching: Watching
    ) -> None:
        self._integrations = integrations
        self._tokens = tokens
        self._states = states
        self._watching = watching

    async def choose(self, name: str, workspace: str, choice: str) -> Document:
        """The integration of the place: this one, or the one that it had, with the new grant.

        Raises `NotFound`, `Invalid`: there is no such choice; `Conflict`, `StoreUnavailable`.
        """
        for _ in range(_TRIES):
            document = await self._integrations.find(name, workspace)
            place = _place(document, choice)
            account = document["account"]
            async with self._states.alone(workspace, document["provider"], account["id"]):
                taker = await self._taker(document, account["id"])
                whose = Whose(account["id"], account["label"], person=account.get("person") or "")
                same = await find_same(self._integrations, document, whose, place, document.get("user"))
                if taker is not None:  # who died before it was written down
                    changed: Document | None = taker
                    await self._merged(document, taker)
                else:
                    try:
                        changed = await (
                            self._chosen(document, place)
                            if same is None
                            else self._moved(document, place, same)
                        )
                    except Duplicate:  # another process has connected the same place beside this
                        changed = None
            if changed is not None:
                await self._watching.wake(changed["_id"])
                return changed
        raise Conflict("the integration is changing all the time: try again")

    async def _chosen(self, document: Document, place: Choice) -> Document | None:
        account = _account(document, place)
        change: dict[str, Any] = {"account": account, **held(document, account)}
        begins = document["status"] == "pending"
        if begins:
            change |= {"status": "connected", "reason": "", **_due(document)}
            await self._watching.expect(document)
        changed = await self._integrations.change(
            document,
            change,
            tell="integration.connected" if begins else None,
            only={"status": document["status"]},
        )
        self._tokens.forget(document["_id"])
        return changed

    async def _moved(self, document: Document, place: Choice, same: Document) -> Document | None:
        """The place's own integration, with the grant of one that was only begun."""
        taken = has_another_user(same, document.get("user"))
        if document["status"] != "pending":
            called = "" if taken else f": {name_of(same)}"
            raise Conflict(f"{place.label} is connected already{called}")
        if taken and not document.get("takeover"):
            raise in_use()
        if same["status"] == "disabled":
            raise Conflict(f"the integration of {place.label} is disabled: enable {same['_id']} first")
        account = _account(document, place)
        change = {
            **{name: document[name] for name in _GRANT},
            **_due(document),
            **of_new_tokens(same),
            "status": "connected",
            "reason": "",
            "user": document.get("user") or same.get("user"),
            "account": account,
            **held(same, account),
            "grant_of": [document["_id"], document["version"]],
            "credential": self._integrations.seal(same, self._integrations.open(document)),
            "version": same["version"] + 1,
        }
        await self._watching.expect(same)
        changed = await self._integrations.change(
            same, change, tell=CONNECTED[taken], only={"status": same["status"]}
        )
        self._tokens.forget(same["_id"])
        if changed is not None:
            await self._merged(document, same)
        return changed

    async def _taker(self, document: Document, account: str) -> Document | None:
        """The integration that has this one's grant already."""
        found = await self._integrations.of_account(document["provider"], account, document["workspace"])
        mine = [document["_id"], document["version"]]
        return next((other for other in found if other.get("grant_of") == mine), None)

    async def _merged(self, document: Document, same: Document) -> None:
        gone = {"deleted_at": utcnow(), "open": False, "credential": None, "merged_into": same["_id"]}
        await self._integrations.change(document, gone)
        await self._watching.end_all(document["_id"])


def _due(document: Mapping[str, Any]) -> dict[str, Any]:
    """When something is to be done by itself for a grant, now that it is chosen what it is of."""
    at = document.get("due_once_chosen", document["due_at"])
    return {"open": at is not None, "due_at": at}


def _place(document: Mapping[str, Any], choice: str) -> Choice:
    """Raises `Invalid`."""
    choices = document.get("choices", [])
    found = next((each for each in choices if each["id"] == choice), None)
    if found is None:
        known = ", ".join(each["id"] for each in choices[:20]) or "there is none"
        raise Invalid("no such choice", errors=(FieldError("choice", known),))
    return Choice(found["id"], found["label"], found["kept"])


def _account(document: Mapping[str, Any], place: Choice) -> dict[str, Any]:
    account = document["account"]
    return {
        **account,
        "kept": {**account["kept"], **place.kept},
        "choice": {"id": place.id, "label": place.label},
    }

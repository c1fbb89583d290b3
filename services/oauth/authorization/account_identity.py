"""Find which integration an account belongs to.

The identity of an account is its id at the provider, the person whom the token acts for where the account is
a team's, and the selected resource (a site, a page). An integration that one user of the chat has is never
given to another one, unless the call asks for a takeover.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from shared.connections.integrations import IntegrationEventType, IntegrationRepository
from shared.contracts.errors import Conflict, FieldError
from shared.contracts.ids import derive
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.registry import connectors
from shared.runtime.mongo import Document

RELEASED_IDENTITY: Final[Mapping[str, Any]] = {"holds_identity": False}
"""The fields of an integration whose identity another integration may have."""
CONNECTED_EVENTS: Final[Mapping[bool, Sequence[IntegrationEventType]]] = {
    False: ("integration.connected",),
    True: ("integration.connected", "integration.taken_over"),
}
"""The events to publish when an account is connected, by whether another user had it before."""
ACCOUNT_IN_USE: Final = (
    "this account is already connected by another user: ask whoever manages integrations to disconnect it, "
    "or connect it with takeover: true"
)


def account_in_use() -> Conflict:
    """Return the error for an account that another user has."""
    return Conflict(ACCOUNT_IN_USE, errors=(FieldError("takeover", "account_in_use"),))


def identity_fields(document: Mapping[str, Any], account: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that make an integration the only one with this account's identity.

    `document` names provider and kind; `account` has id, person and selected resource (`choice`).
    """
    choice = (account.get("choice") or {}).get("id") or ""
    parts = (document["provider"], document["kind"], account["id"], account.get("person") or "", choice)
    return {"identity": derive(*parts), "holds_identity": True}


def has_another_user(document: Mapping[str, Any], user: str | None) -> bool:
    """Return whether an integration belongs to a user other than `user`; False if either is None."""
    return user is not None and document.get("user") not in (None, user)


def person_of(document: Mapping[str, Any]) -> str | None:
    """Return the id of the person of the account whom an integration acts for.

    It is '' if the account has no persons, and None if the person is not known: earlier releases did not
    store it.
    """
    connector = connectors().get(document["provider"])
    return connector.stored_person(document["account"]) if connector is not None else ""


def is_same_account(document: Mapping[str, Any], provider_account: AccountIdentity, user: str | None) -> bool:
    """Return whether an integration is of this account and person.

    A token of no person (a bot's), or of an unknown one, is the same for the same `user` only.
    """
    if document["account"]["id"] != provider_account.id:
        return False
    person = person_of(document)
    if person == provider_account.person:
        return True
    return (not person or not provider_account.person) and document.get("user") == user


async def find_same_account(
    integrations: IntegrationRepository,
    document: Mapping[str, Any],
    provider_account: AccountIdentity,
    resource: AccountResource | None,
    user: str | None,
) -> Document | None:
    """Return another integration of the workspace with this account, and with this resource if there is one.

    A disconnected integration counts for its own user only. Of several, one that is not disconnected comes
    first, then one of the same person. Raises `DatabaseUnavailable`.
    """
    candidates = await integrations.of_account(
        document["provider"], provider_account.id, document["workspace"]
    )
    matching = list(_matching_integrations(candidates, document, provider_account, resource, user))
    matching.sort(
        key=lambda item: (item["status"] == "disconnected", person_of(item) != provider_account.person)
    )
    return matching[0] if matching else None


def _matching_integrations(
    candidates: list[Document],
    document: Mapping[str, Any],
    provider_account: AccountIdentity,
    resource: AccountResource | None,
    user: str | None,
) -> Iterator[Document]:
    for other in candidates:
        if other["_id"] == document["_id"] or other["kind"] != document["kind"]:
            continue
        if resource is not None and (other["account"].get("choice") or {}).get("id") != resource.id:
            continue
        if other["status"] == "disconnected" and has_another_user(other, user):
            continue
        if is_same_account(other, provider_account, user):
            yield other

"""Which integration an account belongs to: its identity on the platform, and the chat's user who has it.

The identity is the account, the person whom the token acts for where the account is a team's, and the chosen
place. Another user of the chat never gets an integration that somebody has, unless the call says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from shared.connections.integrations import IntegrationEventType, IntegrationRepository
from shared.contracts.errors import Conflict, FieldError
from shared.contracts.ids import derive
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.registry import connectors
from shared.runtime.mongo import Document

RELEASED: Final[Mapping[str, Any]] = {"holds_identity": False}
"""What an integration's document says when another one may have its identity."""
CONNECTED_EVENTS: Final[Mapping[bool, Sequence[IntegrationEventType]]] = {
    False: ("integration.connected",),
    True: ("integration.connected", "integration.taken_over"),
}
"""What is published when an account is connected, by whether it was another user's until then."""
ACCOUNT_IN_USE: Final = (
    "this account is connected here already by another user: ask whoever manages integrations to disconnect "
    "it, or connect it with takeover: true"
)


def account_in_use() -> Conflict:
    """Return the refusal of a call that names another user than the one who has the account."""
    return Conflict(ACCOUNT_IN_USE, errors=(FieldError("takeover", "account_in_use"),))


def identity_fields(document: Mapping[str, Any], account: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with which an integration is the only one of this account's identity."""
    choice = (account.get("choice") or {}).get("id") or ""
    parts = (document["provider"], document["kind"], account["id"], account.get("person") or "", choice)
    return {"identity": derive(*parts), "holds_identity": True}


def has_another_user(document: Mapping[str, Any], user: str | None) -> bool:
    """Return whether an integration is another user's than the one who connects; None names nobody."""
    return user is not None and document.get("user") not in (None, user)


def person_of(document: Mapping[str, Any]) -> str | None:
    """Return whom of its account an integration acts for; None where nobody knows.

    Earlier versions did not store it for its own sake.
    """
    connector = connectors().get(document["provider"])
    return connector.stored_person(document["account"]) if connector is not None else ""


def is_same_account(document: Mapping[str, Any], whose: AccountIdentity, user: str | None) -> bool:
    """Return whether an integration is of this account, by its person.

    A token without a person (a bot's), or of one whom nobody knows, is the same for the same `user` only.
    """
    if document["account"]["id"] != whose.id:
        return False
    person = person_of(document)
    if person == whose.person:
        return True
    return (not person or not whose.person) and document.get("user") == user


async def find_same_account(
    integrations: IntegrationRepository,
    document: Mapping[str, Any],
    whose: AccountIdentity,
    place: AccountResource | None,
    user: str | None,
) -> Document | None:
    """Find another integration of the workspace with this account, and this place where it has places.

    One that was disconnected counts for its own user only. Raises `DatabaseUnavailable`.
    """
    found = await integrations.of_account(document["provider"], whose.id, document["workspace"])
    same = list(_matching_integrations(found, document, whose, place, user))
    same.sort(key=lambda each: (each["status"] == "disconnected", person_of(each) != whose.person))
    return same[0] if same else None


def _matching_integrations(
    found: list[Document],
    document: Mapping[str, Any],
    whose: AccountIdentity,
    place: AccountResource | None,
    user: str | None,
) -> Iterator[Document]:
    for other in found:
        if other["_id"] == document["_id"] or other["kind"] != document["kind"]:
            continue
        if place is not None and (other["account"].get("choice") or {}).get("id") != place.id:
            continue
        if other["status"] == "disconnected" and has_another_user(other, user):
            continue
        if is_same_account(other, whose, user):
            yield other

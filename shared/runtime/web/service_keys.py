"""Service keys: with them services call one another's management APIs.

They are not stored. Each is sealed with the installation's encryption key, for one workspace, is valid for a
minute, and names the member that the service acts for.

A key can be limited to a customer of the workspace. It has no scopes: only routes for customers accept it
(`access.requires`), and a release without such routes accepts it nowhere.
"""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from shared.contracts.errors import InterlinkError, Unauthenticated
from shared.contracts.ids import WorkspaceId
from shared.runtime.clock import utcnow
from shared.runtime.secrets import Vault, pack, unpack
from shared.runtime.web.api_keys import Scope

SERVICE_KEY_PREFIX: Final = "ils_"
INVALID_KEY: Final = "the API key is unknown, expired or revoked"
_TTL: Final = timedelta(seconds=90)
"""A minute, and 30 s for the difference of two clocks."""
_RECORD: Final = "service key"
_ACTING: Final = "acting:"
"""Begins the scope that names the acting member. It allows nothing: no route needs it."""
_CUSTOMER: Final = "customer:"
"""Begins the scope that names the customer and the event types. It allows nothing either."""
_ROLE: Final = "role:"
"""Begins the scope with the role and the session of the acting member. Earlier releases ignore it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Actor of a call: an API key or a member and, where the call names one, a user of the chat.

    `role` is that of a member, `session` the id of the session of the console.
    """

    key_id: str
    key_name: str = ""
    user: str = ""
    role: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer of a workspace, to whose objects a call is limited."""

    id: str
    events: tuple[str, ...]
    """The patterns of event types that the customer may subscribe to."""


CURRENT_ACTOR: Final[ContextVar[Actor | None]] = ContextVar("CURRENT_ACTOR", default=None)
"""Actor of the call that is being handled; None outside of calls that change something.

Tasks that the call starts inherit it. What a service does by itself, such as a renewal, has none.
"""


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """An opened service key: the calling service, its workspace and scopes, and the member it acts for."""

    service: str
    workspace: WorkspaceId
    scopes: frozenset[str]
    expires_at: datetime
    acting: Actor | None
    customer: Customer | None = None


def service_key(
    vault: Vault,
    service: str,
    workspace: str,
    scopes: Iterable[Scope],
    acting: Actor | None,
    *,
    customer: Customer | None = None,
) -> str:
    """Return a key with which `service` can call another service for a workspace, within the next minute.

    `acting` is the member on whose behalf it calls; None if it calls for itself. A key that is limited to a
    `customer` has no scopes. Raises `ValueError` for one with scopes.
    """
    if customer and (scopes := list(scopes)):
        raise ValueError("a key of a customer has no scopes")
    expires_at = (utcnow() + _TTL).isoformat()
    sealed_scopes: list[str] = sorted(scopes)
    if acting:
        # Among the scopes, because an earlier release opens a list of exactly four items, and ignores a
        # scope that it does not know.
        sealed_scopes.append(_ACTING + orjson.dumps([acting.key_id, acting.key_name, acting.user]).decode())
        sealed_scopes.append(_ROLE + orjson.dumps([acting.role, acting.session]).decode())
    if customer:
        sealed_scopes.append(_CUSTOMER + orjson.dumps([customer.id, customer.events]).decode())
    text = orjson.dumps([service, workspace, sealed_scopes, expires_at]).decode()
    sealed = vault.seal(text, workspace="", record=_RECORD, field="key")
    return SERVICE_KEY_PREFIX + pack(sealed)


def open_service_key(vault: Vault, key: str) -> ServiceKey:
    """Open a service key. Raises `Unauthenticated` if it is malformed, forged or expired."""
    try:
        text = vault.open(
            unpack(key.removeprefix(SERVICE_KEY_PREFIX)), workspace="", record=_RECORD, field="key"
        )
        service, workspace, sealed_scopes, expires_at_text = orjson.loads(text)
        expires_at = datetime.fromisoformat(expires_at_text)
        scopes = frozenset(item for item in sealed_scopes if not item.startswith((_ACTING, _ROLE, _CUSTOMER)))
        [[role, session]] = _values(sealed_scopes, _ROLE) or [["", ""]]
        acting = [
            Actor(key_id, key_name, user, role, session)
            for key_id, key_name, user in _values(sealed_scopes, _ACTING)
        ]
        customers = [Customer(name, tuple(events)) for name, events in _values(sealed_scopes, _CUSTOMER)]
    except (InterlinkError, ValueError, TypeError, KeyError, AttributeError):
        raise Unauthenticated(INVALID_KEY) from None
    if expires_at <= utcnow():
        raise Unauthenticated(INVALID_KEY)
    return ServiceKey(
        service,
        WorkspaceId(workspace),
        scopes,
        expires_at,
        acting[0] if acting else None,
        customers[0] if customers else None,
    )


def _values(sealed_scopes: Iterable[str], prefix: str) -> list[Any]:
    """Return the JSON values behind a prefix. Raises `ValueError`."""
    return [orjson.loads(item[len(prefix) :]) for item in sealed_scopes if item.startswith(prefix)]

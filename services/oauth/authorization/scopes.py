"""Select the scopes to request: those of purposes, those that are named, and those of a person."""

from collections.abc import Iterable, Sequence

from shared.contracts.errors import FieldError, Invalid
from shared.manifests.connect_models import Purpose
from shared.manifests.connector import Connector


def scopes_of_purposes(
    connector: Connector, purposes: Iterable[Purpose], scopes: Sequence[str] | None
) -> Sequence[str] | None:
    """Return the scopes of all purposes together, then `scopes`; `scopes` itself without a purpose.

    Raises `Invalid` if the provider's manifest has no scopes for one of the purposes.
    """
    purposes = list(purposes)
    if not purposes:
        return scopes
    for purpose in purposes:
        if purpose not in connector.purposes:
            known = ", ".join(connector.purposes)
            detail = f"one of {known}" if known else "this provider has no scopes by purpose: send scopes"
            raise Invalid("there are no scopes for this purpose", errors=(FieldError("purpose", detail),))
    of_purposes = (scope for purpose in purposes for scope in connector.purposes[purpose])
    return list(dict.fromkeys((*of_purposes, *(scopes or ()))))


def validate_user_scopes(connector: Connector, user_scopes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the scopes to ask for in the name of the person, each once; None for those of the app.

    Raises `Invalid` if the provider has no such scopes beside those of the app.
    """
    if user_scopes is None:
        return None
    if user_scopes and (connector.oauth2 is None or connector.oauth2.user_scopes is None):
        detail = "this provider has one token, of the person: send scopes"
        raise Invalid("there are no scopes of a person", errors=(FieldError("user_scopes", detail),))
    return tuple(dict.fromkeys(user_scopes))

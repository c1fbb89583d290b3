"""Check and build `return_to`, the address that a person is sent to after an authorization."""

import re
from collections.abc import Mapping
from posixpath import normpath
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from shared.contracts.errors import FieldError, Invalid
from shared.contracts.routes import is_connect_result

_OUTCOME_PARAMETERS: Final = frozenset({"confirmation_code", "error", "integration_id", "status"})


_WEBHOOK_PATH: Final = re.compile(r"/api/webhooks(/|$)|/integrations/[^/]+/webhook")
"""Paths of webhooks. A proxy may pass them on to the hub on the chat's host, under a prefix too."""


def may_get_code(return_to: str | None, *, base: str) -> bool:
    """Return whether `return_to`, which `validate_return_to` returned, may get a confirmation code.

    Addresses of the hub may not: a tenant could name an inbound endpoint of his own, which shows him every
    request, and confirm the account of the person whom he sent the ticket. The page of results of a connect
    session may: it passes the code to a page of an allowed origin only, and only for an authorization that
    its own session has started.
    """
    if return_to is None:
        return False
    if _origin(return_to) == _origin(base):
        return is_connect_result(return_to.removeprefix(base))
    path = normpath("/" + unquote(unquote(urlsplit(return_to).path)).lstrip("/"))
    return _WEBHOOK_PATH.search(path) is None


def validate_return_to(return_to: str | None, *, base: str, origins: frozenset[str]) -> str | None:
    """Return `return_to` as an absolute address; None if it is empty.

    It must be a path of the hub, whose public address is `base`, or an address of `base` or of one of
    `origins`. Raises `Invalid`.
    """
    if not return_to:
        return None
    field_error = FieldError(
        "return_to", "a path of the hub, or an address of an origin in INTERLINK_RETURN_ORIGINS"
    )
    # Browsers and parsers disagree about backslashes, blanks, control characters and other scripts, so an
    # address with one of them could pass the check below and lead a browser elsewhere.
    if not return_to.isascii() or not return_to.isprintable() or "\\" in return_to or " " in return_to:
        raise Invalid("return_to is not allowed", errors=(field_error,))
    if return_to.startswith("/") and not return_to.startswith("//"):
        return base + return_to
    if _origin(return_to) not in origins | {_origin(base)}:
        raise Invalid("return_to is not allowed", errors=(field_error,))
    return return_to


def _origin(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}".lower()


def add_outcome(return_to: str, outcome: Mapping[str, str]) -> str:
    """Return `return_to` with the outcome in its query, in place of parameters with the same names."""
    parts = urlsplit(return_to)
    before = parse_qsl(parts.query, keep_blank_values=True)
    pairs = [*(pair for pair in before if pair[0] not in _OUTCOME_PARAMETERS), *outcome.items()]
    return parts._replace(query=urlencode(pairs)).geturl()

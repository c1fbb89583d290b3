"""Check and build `return_to`, the address that a person is sent to after an authorization."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from shared.contracts.errors import FieldError, Invalid

_OUTCOME_PARAMETERS: Final = frozenset({"confirmation_code", "error", "integration_id", "status"})


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

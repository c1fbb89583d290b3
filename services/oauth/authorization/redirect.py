"""Where a person is sent in the end: only where the installation says that people may be sent."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from shared.contracts.errors import FieldError, Invalid

_OUTCOME_PARAMETERS: Final = frozenset({"error", "integration_id", "status"})


def validate_return_to(given: str | None, *, base: str, origins: frozenset[str]) -> str | None:
    """The address: of one of the origins, or a path of the hub's own. Raises `Invalid`.

    What browsers and parsers read differently (backslashes, blanks, control characters, other scripts) is
    refused before it is read.
    """
    if not given:
        return None
    fault = FieldError(
        "return_to", "a path of the hub, or an address of an origin in INTERLINK_RETURN_ORIGINS"
    )
    if not given.isascii() or not given.isprintable() or "\\" in given or " " in given:
        raise Invalid("return_to is not allowed", errors=(fault,))
    if given.startswith("/") and not given.startswith("//"):
        return base + given
    if _origin(given) not in origins | {_origin(base)}:
        raise Invalid("return_to is not allowed", errors=(fault,))
    return given


def _origin(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}".lower()


def add_outcome(return_to: str, outcome: Mapping[str, str]) -> str:
    """The address with the outcome in its query; what stands there under the same names goes."""
    parts = urlsplit(return_to)
    before = parse_qsl(parts.query, keep_blank_values=True)
    pairs = [*(pair for pair in before if pair[0] not in _OUTCOME_PARAMETERS), *outcome.items()]
    return parts._replace(query=urlencode(pairs)).geturl()

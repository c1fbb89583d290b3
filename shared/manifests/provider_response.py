"""Responses of a provider's token endpoint and API: errors, parsing, and values selected from them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any, Final

from shared.contracts.errors import InterlinkError, Malformed, RetryLater
from shared.manifests.connect_models import JmesPath
from shared.wire.bodies import FORM_CONTENT_TYPE, parse_json
from shared.wire.expressions import Expression, ExpressionError
from shared.wire.provider_http import ProviderResponse, parse_form
from shared.wire.retry_after import parse_retry_after

_SUCCESS_VALUES: Final = (None, False, 0, "", "0", "ok", "OK", "success")
"""Values of an error field that mean success."""
MAX_VALUE_LENGTH: Final = 1024
_MAX_COMPILED: Final = 128
"""Characters of a value that is selected from a response; the rest is cut off."""


class ProviderRejected(InterlinkError):
    """The provider rejected a request.

    `code` is the provider's error code. `detail` may be shown to users: it contains no secret.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class GrantRevoked(ProviderRejected):
    """The grant has ended. Only the user can give another one."""


class InvalidClient(ProviderRejected):
    """The provider rejected the app's client id or secret. An operator has to correct them."""


class UnreadableResponse(ProviderRejected):
    """The provider reported no error, but its response does not have what was asked for.

    It may have processed the request: what it answered is lost.
    """


class ProviderUnavailable(RetryLater):
    """The provider could not answer. Repeat the request after `retry_after` seconds."""

    is_ambiguous = False
    """True if the provider may have processed the request."""


def provider_unavailable(response: ProviderResponse) -> ProviderUnavailable:
    """Return the error for a response with status 429 or 5xx, with the provider's `Retry-After` in it.

    The pause is limited to 1 to 3600 s.
    """
    header = response.headers.get("retry-after", "")
    try:
        pause_s = float(header)
    except ValueError:
        pause_s = parse_retry_after(header, datetime.now(UTC)) or 0.0  # an HTTP date
    pause_s = pause_s if isfinite(pause_s) else 0.0
    error = ProviderUnavailable(
        f"the provider answered with status {response.status}", retry_after=min(max(pause_s, 1.0), 3600.0)
    )
    # It may have failed, or a proxy before it, after it had done its work. A 429 comes before the work.
    error.is_ambiguous = response.status >= 500
    return error


def parse_document(response: ProviderResponse) -> Any:
    """Parse a response: JSON, or a form if the content type says so.

    Raises `ProviderRejected` if the body is not JSON (`UnreadableResponse` with a status below 400), and
    `ProviderUnavailable` if it also has status 429 or 5xx.
    """
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == FORM_CONTENT_TYPE:
        return parse_form(response.body)
    if not response.body.strip():
        return {}
    try:
        return parse_json(response.body)
    except Malformed:
        # Providers and proxies send HTML pages with errors: the status decides.
        if response.status >= 500 or response.status == 429:
            raise provider_unavailable(response) from None
        if response.status >= 400:
            raise ProviderRejected(f"http_{response.status}") from None
        raise UnreadableResponse("not_json", "the provider's response is not JSON") from None


def select_value(selection: JmesPath, document: Any) -> Any:
    """Apply a JMESPath expression; None if it fails."""
    try:
        return _compiled(selection).apply(document)
    except ExpressionError:
        return None


@lru_cache(maxsize=_MAX_COMPILED)
def _compiled(selection: JmesPath) -> Expression:
    """Return a manifest's expression. Compiling it takes longer than applying it to a response."""
    return Expression(selection)


def select_optional(selection: JmesPath, document: Any) -> Any:
    """Apply a JMESPath expression; None if it is empty or fails."""
    return select_value(selection, document) if selection else None


def error_code(value: Any) -> str:
    """Return a provider's error code as text; '' for a value that means success."""
    # Compared by equality: 0.0 is a success, too.
    if value in _SUCCESS_VALUES:
        return ""
    if value is True:
        return "error"
    return as_text(value)[:100] or "error"


def as_text(value: Any) -> str:
    """Return a string or number as text of limited length; '' for anything else."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    return value[:MAX_VALUE_LENGTH] if isinstance(value, str) else ""


def select_values(selections: Mapping[str, JmesPath], document: Any) -> dict[str, str]:
    """Apply each expression and return the results that are not empty, as text."""
    values = ((name, as_text(select_value(selection, document))) for name, selection in selections.items())
    return {name: text for name, text in values if text}

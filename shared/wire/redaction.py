"""Redaction: removing the hub's secrets from a provider's text before it is shown, stored or logged."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

_MIN_SECRET_CHARACTERS: Final = 6
"""A shorter secret is left alone: it would match in ordinary words."""
_REDACTED: Final = "[hidden]"


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every one of the secrets in a text, plain or percent-encoded, by `[hidden]`.

    A provider's text is truncated at some length, so the beginning of a secret at its end is replaced too.
    """
    for secret in secrets:
        if len(secret) >= _MIN_SECRET_CHARACTERS:
            for form in dict.fromkeys((secret, quote(secret, safe=""), quote(secret))):
                text = _redact_truncated(text.replace(form, _REDACTED), form)
    return text


def _redact_truncated(text: str, secret: str) -> str:
    # The longest beginning first, so that no more of the secret than the minimum can remain.
    for length in range(min(len(secret) - 1, len(text)), _MIN_SECRET_CHARACTERS - 1, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + _REDACTED
    return text

"""Check the targets of links. Pure."""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote

MAX_URL_CHARACTERS: Final = 2000

_TARGET: Final = re.compile(
    r"https?://(?![/?#])[^/?#@\\\s]+(?:[/?#].*)?|mailto:[^\s@?]+@[^\s@?]+(?:\?.*)?", re.IGNORECASE
)
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f-\xa0<>\"`\\\u2028\u2029\ud800-\udfff]|\s")


def safe_url(url: str) -> str:
    """Return an absolute http, https or mailto URL without a user name; empty for anything else.

    Characters that a URL cannot have are percent-encoded.
    """
    url = url.strip()
    return "" if len(url) > MAX_URL_CHARACTERS else _checked(url)


@lru_cache(maxsize=256)  # a parser asks whether it is one, and then builds the link
def _checked(url: str) -> str:
    if not _TARGET.fullmatch(url):
        return ""
    safe = _UNSAFE.sub(lambda match: quote(match[0], safe="", errors="replace"), url)
    return safe if len(safe) <= MAX_URL_CHARACTERS else ""

"""Mass mentions (`@everyone`, `<!here>`) in text of strangers: shown as text, so that nobody is called."""

import re
from html import unescape
from typing import Final

_NAMES: Final = r"(?:everyone|here|channel|all|room)(?!_*[^\W_])"
"""Underscores around a name are Markdown's emphasis, and no part of it."""
_AT: Final = r"(?:[@\uff20\ufe6b]|&commat;|&#0*64;|&#[xX]0*40;)"
_MENTION: Final = re.compile(
    rf"(?P<url>https?://[^\s<>\"]+)|(?:<|&lt;)!(?P<special>{_NAMES})(?:\|[^<>\n]{{0,100}}?)?(?:>|&gt;)"
    rf"|(?:(?<![^\W_])|(?={_AT}{_NAMES}(?!\.\w)))(?P<at>{_AT})"  # no address of mail
    rf"(?=[*_]*(?:{_NAMES}|(?P<written>[a-z]{{0,8}}&#[a-z0-9&#;]{{1,80}})))",
    re.IGNORECASE,
)
_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_IN_URL: Final = re.compile(rf"@(?={_NAMES})", re.IGNORECASE)
_MAX_CHARACTERS: Final = 40_000
_ZERO_WIDTH_SPACE: Final = "\u200b"
"""A zero-width space: the text reads the same, and is no name that a chat knows."""


def defuse_mentions(text: str) -> str:
    """Return the text with every mention of all people of a channel or a chat made plain text.

    An address (`https://...`) keeps its meaning: in it `@` is written `%40`. A text over 40,000 characters
    is left as it is, because no limit of a message takes it anyway.
    """
    return _MENTION.sub(_replace_mention, text) if len(text) <= _MAX_CHARACTERS else text


def _replace_mention(match: re.Match[str]) -> str:
    if url := match["url"]:
        return _IN_URL.sub("%40", url)
    if special := match["special"]:
        return f"@{_ZERO_WIDTH_SPACE}{special}"
    if (written := match["written"]) and not _NAME.match(unescape(written)):  # `@bob&#39;s`
        return match[0]
    return match["at"] + _ZERO_WIDTH_SPACE

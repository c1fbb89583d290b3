"""Find links in plain text. Pure.

A URL ends where people expect, and never leads to another place than its text says.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from shared.richtext.urls import MAX_URL_CHARACTERS

_INVISIBLE: Final = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff\ud800-\udfff"
)
"""Characters without a shape, and those that change the direction of writing."""
_WIDE_MARKS: Final = (
    r"\u2026\u3001\u3002\u3008-\u3011\u3014-\u301f"
    r"\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f\uff5b-\uff65"
)
"""Punctuation that is written next to a URL without a blank between them."""
_QUOTES: Final = r"\u00ab\u00bb\u2018-\u201f\u2039\u203a"
_PATH: Final = rf"[^\s\x00-\x20\x7f-\xa0<>\"`\\|{_INVISIBLE}{_WIDE_MARKS}]"
_HOST: Final = (
    # Letters, digits, `-`, `.` and `_`.
    rf"(?![.-])[^\s\x00-,/:-@\[-^`{{-\xa0{_INVISIBLE}{_WIDE_MARKS}{_QUOTES}]++"
    r"(?::\d{1,5}+)?+(?![@%\\\d]|:\S)"  # no user name, no other host
)
_URL: Final = re.compile(
    rf"(?<![A-Za-z0-9+.-])(?:(?:https?://|www\.){_HOST}(?:[/?#]{_PATH}{{0,{MAX_URL_CHARACTERS}}}+)?+"
    rf"|mailto:[A-Za-z0-9._%+-]{{1,64}}+@{_HOST}(?:\?{_PATH}{{0,{MAX_URL_CHARACTERS}}}+)?+)",
    re.IGNORECASE,
)
_WHOLE_URL: Final = re.compile(
    rf"https?://{_HOST}(?:[/?#][^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*+)?+", re.IGNORECASE
)
_ORIGIN: Final = re.compile(r"(?:https?://|www\.)[^/?#]+|mailto:.+", re.IGNORECASE)
_INVALID_IN_URL: Final = re.compile(rf"(?!{_PATH}).|[\[\]{{}}^]", re.DOTALL)
_TRAILING_PUNCTUATION: Final = (
    ".,:;!?*_~'\"([{\u00ab\u00bb\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2039\u203a"
)
_TRAILING_ENTITIES: Final = re.compile(r"(?:&[A-Za-z0-9]{1,31};)++\Z")
_BRACKET: Final = re.compile(r"[()\[\]{}]")
_BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}
_ELLIPSES: Final = ("\u2026", "...")


def split_links(text: str) -> Iterator[tuple[str, str]]:
    """Split text into pairs of visible text and the URL that it links to; the URL is empty for plain text.

    A link is a URL as it is written: http, https, mailto, or `www.` and a host (its target then begins with
    `http://`). It ends where people expect: before a blank, an invisible character, a closing bracket that
    it did not open, and trailing punctuation. A URL with a user name before the host is plain text. So is a
    truncated one (`https://a.example/b...`), because it would lead to another place.
    """
    end = position = 0
    while match := _URL.search(text, position):
        start = match.start()
        visible, url, position = _link(text, match)
        if not url:
            continue
        if start > end:
            yield text[end:start], ""
        end = position
        yield visible, url
    if end < len(text):
        yield text[end:], ""


def link_at(text: str, position: int) -> tuple[str, str, int] | None:
    """Return the link that begins at a position: its visible text, its URL, and where the text goes on.

    The URL is empty for what looks like one and is none. None if nothing begins there.
    """
    match = _URL.match(text, position)
    return _link(text, match) if match else None


def _link(text: str, match: re.Match[str]) -> tuple[str, str, int]:
    start, end = match.span()
    url = _trim_url(match[0])
    if (
        len(url) > MAX_URL_CHARACTERS
        or not _ORIGIN.match(url)
        or text.startswith(_ELLIPSES, start + len(url))
    ):
        return match[0], "", end  # the work is linear, because what was read is not read again
    return url, f"http://{url}" if url[:4].lower() == "www." else url, start + len(url)


def _trim_url(url: str) -> str:
    """Cut a URL before a closing bracket that it did not open, and before the sentence's punctuation."""
    closing: list[str] = []
    for bracket in _BRACKET.finditer(url):
        if bracket[0] in _BRACKETS:
            closing.append(_BRACKETS[bracket[0]])
        elif not closing or closing.pop() != bracket[0]:
            url = url[: bracket.start()]
            break
    return _TRAILING_ENTITIES.sub("", url).rstrip(_TRAILING_PUNCTUATION)


def honest_label(label: str, url: str) -> str:
    """Return the text of a link to a URL; the URL if the text is another one, which would hide it."""
    is_honest = bool(label) and all(other in ("", url) for _, other in split_links(label))
    return label if is_honest else url


def cut_label(visible: str, characters: int) -> str:
    """Cut a URL to a label of at most `characters`; empty if that would cut the host.

    A part of a host would look like another host.
    """
    origin = _ORIGIN.match(visible)
    return visible[:characters] if origin and characters > origin.end() else ""


def web_url(value: str) -> str:
    """Return a text that is an http or https URL without a user name; empty for any other text.

    Characters that a URL cannot have (blanks, quotes, brackets, backslashes) are percent-encoded.
    """
    text = value.strip()
    if len(text) > MAX_URL_CHARACTERS or not _WHOLE_URL.fullmatch(text):
        return ""
    url = _INVALID_IN_URL.sub(lambda match: quote(match[0], safe=""), text)
    return url if len(url) <= MAX_URL_CHARACTERS else ""

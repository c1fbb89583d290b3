"""Slack's mrkdwn (links in angle brackets, single asterisks for bold) as Markdown. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import HttpUrl, TypeAdapter, ValidationError

from shared.richtext.fragments import link

_MAX_CHARACTERS: Final = 40_000
_MAX_PARTS: Final = 25
_HTTP_URL: Final = TypeAdapter(HttpUrl)

_LINK: Final = re.compile(
    r"<(?P<url>(?:https?://|mailto:)[^|<>\s]+)\|(?P<label>[^<>\n]+)>|<?(?:https?://|mailto:)[^|<>\s]+>?"
)
_BRACKET: Final = re.compile(r"(?<!\\)[\[\]]")
_MENTION: Final = re.compile(r"<([#@]|!subteam\^)([A-Z0-9]{2,40})(?:\|[#@]?([^<>\n|]*))?>")
"""A channel, a person or a group, by id and often with a name."""
_SPECIAL: Final = re.compile(r"<!(here|channel|everyone)(?:\|[^<>\n]*)?>")
_DATE: Final = re.compile(r"<!date\^[^<>|\n]*\|([^<>\n]+)>")
_BOLD: Final = re.compile(r"(?<![\w*\\])\*(?![\s*])([^*\n]+)(?<!\s)\*(?![\w*])")
_STRUCK: Final = re.compile(r"(?<![\w~\\])~(?![\s~])([^~\n]+)(?<!\s)~(?![\w~])")


def mrkdwn_to_markdown(text: str, *, emphasis: bool = True) -> str:
    """Convert mrkdwn to Markdown. Without `emphasis` asterisks stay, for text that may be Markdown already.

    Entities (`&amp;`) mean the same in both. Text over 40,000 characters is returned as it is, because it
    exceeds every limit of a message anyway.
    """
    if len(text) > _MAX_CHARACTERS:
        return text
    # Marks in a URL have no meaning: a NUL replaces each link while the marks in the text are converted.
    links: list[str] = []

    def mask(match: re.Match[str]) -> str:
        label = match["label"]
        links.append(
            _markdown_link(_convert_text(label, emphasis=emphasis), match["url"]) if label else match[0]
        )
        return "\0"

    first, *others = _convert_text(_LINK.sub(mask, text.replace("\0", "")), emphasis=emphasis).split("\0")
    return first + "".join(converted + other for converted, other in zip(links, others, strict=True))


def _convert_text(text: str, *, emphasis: bool) -> str:
    text = _MENTION.sub(_mention_text, text)
    text = _SPECIAL.sub(r"@\1", text)
    text = _DATE.sub(r"\1", text)
    if emphasis:
        text = _STRUCK.sub(r"~~\1~~", _BOLD.sub(r"**\1**", text))
    return text


def _mention_text(match: re.Match[str]) -> str:
    """Return the name that is mentioned; without one the id: more readable than the brackets around it."""
    return ("#" if match[1] == "#" else "@") + (match[3] or match[2])


def _markdown_link(label: str, url: str) -> str:
    """Write a Markdown link; brackets in the label and backslashes in the URL are escaped."""
    return link(_BRACKET.sub(r"\\\g<0>", label), url.replace("\\", "%5C"))


def buttons_to_markdown(buttons: object) -> str:
    """Return the buttons that have a URL as Markdown links on one line."""
    links: list[str] = []
    for button in _parts(buttons):
        if isinstance(button, Mapping):
            label = button.get("text")
            label = label if isinstance(label, str) else _label_text(label)
            url = parse_http_url(button.get("url"))
            if label and url:
                links.append(_markdown_link(label, url))
    return " ".join(links)


def _label_text(label: object) -> str:
    """Return the text of a text object; empty for anything else."""
    text = label.get("text") if isinstance(label, Mapping) else None
    if not isinstance(text, str) or not isinstance(label, Mapping):
        return ""
    text = text.strip()
    return mrkdwn_to_markdown(text) if label.get("type") == "mrkdwn" else text


def parse_http_url(value: object) -> str | None:
    """Return an http or https URL in normal form; None for any other value."""
    try:
        return str(_HTTP_URL.validate_python(value))
    except ValidationError:
        return None


def _parts(value: object) -> list[Any]:
    return value[:_MAX_PARTS] if isinstance(value, list) else []

"""Mrkdwn (links in angle brackets, single asterisks for bold) and layout blocks, as Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import HttpUrl, TypeAdapter, ValidationError

from shared.wire.markdown import link

_MAX_CHARACTERS: Final = 40_000
_MAX_PARTS: Final = 25
_HTTP_URL: Final = TypeAdapter(HttpUrl)

_LINK: Final = re.compile(
    r"<(?P<url>(?:https?://|mailto:)[^|<>\s]+)\|(?P<label>[^<>\n]+)>|<?(?:https?://|mailto:)[^|<>\s]+>?"
)
_BRACKET: Final = re.compile(r"(?<!\\)[\[\]]")
_CHANNEL: Final = re.compile(r"<#[A-Z0-9]+\|([^<>\n|]+)>")
_USER: Final = re.compile(r"<@[A-Z0-9]+\|([^<>\n|]+)>")
_SPECIAL: Final = re.compile(r"<!(here|channel|everyone)(?:\|[^<>\n]*)?>")
_FALLBACK: Final = re.compile(r"<!(?:date|subteam)\^[^<>|\n]*\|([^<>\n]+)>")
_BOLD: Final = re.compile(r"(?<![\w*\\])\*(?![\s*])([^*\n]+)(?<!\s)\*(?![\w*])")
_STRUCK: Final = re.compile(r"(?<![\w~\\])~(?![\s~])([^~\n]+)(?<!\s)~(?![\w~])")


def mrkdwn_to_markdown(text: str, *, emphasis: bool = True) -> str:
    """The same text in Markdown. `emphasis` off leaves asterisks alone, for text that may be Markdown.

    Entities (`&amp;`) mean the same in both. Text over 40,000 characters is left as it is: no limit of
    ours takes it anyway.
    """
    if len(text) > _MAX_CHARACTERS:
        return text
    # Marks in a URL are its own: a NUL holds the place of each link while the others are read.
    links: list[str] = []

    def masked(found: re.Match[str]) -> str:
        label = found["label"]
        links.append(
            _markdown_link(_convert_text(label, emphasis=emphasis), found["url"]) if label else found[0]
        )
        return "\0"

    first, *others = _convert_text(_LINK.sub(masked, text.replace("\0", "")), emphasis=emphasis).split("\0")
    return first + "".join(made + other for made, other in zip(links, others, strict=True))


def _convert_text(text: str, *, emphasis: bool) -> str:
    text = _CHANNEL.sub(r"#\1", text)
    text = _USER.sub(r"@\1", text)
    text = _SPECIAL.sub(r"@\1", text)
    text = _FALLBACK.sub(r"\1", text)
    if emphasis:
        text = _STRUCK.sub(r"~~\1~~", _BOLD.sub(r"**\1**", text))
    return text


def _markdown_link(label: str, url: str) -> str:
    """A link in Markdown, whatever brackets there are in its label and its URL."""
    return link(_BRACKET.sub(r"\\\g<0>", label), url.replace("\\", "%5C"))


def blocks_to_markdown(blocks: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The text of the blocks, a paragraph each, and the addresses of their pictures.

    Headers, sections, contexts, actions (links only), dividers and images; other kinds say nothing.
    """
    said: list[str] = []
    pictures: list[str] = []
    for block in blocks:
        match block.get("type"):
            case "header":
                text = _text(block.get("text"))
                said.append(f"**{text}**" if text else "")
            case "section":
                said += [_text(block.get("text")), *map(_text, _parts(block.get("fields")))]
            case "context":
                said.append(" ".join(filter(None, map(_text, _parts(block.get("elements"))))))
            case "actions":
                said.append(buttons_to_markdown(block.get("elements")))
            case "divider" if any(said):
                said.append("---")
            case "image":
                said.append(_text(block.get("title")))
                pictures.append(parse_http_url(block.get("image_url")) or "")
    return "\n\n".join(filter(None, said)).removesuffix("\n\n---"), list(filter(None, pictures))


def buttons_to_markdown(buttons: object) -> str:
    """The buttons that lead somewhere, as links on one line."""
    found: list[str] = []
    for button in _parts(buttons):
        if isinstance(button, Mapping):
            label = button.get("text")
            label = label if isinstance(label, str) else _text(label)
            address = parse_http_url(button.get("url"))
            if label and address:
                found.append(_markdown_link(label, address))
    return " ".join(found)


def parse_http_url(value: object) -> str | None:
    """An http or https address in normal form; None for everything else."""
    try:
        return str(_HTTP_URL.validate_python(value))
    except ValidationError:
        return None


def _parts(value: object) -> list[Any]:
    return value[:_MAX_PARTS] if isinstance(value, list) else []


def _text(part: object) -> str:
    """The text of a text object; '' for anything else (a picture, a button)."""
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        return ""
    text: str = part["text"].strip()
    return mrkdwn_to_markdown(text) if part.get("type") == "mrkdwn" else text

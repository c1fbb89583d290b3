"""Discord's text: Markdown, with mentions, emoji, times and commands in angle brackets.

https://discord.com/developers/docs/reference#message-formatting
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from shared.richtext.flavored_markdown import parse_flavored_markdown
from shared.richtext.tree import (
    ChannelMention,
    CustomEmoji,
    Document,
    GroupMention,
    Inline,
    Text,
    Time,
    UserMention,
)
from shared.wire.timestamps import parse_timestamp

_REFERENCE: Final = re.compile(
    r"@[!&]?(?P<mentioned>[0-9]{5,20})|\#(?P<channel>[0-9]{5,20})|a?:(?P<emoji>\w{2,32}):[0-9]{5,20}"
    r"|t:(?P<time>[0-9]{1,12})(?::(?P<format>[tTdDfFR]))?|/(?P<command>[\w -]{1,100}):[0-9]{5,20}"
)


def reference(content: str) -> tuple[Inline, ...] | None:
    """Return what the text between `<` and `>` means. People and channels have no name: their ids stay."""
    match = _REFERENCE.fullmatch(content)
    if match is None:
        return None
    if match["emoji"]:
        return (CustomEmoji(match["emoji"]),)
    if match["time"]:
        time = parse_timestamp(match["time"])
        return (
            (Time(int(match["time"]), f"{time:%Y-%m-%d %H:%M} UTC", match["format"] or ""),) if time else None
        )
    signs = {"mentioned": "@", "channel": "#", "command": "/"}
    kind = match.lastgroup or ""
    return (Text(signs[kind] + match[kind]),)


def parse_with_mentions(text: str, label: Callable[[str], str]) -> Document:
    """Return the canonical tree of a text, with people, channels and roles as mentions.

    `label` returns the name of an id, '' for an unknown one.
    """
    return parse_flavored_markdown(text, partial(_mention, label=label), html=False, mass_mentions=True)


def _mention(content: str, label: Callable[[str], str]) -> tuple[Inline, ...] | None:
    match = _REFERENCE.fullmatch(content)
    if match is None or not (match["mentioned"] or match["channel"]):
        return reference(content)
    if match["channel"]:
        return (ChannelMention(match["channel"], label(match["channel"])),)
    node = GroupMention if content.startswith("@&") else UserMention
    return (node(match["mentioned"], label(match["mentioned"])),)


parse: Final = partial(parse_flavored_markdown, reference=reference, html=False)

"""Discord's mentions, emoji and times in text, as people read them. Pure."""

import re
from typing import Final

from shared.wire.timestamps import parse_timestamp

_MARKUP: Final = re.compile(
    r"<(?:@[!&]?(?P<mentioned>[0-9]{5,20})|\#(?P<channel>[0-9]{5,20})|a?:(?P<emoji>\w{2,32}):[0-9]{5,20}"
    r"|t:(?P<time>[0-9]{1,12})(?::[tTdDfFR])?|/(?P<command>[\w -]{1,100}):[0-9]{5,20})>"
)
"""https://discord.com/developers/docs/reference#message-formatting"""


def discord_to_markdown(text: str) -> str:
    """Return text without Discord's angle brackets; what they are around has no name, so ids stay."""
    return _MARKUP.sub(_readable, text) if "<" in text else text


def _readable(match: re.Match[str]) -> str:
    if mentioned := match["mentioned"]:
        return f"@{mentioned}"
    if channel := match["channel"]:
        return f"#{channel}"
    if emoji := match["emoji"]:
        return f":{emoji}:"
    if command := match["command"]:
        return f"/{command}"
    time = parse_timestamp(match["time"])
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else match[0]

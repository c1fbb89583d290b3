"""Code blocks between fences in Markdown, read line by line. Pure."""

import re
from typing import Final

_OPENING: Final = re.compile(
    # In quotes and items of lists, then the fence. What is behind backticks has none of them.
    r"(?P<container>(?:[> \t]|[-*+](?= )|\d{1,9}[.)](?= )|\[[ xX]\](?= ))*+)"
    r"(?P<fence>`{3,}+(?=[^`]*\Z)|~{3,}+)"
)
_ITEM_MARKER: Final = re.compile(r"[^>]")


def next_closing(line: str, closing: str) -> str:
    """Return the line that closes the code block which is open behind a line; '' if none is.

    `closing` is what closes the one that is open in front of it.
    """
    fence = closing.lstrip("> ")
    if fence:
        end = line.strip("> \t" if ">" in closing else " \t")
        is_closed = len(end) >= len(fence) and not end.strip(fence[0])
        is_quote_left = ">" in closing and not line.lstrip().startswith(">")
        if not (is_closed or is_quote_left):
            return closing
        if is_closed:
            return ""
    opening = _OPENING.match(line)
    return _ITEM_MARKER.sub(" ", opening["container"]) + opening["fence"] if opening else ""


def closing_of(markdown: str) -> str:
    """Return the line that closes the code block which is open at the end of a text; '' if none is."""
    closing = ""
    for line in markdown.split("\n"):
        closing = next_closing(line, closing)
    return closing

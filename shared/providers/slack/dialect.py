"""Slack's dialect for messages of others: mrkdwn, what is in its angle brackets, and blocks."""

from typing import Final

from shared.providers.slack.blocks import parse_body
from shared.providers.slack.mrkdwn import parse_reference
from shared.richtext.runs import inline_of
from shared.richtext.tree import Document, Inline

__all__ = ["FILTER", "parse", "parse_body", "reference"]

FILTER: Final = "mrkdwn"
"""The name of the filter for this dialect in message templates."""


def parse(text: str) -> Document:
    """Return the canonical tree of a text in mrkdwn."""
    return parse_body({"text": text})


def reference(content: str) -> tuple[Inline, ...] | None:
    """Return the link or mention that the text between `<` and `>` means; None if it means nothing."""
    return inline_of(parse_reference(content)) or None

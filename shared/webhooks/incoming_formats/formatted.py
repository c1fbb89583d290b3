"""Formatted text of senders as the Markdown of messages: parsed to the document tree, and rendered. Pure.

The dialects are of providers, above this package: they are given. A field often does not say which one it
has: Mattermost's and Rocket.Chat's senders use Slack's fields with Markdown in them.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from shared.richtext.degrade import degrade
from shared.richtext.dialect import Dialect
from shared.richtext.flavored_markdown import parse_flavored_markdown
from shared.richtext.markdown_render import SUPPORTED, render_markdown
from shared.richtext.tree import (
    ChannelMention,
    CustomEmoji,
    Document,
    EveryoneMention,
    GroupMention,
    Inline,
    UserMention,
)

Dialects = Mapping[str, Dialect]
"""The dialects of formatted text that providers offer, by the provider's id."""

_FOREIGN: Final = frozenset({UserMention, ChannelMention, GroupMention, CustomEmoji})
"""What refers to people and things of another chat: shown as text."""
_MARKDOWN_ONLY: Final = re.compile(r"\*\*\S|__\S|~~\S|\]\(|^#{1,6} |^\|.*\|[ \t]*$", re.MULTILINE)
"""Marks that Markdown has, and mrkdwn does not."""

_ESCAPED_AT: Final = re.compile(r"(`+)[\s\S]*?\1|\\(@)(?=\w)")
"""An `@` outside of code. Whoever has the address of a webhook may mention people of the chat by name."""


class Formatter:
    """Converts the texts of one message."""

    def __init__(self, dialects: Dialects, *, mass_mentions: bool) -> None:
        """Read texts with these dialects. Unless `mass_mentions` is true, mass mentions become plain text."""
        self._slack = dialects["slack"]
        self._references = [dialect.reference for dialect in dialects.values() if dialect.reference]
        self._mass_mentions = mass_mentions
        self._shown = SUPPORTED - _FOREIGN - (frozenset() if mass_mentions else {EveryoneMention})

    def markdown(self, text: str) -> str:
        """Convert Markdown with Slack's or Discord's links and mentions in it. HTML is text."""
        return self._write(
            parse_flavored_markdown(
                text.strip(), self._reference, html=False, mass_mentions=self._mass_mentions
            )
        )

    def html(self, text: str) -> str:
        """Convert Markdown with HTML tags in it, as cards have it."""
        return self._write(parse_flavored_markdown(text.strip(), mass_mentions=self._mass_mentions))

    def mrkdwn(self, text: str) -> str:
        """Convert Slack's mrkdwn."""
        return self._write(self._slack.parse(text.strip()))

    def card(self, text: str) -> str:
        """Convert a text of a card of Slack's form: mrkdwn, or Markdown if it has marks of Markdown only."""
        return self.markdown(text) if _MARKDOWN_ONLY.search(text) else self.mrkdwn(text)

    def block(self, block: Mapping[str, Any]) -> str:
        """Convert one of Slack's blocks with formatted text."""
        assert self._slack.parse_body  # noqa: S101 -- Slack's dialect has it
        return self._write(self._slack.parse_body({"blocks": [block]}))

    def _reference(self, content: str) -> tuple[Inline, ...] | None:
        found = (nodes for reference in self._references if (nodes := reference(content)) is not None)
        return next(found, None)

    def _write(self, document: Document) -> str:
        markdown = render_markdown(degrade(document, self._shown)[0]).text
        return (
            _ESCAPED_AT.sub(lambda match: match[2] or match[0], markdown) if "\\@" in markdown else markdown
        )

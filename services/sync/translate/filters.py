"""Decide which messages of a mapping are forwarded."""

import re
from collections.abc import Iterable
from typing import Final

from services.sync.model.mapping import Filters
from shared.manifests.channel_types import MessageWritten
from shared.richtext.plain import render_plain

_LETTERS: Final = re.compile(r"\w+")
_SIMPLE: Final = re.compile(r"[\w ]+")
_MARKS: Final = ".,;:!?()[]{}\"'"
"""What may stand around a word that has other characters than letters."""


def dropped_because(filters: Filters, message: MessageWritten) -> str | None:
    """Return the filter that keeps a message from being forwarded; None if it is to be forwarded."""
    author = message.author.id
    if message.author.bot and not filters.bots:
        return "bots"
    if filters.include_people and author not in filters.include_people:
        return "include_people"
    if author in filters.exclude_people:
        return "exclude_people"
    if not (filters.include_words or filters.exclude_words):
        return None
    text = _Words(render_plain(message.body).text)
    if filters.include_words and not any(map(text.has, filters.include_words)):
        return "include_words"
    if any(map(text.has, filters.exclude_words)):
        return "exclude_words"
    return None


def has_excluded_word(filters: Filters, message: MessageWritten) -> bool:
    """Return whether a text has a word that must not get to the other legs, by an edit neither."""
    text = _Words(render_plain(message.body).text) if filters.exclude_words else None
    return text is not None and any(map(text.has, filters.exclude_words))


class _Words:
    """The words of a text, in which a word or phrase is looked for in time that grows with the text only.

    A pattern of all words would try each of them at each place of a text that somebody has made for it.
    """

    def __init__(self, text: str) -> None:
        folded = text.casefold()
        self._letters = _joined(_LETTERS.findall(folded))
        self._parts = _joined(part.strip(_MARKS) for part in folded.split())

    def has(self, phrase: str) -> bool:
        """Return whether a phrase is in the text: whole words, in any case."""
        folded = phrase.casefold()
        if _SIMPLE.fullmatch(folded):
            return _joined(folded.split()) in self._letters
        return _joined(part.strip(_MARKS) for part in folded.split()) in self._parts


def _joined(words: Iterable[str]) -> str:
    """Return words between blanks: a phrase of whole words is a part of it."""
    return f" {' '.join(filter(None, words))} "

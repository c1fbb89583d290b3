"""Decide which messages of a mapping are forwarded."""

import re
from functools import lru_cache

from services.sync.model.mapping import Filters
from shared.manifests.channel_types import MessageWritten
from shared.richtext.plain import render_plain

_MAX_COMPILED = 1_000


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
    text = render_plain(message.body).text
    if filters.include_words and not _words(filters.include_words).search(text):
        return "include_words"
    if filters.exclude_words and _words(filters.exclude_words).search(text):
        return "exclude_words"
    return None


@lru_cache(maxsize=_MAX_COMPILED)
def _words(words: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of any of these words: whole words, in any case."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)

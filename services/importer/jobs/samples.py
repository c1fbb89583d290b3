"""Samples of a dry run: the first messages of each channel, as the chat would get them."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from services.importer.store.contents import Contents

_MAX_SAMPLES: Final = 10
_MAX_SAMPLE_BYTES: Final = 8_000
"""A larger sample is shown without reactions and files: a page has those of 500 channels."""
_MAX_SAMPLE_TEXT: Final = 2_000


class Samples:
    """Collects the samples of conversations."""

    def __init__(self, contents: Contents, import_id: str) -> None:
        self._contents = contents
        self._import_id = import_id
        self._by_conversation: dict[str, list[dict[str, Any]]] = {}

    def take(self, conversation: str, item: bytes) -> None:
        """Note a message, encoded as JSON, if it is one of the first of a conversation."""
        known = self._by_conversation.setdefault(conversation, [])
        if len(known) < _MAX_SAMPLES:
            message = orjson.loads(item)
            known.append(message if len(item) <= _MAX_SAMPLE_BYTES else _without_lists(message))

    async def store(self, positions: Mapping[str, int], pending: Collection[str]) -> None:
        """Store the samples of conversations, given by their position in the export.

        Those that are not `pending`, and not the last one, are forgotten: a long export has many channels.
        """
        for conversation, position in positions.items():
            if samples := self._by_conversation.get(conversation):
                await self._contents.set_samples(self._import_id, position, samples)
        read = {*pending, list(positions)[-1]}
        self._by_conversation = {
            key: samples for key, samples in self._by_conversation.items() if key in read
        }


def _without_lists(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with the beginning of its text, and without reactions and files."""
    shown = {name: value for name, value in item.items() if name not in ("reactions", "attachments")}
    return {**shown, "text": item["text"][:_MAX_SAMPLE_TEXT]}

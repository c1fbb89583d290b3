"""The source of an import while it is open: the reader process of an upload, or a connected account."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from services.importer.reading.protocol import Overview, SourcePart
from shared.manifests.history_types import HistoryConversation, HistoryPerson, Unit


class OpenSource(Protocol):
    """A source that is open. Every method raises `Unreadable`, with the problem and the fix.

    Nothing is held as a whole: an export can have a hundred thousand people, and half a million units.
    """

    async def contents(self, answers: Mapping[str, str]) -> Overview:
        """Return the contents by a person's answers to its choices; everything else follows them."""
        ...

    def people(self) -> AsyncIterator[HistoryPerson]:
        """Yield all people, in an order that stays the same."""
        ...

    def conversations(self) -> AsyncIterator[HistoryConversation]:
        """Yield all conversations, in an order that stays the same."""
        ...

    def units(self) -> AsyncIterator[Unit]:
        """Yield all units, in an order that stays the same."""
        ...

    async def use_names(self, users: Mapping[str, str], channels: Mapping[str, str]) -> None:
        """Set the chat's ids for people, and for the conversations that are to be read."""
        ...

    def read(self, position: int, skip: int) -> AsyncIterator[SourcePart]:
        """Yield the records of those conversations, from the unit at a position on, without its first `skip`.

        A unit that cannot be read further ends with a line that says why.
        """
        ...

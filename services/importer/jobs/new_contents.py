"""Answer which channels and people an import has brought into the chat, for its undo."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final

from services.importer.jobs.import_job import ImportJob
from services.importer.jobs.imports import Imports
from services.importer.jobs.people_phase import published_id
from services.importer.store.chat_directory import ChatDirectory
from services.importer.store.contents import Contents

JOINED: Final = "a mapping joins it with a conversation"
NEEDED: Final = "another import that has not ended needs it"

Ids = AsyncIterator[str]


class NewContents:
    """The channels and guests that imports have published as new. Every method raises `DatabaseUnavailable`.

    They are without those that the hub still needs: channels that a mapping joins with a conversation, and
    what an import in the middle of its messages has published, too. `retained` counts these by reason.
    """

    def __init__(self, imports: Imports, contents: Contents, directory: ChatDirectory) -> None:
        self._imports = imports
        self._contents = contents
        self._directory = directory

    async def channels(self, job: ImportJob, retained: Counter[str]) -> Ids:
        """Yield the ids of the new channels of an import."""
        if job.has_published:
            joined = await self._directory.joined_channels(job.workspace)
            needed = await self._needed(job, self._contents.new_channels)
            async for channel_id in self._contents.new_channels(job.id):
                if channel_id in joined or channel_id in needed:
                    retained[JOINED if channel_id in joined else NEEDED] += 1
                else:
                    yield channel_id

    async def people(self, job: ImportJob, retained: Counter[str]) -> Ids:
        """Yield the ids of the guests of an import, as `history.users` has them."""
        if job.has_published:
            needed = await self._needed(job, self._contents.guests)
            async for person_id in self._contents.guests(job.id):
                if person_id in needed:
                    retained[NEEDED] += 1
                else:
                    yield published_id(person_id)

    async def count(self, job: ImportJob) -> tuple[int, int]:
        """Return how many channels and guests an undo of an import may take away."""
        channels = sum([1 async for _ in self.channels(job, Counter())])
        return channels, sum([1 async for _ in self.people(job, Counter())])

    async def _needed(self, job: ImportJob, ids_of: Callable[[str], Ids]) -> set[str]:
        """Return what imports that have not ended have published, too."""
        others = await self._imports.unfinished(job.workspace, other_than=job.id)
        return {item for other in others async for item in ids_of(other)}

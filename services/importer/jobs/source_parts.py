"""Read the parts of an import from its source, and start a reader process again that a part has ended."""

from collections.abc import AsyncGenerator
from typing import Final

from services.importer.jobs.run_context import RunContext
from services.importer.jobs.selection import Selection
from services.importer.reading.confined_process import ProcessEnded
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import SourcePart
from services.importer.reading.reader_process import ReaderProcess
from shared.manifests.history_types import Broken
from shared.runtime.jobs import JobFailed

_MAX_RESTARTS: Final = 20
"""A unit that ends the reader process costs only itself, and a new process."""


class SourceParts:
    """Reads what a plan selects, from the job's position on."""

    def __init__(self, run: RunContext, selection: Selection) -> None:
        self._run = run
        self._selection = selection
        self._restarts = 0

    async def read(self) -> AsyncGenerator[SourcePart]:
        """Yield the parts. Raises `Unreadable`, and `JobFailed` after 20 restarts of the reader process."""
        source = self._run.source
        position, offset = self._run.job.position, self._run.job.offset
        while True:
            try:
                async for part in source.read(position, offset):
                    position, offset = part.end_position, part.end_offset
                    if part.conversation in self._selection.targets:
                        yield part
            except ProcessEnded as error:
                if not isinstance(source, ReaderProcess):
                    raise
                was_exact = not source.merges_units
                try:
                    await self._restart(source)
                    # A part of several units says nothing about which of them it was.
                    rest = await self._rest(source, position, offset, error) if was_exact else None
                except ProcessEnded:  # the new one, too
                    continue
                if rest is not None:
                    yield rest
                    position, offset = rest.end_position, rest.end_offset
                elif was_exact:
                    return
            else:
                return

    async def _restart(self, source: ReaderProcess) -> None:
        """Start a new reader process after one that ended. Raises `ProcessEnded` if it ends, too."""
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise JobFailed(f"{self._restarts} parts of the export ended its reader process: export it again")
        await source.restart()
        await source.contents(self._run.plan.answers)
        channels = {key: target.channel_id for key, target in self._selection.targets.items()}
        await source.use_names(self._selection.users, channels)

    async def _rest(
        self, source: ReaderProcess, position: int, offset: int, error: ProcessEnded
    ) -> SourcePart | None:
        """Return the rest of the unit that ended a process, as a part that says so; None if all were read.

        It is the first one from a place on that is imported. Raises `ProcessEnded`.
        """
        number = 0
        async for unit in source.units():
            if number >= position and unit.conversation in self._selection.targets:
                line = line_of(Broken(unit.id, str(error)), Names(), unit.day)
                return SourcePart(
                    number,
                    offset if number == position else 0,
                    number + 1,
                    0,
                    unit.conversation,
                    unit.id,
                    [line],
                    unit.size,
                )
            number += 1
        return None

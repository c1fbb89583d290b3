"""Which messages of a part the chat has already: of earlier parts of the import, or of other imports."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from services.importer.jobs.part import Part
from services.importer.jobs.run_context import RunContext

Line = Mapping[str, Any]


class KnownMessages:
    """Answers for the parts of one run, in their order. `pending` are those that are not stored yet."""

    def __init__(self, run: RunContext, pending: Iterable[Part]) -> None:
        self._run = run
        self._pending = pending
        self._has_others: dict[str, bool] = {}
        self._read_until: dict[str, float] = {}
        """The Unix time of the last message of each conversation in earlier parts."""

    async def among(
        self, part: Part, messages: Sequence[Line], ids: Collection[bytes]
    ) -> tuple[set[bytes], Mapping[bytes, bytes]]:
        """Return which messages this import has added, and which others have, with marks of their contents.

        `ids` are those of the messages, and of the parents of replies among them.
        """
        if not messages:
            return set(), {}
        times = [message["at"] for message in messages]
        first, last = min(times), max(times)
        own = await self._own(part, ids, first, last)
        source, job = part.target.source, self._run.job
        units = self._run.stores.units
        if source not in self._has_others:
            self._has_others[source] = await units.has_source(job.workspace, source, other_than=job.id)
        if not self._has_others[source]:
            return own, {}
        return own, await units.added_between(
            job.workspace, source, first, last, other_than=job.id, among=set(ids)
        )

    async def _own(self, part: Part, ids: Collection[bytes], first: float, last: float) -> set[bytes]:
        """Return which messages earlier parts added. An export in order of time has none."""
        run, conversation = self._run, part.target.conversation
        before = part.record_id(run.job.run_id)
        if conversation not in self._read_until:
            is_new = run.job.position == 0 and run.job.offset == 0
            stored = (
                0.0
                if is_new
                else await run.stores.units.last_time(run.job.run_id, conversation, before=before)
            )
            self._read_until[conversation] = stored
        until = self._read_until[conversation]
        self._read_until[conversation] = max(until, last)
        if first > until:
            return set()
        among = set(ids)
        found = await run.stores.units.own_between(
            run.job.run_id, conversation, first, last, before=before, among=among
        )
        for other in self._pending:
            if other.target.conversation == conversation:
                found.update(among.intersection(other.added))
        return found

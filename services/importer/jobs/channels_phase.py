"""Publish the channels of an import, and store where each conversation goes."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

import orjson

from services.importer.jobs.matching import CLOSED_KINDS, Place, name_conflicts, place_of
from services.importer.jobs.run_context import RunContext
from services.importer.jobs.selection import Target, moment
from services.importer.publish.history_batches import Item
from services.importer.store.chat_directory import ChatDirectory
from services.importer.store.contents import ChannelRecord
from shared.contracts.history import HISTORY_CHANNELS
from shared.manifests.history_types import HistoryConversation
from shared.runtime.jobs import JobFailed

_BATCH: Final = 200
_MEMBERS: Final = 250
"""Members in one item of a batch. A channel with more comes several times."""
_MAX_ID: Final = 256
_MAX_NAMED: Final = 10


class ChannelsPhase:
    """Decides for each conversation where it goes, and publishes the channels."""

    def __init__(self, run: RunContext, directory: ChatDirectory) -> None:
        self._run = run
        self._directory = directory
        self._totals: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._new: list[tuple[str, str]] = []
        self._closed = 0

    async def publish(self) -> tuple[dict[str, Any], list[str]]:
        """Publish the channels; return their counts, and warnings. Raises `Stopped` and `JobFailed`."""
        run = self._run
        account = run.overview.provider, run.overview.account
        mapped = await self._directory.mapped_channels(run.job.workspace, *account)
        places: dict[int, dict[str, Any]] = {}
        items: list[Item] = []
        async for record, conversation in self._both():
            channel = mapped.get(record.conversation)
            try:
                place = place_of(record, run.plan, channel, run.new_channel_id(record.conversation))
            except LookupError:
                raise JobFailed(
                    f"the plan wants {record.name} in the channel that sync joins it with, and there is "
                    "none: create the mapping, or choose another channel"
                ) from None
            places[record.position] = self._note(record, place)
            items += () if place.reason else map(_encoded, channel_items(conversation, place, *account))
            if len(places) == _BATCH:
                await self._store(places, items)
                places, items = {}, []
        await self._store(places, items)
        known = await self._known_names()
        counts = {**self._totals, **({"skipped": dict(self._skipped)} if self._skipped else {})}
        return counts, self._warnings(known)

    def _note(self, record: ChannelRecord, place: Place) -> dict[str, Any]:
        self._totals["found"] += 1
        if place.reason is not None:
            self._skipped[place.reason] += 1
        else:
            self._totals["selected"] += 1
            self._closed += record.kind in CLOSED_KINDS
            if not place.existing:
                self._new.append((place.name, place.channel_id))
        return {"channel_id": place.channel_id, "existing": place.existing, "left_out": place.reason}

    async def _store(self, places: Mapping[int, Mapping[str, Any]], items: list[Item]) -> None:
        if not places:
            return
        run = self._run
        await run.stores.contents.set_channels(run.job.id, places)
        place = f"channels:{min(places):08d}"
        outcomes = await run.publish(list(run.batches.make(HISTORY_CHANNELS, "channels", items, place)))
        rejected = {channel_id: reason for record in outcomes for channel_id, reason in record.rejected}
        issues = [(key, f"the chat rejected this channel: {reason}", "") for key, reason in rejected.items()]
        await run.list_issues(place, issues)
        self._totals["failed"] += len(rejected)
        self._totals["imported"] = self._totals["selected"] - self._totals["failed"]

    async def _both(self) -> AsyncIterator[tuple[ChannelRecord, HistoryConversation]]:
        """Yield each stored conversation with that of the source: both are in the same order."""
        records = self._run.stores.contents.each_channel(self._run.job.id)
        async for conversation in self._run.source.conversations():
            record = await anext(records, None)
            if record is None or record.conversation != conversation.id:
                raise JobFailed("the export has other conversations than when it was read: import it again")
            yield record, conversation

    async def _known_names(self) -> Mapping[str, str]:
        """Return the chat's channels by name, as far as the hub knows them."""
        workspace = self._run.job.workspace
        created = await self._run.stores.contents.created_channels(workspace, other_than=self._run.job.id)
        return created | await self._directory.channel_names(workspace)

    def _warnings(self, known: Mapping[str, str]) -> list[str]:
        found = []
        if conflicts := name_conflicts(self._new, known):
            names = ", ".join(conflicts[:_MAX_NAMED])
            found.append(
                f"{len(conflicts)} new channels have the name of another one ({names}): give them other "
                "names in the plan, or import them into the channels that exist"
            )
        if self._closed:
            found.append(
                f"{self._closed} conversations of two people or of a closed group are imported: they were "
                "written for those people only"
            )
        return found


async def chosen_targets(run: RunContext) -> tuple[dict[str, Target], int]:
    """Return where conversations go, by id, as the phase has stored it; and the size of their units."""
    account = run.overview.provider, run.overview.account
    targets: dict[str, Target] = {}
    size = 0
    async for record in run.stores.contents.each_channel(run.job.id):
        if record.left_out is None and record.channel_id:
            source = ":".join((*account, record.conversation))
            targets[record.conversation] = Target(
                record.conversation, record.position, source, record.channel_id
            )
            size += record.size
    return targets, size


def channel_items(
    conversation: HistoryConversation, place: Place, provider: str, account: str
) -> Iterator[dict[str, Any]]:
    """Yield a channel as `history.channels` has it, once for each part of its members."""
    members = [member for member in conversation.members if 0 < len(member) <= _MAX_ID]
    for start in range(0, max(1, len(members)), _MEMBERS):
        yield {
            "channel_id": place.channel_id,
            "name": place.name[:_MAX_ID],
            "kind": conversation.kind,
            "existing": place.existing,
            "archived": conversation.archived,
            "topic": conversation.topic[:1000],
            "members": members[start : start + _MEMBERS],
            "created_at": moment(conversation.created_at),
            "origin": {
                "provider": provider,
                "account": account,
                "conversation_id": conversation.id[:_MAX_ID],
            },
        }


def _encoded(item: Mapping[str, Any]) -> Item:
    return Item(orjson.dumps(item))

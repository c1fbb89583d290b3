"""Mappings of a workspace never form a ring in one direction: a message would come back to its source.

The edges of a mapping lead from the conversation of each leg that sends to that of each leg that receives.
A mapping must not have an edge that another one has, and no path over other mappings may lead back from a leg
that receives to another leg that sends. A paused mapping counts as well, so that resuming one never fails.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Mapping as Paths
from typing import Any, Final

from services.sync.model.mapping import Leg, Mapping, SharedConversation
from services.sync.store.mappings import MappingEdges, MappingRepository
from shared.contracts.errors import Conflict

_STARTS_PER_PLACE: Final = 2
MAX_PER_CONVERSATION: Final = 20
"""Mappings of a workspace to which one conversation sends: each message goes to the legs of all."""
_Visit = tuple[SharedConversation, SharedConversation]
"""A place, and the start from which messages get there."""


class MappingRings:
    """Stores new mappings and new legs, unless they form a ring."""

    def __init__(self, mappings: MappingRepository) -> None:
        self._mappings = mappings

    async def insert(self, mapping: Mapping) -> None:
        """Store a new mapping, in every process.

        Raises `Conflict` if it forms a ring, or the workspace has the maximum; `DatabaseUnavailable`.
        """
        async with self._mappings.reserve(mapping.workspace, lambda: self._mappings.remove(mapping)):
            await self._check(mapping)
            await self._mappings.insert(mapping)
            # Of two processes that store at the same time, at least one finds the other's mapping now.
            try:
                await self._check(mapping)
            except Conflict:
                await self._mappings.remove(mapping)
                raise
        await self._mappings.announce(mapping)

    async def change_legs(self, mapping: Mapping, **changes: Any) -> Mapping:
        """Change a mapping, its legs among others, in every process.

        Raises `Conflict` if it forms a ring, or was changed since it was read; `NotFound` if it was deleted.
        """
        await self._check(mapping.model_copy(update=changes))
        changed = await self._mappings.change(mapping, announce=False, **changes)
        try:
            await self._check(changed)
        except Conflict:
            earlier = {name: getattr(mapping, name) for name in changes}
            await self._mappings.change(changed, **earlier)
            raise
        await self._mappings.announce(changed)
        return changed

    async def problem(self, workspace: str, legs: Sequence[Leg], *, mapping_id: str = "") -> str:
        """Return which mapping of the workspace legs would form a ring with; '' if there is none.

        `mapping_id` is the mapping that has these legs, if it is stored. Raises `DatabaseUnavailable`.
        """
        others = [other for other in await self._mappings.edges(workspace) if other.id != mapping_id]
        return ring_problem(legs, others)

    async def _check(self, mapping: Mapping) -> None:
        problem = await self.problem(mapping.workspace, mapping.legs, mapping_id=mapping.id)
        if problem:
            raise Conflict(problem)


def ring_problem(legs: Sequence[Leg], others: Iterable[MappingEdges]) -> str:
    """Return which mapping these legs would form a ring with, or repeat; '' if there is none.

    It also tells of a conversation that sends to the maximum of mappings.

    The cost is proportional to the legs of all mappings.
    """
    senders = {leg.shared: leg for leg in legs if leg.sends}
    receivers = {leg.shared: leg for leg in legs if leg.receives}
    by_sender: dict[SharedConversation, list[MappingEdges]] = {}
    for other in others:
        for place in other.senders:
            by_sender.setdefault(place, []).append(other)
    for start, sender in senders.items():
        if len(by_sender.get(start, ())) >= MAX_PER_CONVERSATION:
            return (
                f"messages of {_shown(sender)} go to {MAX_PER_CONVERSATION} mappings already, which is the "
                "maximum: add the other legs to one of these"
            )
        for other in by_sender.get(start, ()):
            for end in receivers.keys() & set(other.receivers) - {start}:
                return (
                    f"messages of {_shown(sender)} go to {_shown(receivers[end])} already, by the mapping "
                    f"{_named(other)}: change that one, or leave one of the two legs out"
                )
    ring = _path_back(receivers.keys(), senders.keys(), by_sender)
    if ring:
        start, end, over = ring
        names = ", then ".join(_named(other) for other in over)
        return (
            f"messages that {_shown(receivers[start])} gets would come back to {_shown(senders[end])}, by "
            f"the mapping {names}: change the direction of a leg, or add this one's legs to that mapping"
        )
    return ""


def _path_back(
    starts: Collection[SharedConversation],
    ends: Collection[SharedConversation],
    by_sender: Paths[SharedConversation, Sequence[MappingEdges]],
) -> tuple[SharedConversation, SharedConversation, Sequence[MappingEdges]] | None:
    """Return a start, another place among the ends that messages there get to, and the mappings between.

    Each place is visited for two starts at most: for any end, one of the two is another place than the end.
    """
    came_by: dict[_Visit, tuple[_Visit, MappingEdges]] = {}
    visited = {start: [start] for start in starts}
    used: dict[str, list[SharedConversation]] = {}
    waiting = deque((start, start) for start in starts)
    while waiting:
        visit = waiting.popleft()
        current, start = visit
        for other in by_sender.get(current, ()):
            if not _is_new(start, used.setdefault(other.id, [])):
                continue
            for place in other.receivers:
                if not _is_new(start, visited.setdefault(place, [])):
                    continue
                came_by[place, start] = (visit, other)
                if place in ends and place != start:
                    return start, place, _mappings_to((place, start), came_by)
                waiting.append((place, start))
    return None


def _is_new(start: SharedConversation, known: list[SharedConversation]) -> bool:
    """Return whether a place has to be visited for a start, and add the start to those known there."""
    if len(known) >= _STARTS_PER_PLACE or start in known:
        return False
    known.append(start)
    return True


def _mappings_to(end: _Visit, came_by: dict[_Visit, tuple[_Visit, MappingEdges]]) -> Sequence[MappingEdges]:
    over: list[MappingEdges] = []
    while end in came_by:
        end, mapping = came_by[end]
        over.append(mapping)
    return over[::-1]


def _shown(leg: Leg) -> str:
    return f"{leg.provider} {leg.name or leg.conversation}"


def _named(mapping: MappingEdges) -> str:
    return f"{mapping.name!r} ({mapping.id})" if mapping.name else mapping.id

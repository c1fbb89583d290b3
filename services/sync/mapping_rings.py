"""Mappings of a workspace never form a ring in one direction: a message would come back to its source.

The edges of a mapping lead from the conversation of each leg that sends to that of each leg that receives.
A mapping must not have an edge that another one has, and no path over other mappings may lead back from a leg
that receives to another leg that sends. A paused mapping counts as well, so that resuming one never fails.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from services.sync.model.mapping import Leg, Mapping, SharedConversation
from services.sync.store.mappings import MappingLegs, MappingRepository
from shared.contracts.errors import Conflict


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
        others = [other for other in await self._mappings.legs_of(workspace) if other.id != mapping_id]
        return ring_problem(legs, others)

    async def _check(self, mapping: Mapping) -> None:
        problem = await self.problem(mapping.workspace, mapping.legs, mapping_id=mapping.id)
        if problem:
            raise Conflict(problem)


def ring_problem(legs: Sequence[Leg], others: Iterable[MappingLegs]) -> str:
    """Return which mapping these legs would form a ring with, or repeat; '' if there is none.

    The cost is proportional to the legs of all mappings, for each leg that receives.
    """
    mappings = list(others)
    senders = {leg.shared: leg for leg in legs if leg.sends}
    receivers = [leg for leg in legs if leg.receives]
    by_sender: dict[SharedConversation, list[MappingLegs]] = {}
    for other in mappings:
        for leg in other.legs:
            if leg.sends:
                by_sender.setdefault(leg.shared, []).append(other)
    for receiver in receivers:
        for sender in senders.values():
            if sender.shared != receiver.shared:
                for other in by_sender.get(sender.shared, ()):
                    if any(leg.receives and leg.shared == receiver.shared for leg in other.legs):
                        return (
                            f"messages of {_shown(sender)} go to {_shown(receiver)} already, by the mapping "
                            f"{_named(other)}: change that one, or leave one of the two legs out"
                        )
    for receiver in receivers:
        path = _path(receiver.shared, senders.keys() - {receiver.shared}, by_sender)
        if path:
            end, over = path
            names = ", then ".join(_named(other) for other in over)
            return (
                f"messages that {_shown(receiver)} gets would come back to {_shown(senders[end])}, by the "
                f"mapping {names}: change the direction of a leg, or add this one's legs to that mapping"
            )
    return ""


def _path(
    start: SharedConversation,
    ends: set[SharedConversation],
    by_sender: dict[SharedConversation, list[MappingLegs]],
) -> tuple[SharedConversation, Sequence[MappingLegs]] | None:
    """Return the first end that messages in `start` get to, and the mappings on their path."""
    if not ends:
        return None
    came_by: dict[SharedConversation, tuple[SharedConversation, MappingLegs] | None] = {start: None}
    used: set[str] = set()
    waiting = deque([start])
    while waiting:
        current = waiting.popleft()
        for other in by_sender.get(current, ()):
            if other.id in used:
                continue
            used.add(other.id)  # All that it reaches is known now, also where it was entered.
            for leg in other.legs:
                if not leg.receives or leg.shared in came_by:
                    continue
                came_by[leg.shared] = (current, other)
                if leg.shared in ends:
                    return leg.shared, _mappings_on(leg.shared, came_by)
                waiting.append(leg.shared)
    return None


def _mappings_on(
    end: SharedConversation, came_by: dict[SharedConversation, tuple[SharedConversation, MappingLegs] | None]
) -> Sequence[MappingLegs]:
    over: list[MappingLegs] = []
    step = came_by[end]
    while step is not None:
        current, mapping = step
        over.append(mapping)
        step = came_by[current]
    return over[::-1]


def _shown(leg: Leg) -> str:
    return f"{leg.provider} {leg.name or leg.conversation}"


def _named(mapping: MappingLegs) -> str:
    return f"{mapping.name!r} ({mapping.id})" if mapping.name else mapping.id

"""Publish the people of an import, and store who they are in the chat."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from services.importer.jobs.matching import Users
from services.importer.jobs.run_context import RunContext
from services.importer.publish.history_batches import Item
from services.importer.store.contents import PersonRecord
from shared.contracts.history import HISTORY_USERS

_BATCH: Final = 200
_MAX_ADDRESS: Final = 2_048
_MAX_ID: Final = 256


@dataclass(slots=True)
class Matched:
    """The people of an export: users of the chat by the export's ids, and the ids of those left out."""

    users: dict[str, str] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)


async def publish_people(run: RunContext, users: Users) -> dict[str, Any]:
    """Publish all people who are not left out; return the counts of people. Raises `Stopped`."""
    totals: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    group: list[PersonRecord] = []
    async for person in run.stores.contents.each_person(run.job.id):
        group.append(person)
        if len(group) == _BATCH:
            await _publish(run, users, group, totals, skipped)
            group = []
    await _publish(run, users, group, totals, skipped)
    return {**totals, **({"skipped": dict(skipped)} if skipped else {})}


async def matched_people(run: RunContext) -> Matched:
    """Return the people as `publish_people` has stored them."""
    found = Matched()
    async for person in run.stores.contents.each_person(run.job.id):
        if person.matched_by == "leave_out":
            found.left_out.add(person.person_id)
        elif person.user_id:
            found.users[person.person_id] = person.user_id
    return found


async def _publish(
    run: RunContext,
    users: Users,
    group: Sequence[PersonRecord],
    totals: Counter[str],
    skipped: Counter[str],
) -> None:
    items: list[Item] = []
    changes: dict[int, dict[str, Any]] = {}
    for person in group:
        match = users.match(person, run.plan)
        changes[person.position] = {"matched_by": match.by, "user_id": match.user_id}
        if match.by == "leave_out":
            skipped["left_out"] += 1
        else:
            items.append(Item(orjson.dumps(user_item(person, match.user_id))))
    if not group:
        return
    await run.stores.contents.set_people(run.job.id, changes)
    place = f"people:{group[0].position:08d}"
    outcomes = await run.publish(list(run.batches.make(HISTORY_USERS, "users", items, place)))
    rejected = [
        (person_id, f"the chat rejected this person: {reason}", "")
        for record in outcomes
        for person_id, reason in record.rejected
    ]
    await run.list_issues(place, rejected)
    totals["found"] += len(group)
    totals["selected"] += len(items)
    totals["imported"] += len(items) - len(rejected)
    totals["failed"] += len(rejected)


def published_id(person_id: str) -> str:
    """Return the id of a person as `history.users` has it."""
    return person_id[:_MAX_ID] or "unknown"


def user_item(person: PersonRecord, user_id: str | None) -> dict[str, Any]:
    """Return a person as `history.users` has it."""
    found: dict[str, Any] = {
        "id": published_id(person.person_id),
        "name": person.name,
        "active": person.active,
    }
    if user_id:
        found["user_id"] = user_id
    if person.avatar_url and len(person.avatar_url) <= _MAX_ADDRESS:
        found["avatar_url"] = person.avatar_url
    if person.bot:
        found["bot"] = True
    return found

"""Turn the lines of a part into the messages that are published, and count what became of each record."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from services.importer.jobs.known_messages import KnownMessages
from services.importer.jobs.part import FOUND, SELECTED, UNKNOWN_DAY, Known, Part
from services.importer.jobs.samples import Samples
from services.importer.jobs.selection import Selection, mark_of
from services.importer.publish.history_batches import MAX_ITEM_BYTES, Item
from services.importer.store.unit_record import has_mark, unpacked
from shared.contracts.history import MAX_BATCH_BYTES

Line = Mapping[str, Any]
"""A line of a record, or the message in it (`reading.message_lines`)."""


class MessageItems:
    """Makes the items of one run. `samples` are taken in a dry run only."""

    def __init__(self, selection: Selection, known: KnownMessages, samples: Samples | None) -> None:
        self._selection = selection
        self._known = known
        self._samples = samples

    async def make(self, part: Part, lines: Sequence[Line]) -> list[Item]:
        """Count the records of a part, and return those to be published. Raises `DatabaseUnavailable`."""
        id_of = self._selection.ids_of(part.target.conversation)
        messages = [line["m"] for line in lines if "m" in line]
        ids = {message["id"]: id_of(message["id"]) for message in messages}
        threads = {message["thread"] for message in messages if "thread" in message}
        parents = {thread: ids[thread] if thread in ids else id_of(thread) for thread in threads}
        own, others = await self._known.among(part, messages, {*ids.values(), *parents.values()})
        items: list[Item] = []
        outside: list[bytes] = []
        for line in lines:
            message = line.get("m")
            if message is None:
                _count_record(part, line)
                continue
            day = self._selection.day_of(message["at"])
            if not self._is_selected(part, message, day):
                continue
            if thread := message.get("thread"):
                outside.append(parents[thread])
            item = self._item(part, message, ids[message["id"]], parents, day, own, others)
            if item is not None:
                items.append(item)
        inside = part.added.keys() | part.duplicates.keys() | own
        part.outside = [parent for parent in outside if parent not in inside]
        return items

    def _is_selected(self, part: Part, message: Line, day: str) -> bool:
        """Count a message as found, and as selected or skipped."""
        by_day = part.days[day]
        by_day[FOUND] += 1
        reacted = message.get("reacted", 0)
        if reacted:
            part.counts["reactions.found"] += reacted
        if (reason := self._selection.refusal(message)) is not None:
            part.skip(reason, day, reacted)
            part.files.skip(message)
            return False
        by_day[SELECTED] += 1
        if not reacted:
            return True
        if not self._selection.plan.reactions:
            part.counts["reactions.skipped.left_out"] += reacted
        else:
            retained = _reactions(message)
            part.counts["reactions.selected"] += retained
            part.counts["reactions.skipped.too_many"] += reacted - retained
        return True

    def _item(
        self,
        part: Part,
        message: Line,
        packed_id: bytes,
        parents: Mapping[str, bytes],
        day: str,
        own: set[bytes],
        others: Mapping[bytes, bytes],
    ) -> Item | None:
        """Return a message to be published; None for one that the chat has, or that is too large."""
        reactions = _reactions(message) if "reactions" in message and self._selection.plan.reactions else 0
        known = Known(day, message["at"], mark_of(message), reactions)
        is_own = (
            packed_id in part.added
            or packed_id in own
            or packed_id in part.changed
            or packed_id in part.duplicates
        )
        is_changed = packed_id in others
        # An older export has a mark that is known, too: it does not bring an older text back.
        is_edit = is_changed and self._selection.plan.edits and not has_mark(others[packed_id], known.mark)
        if is_own or is_changed:
            part.files.repeat(message)
        if is_own or (is_changed and not is_edit):
            part.repeat(packed_id, known, is_own=is_own)
            return None
        message_id = unpacked(packed_id)
        item = self._selection.message(message, message_id, part.target.conversation, parents)
        if is_changed:
            item["changed"] = True
        elif attachments := part.files.attach(message, message_id):
            item["attachments"] = attachments
        data = orjson.dumps(item)
        if len(data) > MAX_ITEM_BYTES:
            reason = f"it has more than {MAX_BATCH_BYTES // 1024} KB with its reactions"
            part.fail(f"{part.name}, {message['id']}", reason, "", day, reactions)
            part.files.settle((), [message_id])
            return None
        if "losses" in message:
            for loss in message["losses"]:
                part.counts[f"losses.{loss}"] += 1
        if self._samples is not None:
            self._samples.take(part.target.conversation, data)
        if is_changed:
            part.changed[packed_id] = known
            return Item(data)
        part.added[packed_id] = known
        return Item(data, packed_id)


def _reactions(message: Line) -> int:
    """Return how many people are in the reactions of a message."""
    return sum([len(people) for _, people, _ in message["reactions"]]) if "reactions" in message else 0


def _count_record(part: Part, line: Line) -> None:
    """Count a record that is no message."""
    day = line["day"] or UNKNOWN_DAY
    part.count(FOUND, day)
    if "s" in line:
        part.skip(line["s"], day)
    else:
        broken = line["b"]
        part.fail(broken["place"], broken["reason"], broken["record"], day)

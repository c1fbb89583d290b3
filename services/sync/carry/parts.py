"""Send the parts of a message to its target, each of them once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from services.sync.carry.scene import (
    FIND_MARGIN,
    PART_SEPARATOR,
    Scene,
    SceneCalls,
    outgoing_part,
)
from services.sync.files.fetch import FetchedFile
from services.sync.model.marker import marker_for
from services.sync.model.synced_message import Target, TraceEntry
from services.sync.store.messages import SyncedMessages, target_update
from shared.connections.channel_calls import LocalFile
from shared.manifests.channel_types import FindsSent, Place, Sends, Sent
from shared.richtext.tree import Document, Loss
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint

_MOSTLY_NONE: Final = ("thread", "permalink", "code", "reason", "fix")
"""Fields that only the target's lane sets, or a person's retry empties."""


@dataclass(slots=True)
class Parts:
    """The parts that a target has: ids, thread and permalink, with trace entries that are not stored yet."""

    ids: list[str]
    thread: str | None
    permalink: str | None
    losses: list[Loss] = field(default_factory=list)
    trace: list[TraceEntry] = field(default_factory=list)

    @classmethod
    def of(cls, target: Target) -> "Parts":
        """Return the parts that the stored target has."""
        return cls(list(target.parts), target.thread, target.permalink)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the target to store while no part is being sent."""
        return {
            "parts": tuple(self.ids),
            "thread": self.thread,
            "permalink": self.permalink,
            "sending_at": None,
        }


class PartSender:
    """Sends parts one after another. Its methods raise as `SceneCalls.run`, and `DatabaseUnavailable`."""

    def __init__(self, calls: SceneCalls, messages: SyncedMessages) -> None:
        self._calls = calls
        self._messages = messages

    async def recover(
        self, scene: Scene, target: Target, place: Place, *, if_sent: str = "it may exist twice"
    ) -> Parts:
        """Return the parts of a target, with the next one if an earlier attempt has sent it.

        That attempt crashed, or its call had no response. If the provider cannot be searched for the part, it
        may exist: a trace entry says so, and ends with `if_sent`, the consequence.
        """
        parts, channel = Parts.of(target), scene.channel
        if target.sending_at is None:
            return parts
        if not isinstance(channel, FindsSent):
            detail = f"The provider cannot be asked whether it has the message: {if_sent}."
            parts.trace.append(TraceEntry(at=utcnow(), step="duplicate_possible", detail=detail))
            return parts
        since = (target.sending_at - FIND_MARGIN).timestamp()
        marker = _marker(scene, len(parts.ids))
        found = await self._calls.run(scene, channel.find_sent(marker, place, since, scene.account))
        if found is not None:
            await self._add(scene, parts, found, place)
        return parts

    async def send(
        self,
        scene: Scene,
        channel: Sends,
        parts: Parts,
        place: Place,
        body: Document,
        files: Sequence[FetchedFile] = (),
    ) -> None:
        """Send the next part with its files, and add it to `parts`."""
        outgoing = outgoing_part(scene, body, place, _marker(scene, len(parts.ids)))
        local: dict[str, LocalFile] = {}
        if files:
            outgoing = replace(outgoing, files=tuple(file.outgoing for file in files))
            local = {file.outgoing.id: file.local for file in files}
        sent = await self._calls.run(scene, channel.send(outgoing, scene.account), marks=True, files=local)
        failpoint("carry.sent")
        await self._add(scene, parts, sent, place)

    async def store(self, scene: Scene, parts: Parts, **fields: Any) -> None:
        """Store the parts and other fields of the target, so that a crash later does not send them again."""
        changed = {**parts.fields, **fields}
        if (target := scene.target) is not None:
            for name in _MOSTLY_NONE:
                if changed.get(name, "") is None and getattr(target, name) is None:
                    del changed[name]  # each field that is written takes time in the database
        write = target_update(scene.message.id, scene.leg.id, changed, parts.trace)
        await self._messages.write([write])
        parts.trace.clear()

    async def _add(self, scene: Scene, parts: Parts, sent: Sent, place: Place) -> None:
        await self._calls.link(scene, sent, len(parts.ids))
        parts.ids.append(PART_SEPARATOR.join(sent.external_ids))
        parts.losses += sent.losses
        parts.thread = parts.thread or sent.thread or place.thread
        parts.permalink = parts.permalink or sent.permalink


def _marker(scene: Scene, part: int) -> str:
    """Return the marker of a new part. Its revision is 0, so that later changes compute the same marker."""
    return marker_for(scene.message.id, scene.leg.id, part, 0)

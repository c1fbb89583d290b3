"""Edit and delete messages at their targets."""

from dataclasses import replace

from services.sync.carry.notes import NO_PROBLEM, Notes, loss_entries
from services.sync.carry.outcomes import Done, Failed, Outcome
from services.sync.carry.parts import PartSender
from services.sync.carry.scene import (
    NOT_SENT,
    PART_SEPARATOR,
    Scene,
    SceneCalls,
    outgoing_part,
    unsent_message_outcome,
    with_author,
)
from services.sync.carry.status import StatusEvents
from services.sync.model.marker import marker_for
from services.sync.model.synced_message import TraceEntry
from shared.manifests.channel_types import (
    ChannelFailure,
    Deletes,
    Edits,
    Place,
    Sends,
)
from shared.richtext.markdown import parse_markdown
from shared.runtime.clock import utcnow


class MessageEditor:
    """Edits and deletes messages."""

    def __init__(self, calls: SceneCalls, parts: PartSender, notes: Notes, status: StatusEvents) -> None:
        self._calls = calls
        self._parts = parts
        self._notes = notes
        self._status = status

    async def edit(self, scene: Scene) -> Outcome:
        message, target, leg, request = scene.message, scene.target, scene.leg, scene.change.request
        if target is None or target.state in ("deleted", "discarded", "skipped"):
            return Done()
        if message.deleted or request.revision < message.revision:
            return Done()  # a later change is on its way
        if target.state in ("failed", "unknown"):
            return Failed(NOT_SENT)
        if target.state != "sent":
            return unsent_message_outcome(scene)
        if request.revision <= target.revision:
            return Done()
        channel = scene.channel
        if not (isinstance(channel, Edits) and isinstance(channel, Sends)):
            raise ChannelFailure("unsupported", "edit", "The hub cannot edit messages there.")
        body = with_author(scene, parse_markdown(request.text))
        texts = channel.split(body, files=1 if target.with_files else 0)
        place = Place(leg.conversation, target.thread)
        parts = await self._parts.recover(scene, target, place)
        for number, text in enumerate(texts):
            if number == len(parts.ids):
                await self._parts.send(scene, channel, parts, place, text)
                await self._parts.store(scene, parts)
                continue
            part_id = await self._calls.part_id(scene, parts.ids, number)
            marker = marker_for(message.id, leg.id, number, request.revision)
            has_files = target.with_files and number == 0
            outgoing = replace(outgoing_part(scene, text, place, marker), has_files=has_files)
            edited = await self._calls.run(scene, channel.edit(part_id, outgoing, scene.account))
            parts.losses += edited.losses
        if len(parts.ids) > len(texts) and isinstance(channel, Deletes):
            for part in parts.ids[len(texts) :]:
                await self._delete_part(scene, channel, part)
            del parts.ids[len(texts) :]
        now = utcnow()
        parts.trace.append(TraceEntry(at=now, step="edited", attempt=scene.change.attempts + 1))
        parts.trace += loss_entries(parts.losses, now)
        await self._parts.store(scene, parts, revision=request.revision, **NO_PROBLEM)
        return Done()

    async def delete(self, scene: Scene) -> Outcome:
        message, target, leg = scene.message, scene.target, scene.leg
        if target is None or target.state in ("deleted", "discarded", "skipped"):
            return Done()
        if target.state == "sending":
            return unsent_message_outcome(scene)
        if target.state != "sent" and not target.parts and target.sending_at is None:
            await self._notes.state(message, leg, "deleted", state="deleted", **NO_PROBLEM)
            return Done()
        channel = scene.channel
        if not isinstance(channel, Deletes):
            raise ChannelFailure("unsupported", "delete", "The hub cannot delete messages there.")
        # An earlier attempt without a response may have sent one more part.
        place = Place(leg.conversation, target.thread)
        parts = await self._parts.recover(scene, target, place, if_sent="it may be there still")
        for number, part in enumerate(parts.ids):
            part_id = part or await self._calls.part_id(scene, parts.ids, number)
            await self._delete_part(scene, channel, part_id)
        parts.trace.append(TraceEntry(at=utcnow(), step="deleted"))
        await self._parts.store(scene, parts, state="deleted", **NO_PROBLEM)
        await self._status.publish(scene.change, message, leg, target.model_copy(update={"state": "deleted"}))
        return Done()

    async def _delete_part(self, scene: Scene, channel: Deletes, part: str) -> None:
        place = Place(scene.leg.conversation)
        for external_id in part.split(PART_SEPARATOR):
            try:
                await self._calls.run(scene, channel.delete(external_id, place, scene.account))
            except ChannelFailure as failure:
                if failure.kind != "gone":
                    raise

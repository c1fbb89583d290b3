"""Edit and delete messages at their targets."""

from dataclasses import replace

from services.sync.carry.notes import NO_PROBLEM, Notes, loss_entries
from services.sync.carry.outcomes import Done, Failed, Outcome
from services.sync.carry.scene import (
    NOT_SENT,
    PART_SEPARATOR,
    Scene,
    SceneCalls,
    await_message,
    outgoing_part,
    with_author,
)
from services.sync.carry.status import StatusEvents
from services.sync.model.marker import marker_for
from services.sync.model.synced_message import TraceEntry
from services.sync.store.messages import SyncedMessages, target_update
from shared.manifests.channel_types import (
    ChannelFailure,
    Deletes,
    Edits,
    Operation,
    Place,
    Sends,
    Sent,
)
from shared.richtext.markdown import parse_markdown
from shared.richtext.tree import Loss
from shared.runtime.mongo import utcnow


class MessageEditor:
    """Edits and deletes messages."""

    def __init__(
        self, calls: SceneCalls, messages: SyncedMessages, notes: Notes, status: StatusEvents
    ) -> None:
        self._calls = calls
        self._messages = messages
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
            return await_message(scene)
        if request.revision <= target.revision:
            return Done()
        channel = scene.channel
        if not (isinstance(channel, Edits) and isinstance(channel, Sends)):
            raise ChannelFailure("unsupported", "edit", "The hub cannot edit messages there.")
        body = with_author(scene, parse_markdown(request.text))
        texts = channel.split(body, files=1 if target.with_files else 0)
        parts = list(target.parts)
        losses: list[Loss] = []
        place = Place(leg.conversation, target.thread)
        for number, text in enumerate(texts):
            marker = marker_for(message.id, leg.id, number, request.revision)
            has_files = target.with_files and number == 0
            outgoing = replace(outgoing_part(scene, text, place, marker), has_files=has_files)
            if number < len(parts):
                part_id = await self._calls.part_id(scene, number)
                operation: Operation[Sent] = channel.edit(part_id, outgoing, scene.account)
            else:
                operation = channel.send(outgoing, scene.account)
            sent = await self._calls.run(scene, operation)
            losses += sent.losses
            if number >= len(parts):
                parts.append(PART_SEPARATOR.join(sent.external_ids))
                await self._calls.link(scene, sent, number)
        if len(parts) > len(texts) and isinstance(channel, Deletes):
            for part in parts[len(texts) :]:
                await self._delete_part(scene, channel, part)
            parts = parts[: len(texts)]
        now = utcnow()
        trace = [TraceEntry(at=now, step="edited", attempt=scene.change.attempts + 1)]
        trace += loss_entries(losses, now)
        fields = {**NO_PROBLEM, "revision": request.revision, "parts": tuple(parts)}
        await self._messages.write([target_update(message.id, leg.id, fields, trace)])
        return Done()

    async def delete(self, scene: Scene) -> Outcome:
        message, target, leg = scene.message, scene.target, scene.leg
        if target is None or target.state in ("deleted", "discarded", "skipped"):
            return Done()
        if target.state == "sending":
            return await_message(scene)
        if target.state != "sent" and not target.parts:
            await self._notes.state(message, leg, "deleted", state="deleted", **NO_PROBLEM)
            return Done()
        channel = scene.channel
        if not isinstance(channel, Deletes):
            raise ChannelFailure("unsupported", "delete", "The hub cannot delete messages there.")
        for number in range(len(target.parts)):
            part = target.parts[number] or await self._calls.part_id(scene, number)
            await self._delete_part(scene, channel, part)
        await self._notes.state(message, leg, "deleted", state="deleted", **NO_PROBLEM)
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

"""Send a message to its target: in parts, with its author, in its thread, and only once."""

from datetime import datetime, timedelta

from services.sync.carry.notes import Notes, loss_entries
from services.sync.carry.outcomes import Aside, Done, Outcome, Stopped
from services.sync.carry.scene import (
    FIND_MARGIN,
    LATE,
    PART_SEPARATOR,
    WAIT_S,
    Scene,
    SceneCalls,
    first_id,
    outgoing_part,
    with_author,
)
from services.sync.carry.status import StatusEvents
from services.sync.model.marker import marker_for
from services.sync.model.synced_message import Target, TraceEntry
from services.sync.store.messages import SyncedMessages, target_update
from shared.manifests.channel_types import (
    ChannelFailure,
    FindsSent,
    Place,
    Sends,
    Sent,
)
from shared.richtext.markdown import parse_markdown
from shared.richtext.tree import Loss
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.mongo import utcnow


class MessageSender:
    """Sends messages."""

    def __init__(
        self, calls: SceneCalls, messages: SyncedMessages, notes: Notes, status: StatusEvents
    ) -> None:
        self._calls = calls
        self._messages = messages
        self._notes = notes
        self._status = status

    async def send(self, scene: Scene) -> Outcome:
        message, target, leg = scene.message, scene.target, scene.leg
        if target is None or target.state in ("deleted", "discarded", "skipped"):
            return Done()
        if target.state == "sent":
            await self._status.publish(scene.change, message, leg, target)  # the last time may have failed
            return Done()
        if message.deleted:
            await self._notes.state(message, leg, "deleted", state="deleted")
            return Done()
        channel = scene.channel
        if not isinstance(channel, Sends):
            raise ChannelFailure("unsupported", "send", "The hub cannot write there.")
        request = scene.change.request
        place = await self._place(scene)
        body = with_author(scene, parse_markdown(request.text))
        parts = channel.split(body, files=0)
        done = list(target.parts)
        trace: list[TraceEntry] = []
        if target.state == "sending":
            found, entry = await self._recover(scene, len(done), target)
            if found is not None:
                done.append(PART_SEPARATOR.join(found.external_ids))
                await self._calls.link(scene, found, len(done) - 1)
            if entry is not None:
                trace.append(entry)
        losses: list[Loss] = []
        permalink, thread = target.permalink, target.thread
        for number in range(len(done), len(parts)):
            outgoing = outgoing_part(scene, parts[number], place, marker_for(message.id, leg.id, number, 0))
            sent = await self._calls.run(scene, channel.send(outgoing, scene.account), marks=True)
            failpoint("carry.sent")
            done.append(PART_SEPARATOR.join(sent.external_ids))
            await self._calls.link(scene, sent, number)
            losses += sent.losses
            permalink, thread = permalink or sent.permalink, thread or sent.thread or place.thread
            if number + 1 < len(parts):
                await self._messages.write(
                    [
                        target_update(
                            message.id, leg.id, {"parts": tuple(done), "state": "sending", "thread": thread}
                        )
                    ]
                )
        now = utcnow()
        trace.append(TraceEntry(at=now, step="sent", attempt=scene.change.attempts + 1))
        trace += loss_entries(losses, now)
        fields = {
            "state": "sent",
            "parts": tuple(done),
            "thread": thread,
            "permalink": permalink,
            "revision": request.revision,
            "attempts": scene.change.attempts + 1,
            "sent_at": now,
            "code": None,
            "reason": None,
            "fix": None,
        }
        await self._messages.write([target_update(message.id, leg.id, fields, trace)])
        failpoint("carry.written")
        metrics.SYNC_SENT.labels(leg.provider).inc()
        metrics.SYNC_AGE.labels(leg.provider).observe((now - message.received_at).total_seconds())
        await self._status.publish(scene.change, message, leg, target.model_copy(update=fields))
        return Done()

    async def _recover(
        self, scene: Scene, part: int, target: Target
    ) -> tuple[Sent | None, TraceEntry | None]:
        """Find out whether a part was sent by a process that died, or whose call was not answered."""
        channel, now = scene.channel, utcnow()
        place = Place(scene.leg.conversation, target.thread)
        if isinstance(channel, FindsSent):
            since = (target.sending_at or now) - FIND_MARGIN
            marker = marker_for(scene.message.id, scene.leg.id, part, 0)
            found = await self._calls.run(
                scene, channel.find_sent(marker, place, since.timestamp(), scene.account)
            )
            return found, None
        detail = "The provider cannot be asked whether it has the message: it may exist twice."
        return None, TraceEntry(at=now, step="duplicate_possible", detail=detail)

    async def _place(self, scene: Scene) -> Place:
        """Return where a message goes. Raises `Stopped` if the message that it answers may still come."""
        request, leg = scene.change.request, scene.leg
        for parent_id in (request.reply_to_id, request.thread_id):
            if parent_id is None:
                continue
            parent = await self._messages.find(parent_id)
            if parent is not None and parent.leg == leg.id and parent.has_come:
                return Place(leg.conversation, parent.thread, parent.external_id)
            target = parent.targets.get(leg.id) if parent else None
            if target is not None and target.state == "sent" and target.parts and target.parts[0]:
                return Place(leg.conversation, target.thread, first_id(target.parts[0]))
            is_open = target is not None and target.state in ("waiting", "sending")
            late_until = request.wait_until or (request.received_at if is_open else None)
            if late_until is not None:
                until = datetime.fromisoformat(late_until) + (LATE if is_open else timedelta())
                if utcnow() < until:
                    reason = "The message that it answers has not come yet."
                    raise Stopped(Aside(WAIT_S, reason))
            if parent is not None and parent.leg == leg.id:  # written there before the mapping was made
                return Place(leg.conversation, None, parent.external_id)
        return Place(leg.conversation)

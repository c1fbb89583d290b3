"""Send a message to its target: in parts, with its author, in its thread, and only once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from services.sync.calls import LocalFile
from services.sync.carry.notes import NO_PROBLEM, Notes, loss_entries
from services.sync.carry.outcomes import Aside, Done, Outcome, Stopped, Waits
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
from services.sync.files.fetch import FetchedFile, FileFetcher, FileProblem
from services.sync.files.lines import with_problems
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
from shared.manifests.registry import Provider
from shared.richtext.markdown import parse_markdown
from shared.richtext.tree import Document, Loss
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.mongo import utcnow
from shared.runtime.retry import Backoff

_FETCH_ATTEMPTS: Final = 4
"""Until a message goes out without a file that cannot be fetched now."""
_FETCH_PAUSES: Final = Backoff(first_s=2.0, max_s=60.0)


class MessageSender:
    """Sends messages."""

    def __init__(
        self,
        calls: SceneCalls,
        fetcher: FileFetcher,
        providers: Mapping[str, Provider],
        messages: SyncedMessages,
        notes: Notes,
        status: StatusEvents,
    ) -> None:
        self._calls = calls
        self._fetcher = fetcher
        self._providers = providers
        self._messages = messages
        self._notes = notes
        self._status = status

    async def send(self, scene: Scene) -> Outcome:
        """Send a message, unless it was sent, deleted or discarded. Raises as `Work.apply`."""
        message, target, leg = scene.message, scene.target, scene.leg
        if target is None or target.state in ("deleted", "discarded", "skipped"):
            return Done()
        if target.state == "sent":
            await self._status.publish(scene.change, message, leg, target)  # the last time may have failed
            return Done()
        if message.deleted:
            await self._leave(scene, target)
            return Done()
        if not isinstance(scene.channel, Sends):
            raise ChannelFailure("unsupported", "send", "The hub cannot write there.")
        place = await self._place(scene)
        attachments = scene.change.request.attachments
        if not attachments:
            await self._send_parts(scene, scene.channel, target, place, (), ())
            return Done()
        provider = self._providers[leg.provider]
        async with self._fetcher.fetch(attachments, message.workspace, provider) as results:
            files = [result for result in results if isinstance(result, FetchedFile)]
            problems = [result for result in results if isinstance(result, FileProblem)]
            if any(problem.retryable for problem in problems) and scene.change.attempts < _FETCH_ATTEMPTS:
                return Waits(_FETCH_PAUSES.pause_s(scene.change.attempts + 1), problems[0].text)
            try:
                await self._send_parts(scene, scene.channel, target, place, files, problems)
            except ChannelFailure as failure:
                current = await self._messages.find(message.id)
                shown = current is not None and bool(current.targets[leg.id].parts)
                if failure.kind != "message" or not files or shown:
                    raise
                # The provider refused the part with the files, and nobody has seen it.
                refused = [FileProblem(file.attachment, failure.text) for file in files]
                await self._send_parts(scene, scene.channel, target, place, (), [*problems, *refused])
        return Done()

    async def _leave(self, scene: Scene, target: Target) -> None:
        """Send nothing more of a message that was deleted. What is there of it, its deletion removes."""
        leg, done, trace = scene.leg, list(target.parts), list[TraceEntry]()
        if target.state == "sending":
            place = await self._place(scene)
            found, entry = await self._recover(scene, len(done), target, place)
            if found is not None:
                done.append(PART_SEPARATOR.join(found.external_ids))
                await self._calls.link(scene, found, len(done) - 1)
            if entry is not None:
                detail = "The provider cannot be asked whether it has the message: it may be there still."
                trace.append(entry.model_copy(update={"detail": detail}))
        if not done:
            trace.append(TraceEntry(at=utcnow(), step="deleted"))
        fields: dict[str, Any] = {"state": "sent" if done else "deleted", "parts": tuple(done)}
        await self._messages.write([target_update(scene.message.id, leg.id, fields, trace)])

    async def _send_parts(
        self,
        scene: Scene,
        channel: Sends,
        target: Target,
        place: Place,
        files: Sequence[FetchedFile],
        problems: Sequence[FileProblem],
    ) -> None:
        """Send those parts of a message that are not there yet; the files go with the first one."""
        message, leg, request = scene.message, scene.leg, scene.change.request
        body = with_problems(with_author(scene, parse_markdown(request.text)), problems)
        parts = channel.split(body, files=len(files))
        done = list(target.parts)
        trace: list[TraceEntry] = []
        if target.state == "sending":
            found, entry = await self._recover(scene, len(done), target, place)
            if found is not None:
                done.append(PART_SEPARATOR.join(found.external_ids))
                await self._calls.link(scene, found, len(done) - 1)
            if entry is not None:
                trace.append(entry)
        losses: list[Loss] = []
        permalink, thread = target.permalink, target.thread
        for number in range(len(done), len(parts)):
            sent = await self._send_part(scene, channel, place, parts[number], number, files)
            done.append(PART_SEPARATOR.join(sent.external_ids))
            await self._calls.link(scene, sent, number)
            losses += sent.losses
            permalink, thread = permalink or sent.permalink, thread or sent.thread or place.thread
            if number + 1 < len(parts):
                fields: dict[str, Any] = {"parts": tuple(done), "state": "waiting", "thread": thread}
                await self._messages.write([target_update(message.id, leg.id, fields)])
        now = utcnow()
        trace.append(TraceEntry(at=now, step="sent", attempt=scene.change.attempts + 1))
        trace += loss_entries(losses, now)
        fields = {
            "state": "sent",
            "parts": tuple(done),
            "thread": thread,
            "with_files": target.with_files or bool(files),
            "permalink": permalink,
            "revision": request.revision,
            "attempts": scene.change.attempts + 1,
            "sent_at": now,
            **NO_PROBLEM,
        }
        await self._messages.write([target_update(message.id, leg.id, fields, trace)])
        failpoint("carry.written")
        metrics.SYNC_SENT.labels(leg.provider).inc()
        metrics.SYNC_AGE.labels(leg.provider).observe((now - message.received_at).total_seconds())
        await self._status.publish(scene.change, message, leg, target.model_copy(update=fields))

    async def _send_part(
        self,
        scene: Scene,
        channel: Sends,
        place: Place,
        body: Document,
        number: int,
        files: Sequence[FetchedFile],
    ) -> Sent:
        """Send one part."""
        outgoing = outgoing_part(scene, body, place, marker_for(scene.message.id, scene.leg.id, number, 0))
        local: dict[str, LocalFile] = {}
        if number == 0 and files:
            outgoing = replace(outgoing, files=tuple(file.outgoing for file in files))
            local = {file.outgoing.id: file.local for file in files}
        sent = await self._calls.run(scene, channel.send(outgoing, scene.account), marks=True, files=local)
        failpoint("carry.sent")
        return sent

    async def _recover(
        self, scene: Scene, part: int, target: Target, place: Place
    ) -> tuple[Sent | None, TraceEntry | None]:
        """Find a part that an earlier attempt may have sent: it crashed, or its call had no response."""
        channel, now = scene.channel, utcnow()
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

"""Send a message to its target: in parts, with its author, in its thread, and only once."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from services.sync.carry.notes import NO_PROBLEM, loss_entries
from services.sync.carry.outcomes import Done, Outcome, SetAside, Stopped, Waits
from services.sync.carry.parts import PartSender
from services.sync.carry.scene import LATE, WAIT_S, Scene, first_id, with_author
from services.sync.carry.status import StatusEvents
from services.sync.files.fetch import FetchedFile, FileFetcher, FileProblem
from services.sync.files.lines import with_problems
from services.sync.model.synced_message import Target, TraceEntry
from services.sync.store.messages import SyncedMessages, target_update
from shared.manifests.channel_types import ChannelFailure, Place, Sends
from shared.manifests.registry import Provider
from shared.richtext.markdown import parse_markdown
from shared.runtime import metrics
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint
from shared.runtime.retry import Backoff

_FETCH_ATTEMPTS: Final = 4
_FETCH_FOR: Final = timedelta(seconds=14)
"""After so many attempts to download a message's files, over so long, it is sent without those that fail.

Attempts alone say little: each account of the workspace that is connected again ends all pauses. Failures of
the target do not count.
"""
_FETCH_PAUSES: Final = Backoff(first_s=2.0, max_s=60.0)


class MessageSender:
    """Sends messages."""

    def __init__(
        self,
        parts: PartSender,
        fetcher: FileFetcher,
        providers: Mapping[str, Provider],
        messages: SyncedMessages,
        status: StatusEvents,
    ) -> None:
        self._parts = parts
        self._fetcher = fetcher
        self._providers = providers
        self._messages = messages
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
            since = target.first_fetch_at or utcnow()
            is_early = target.fetches < _FETCH_ATTEMPTS or utcnow() - since < _FETCH_FOR
            if any(problem.retryable for problem in problems) and is_early:
                fetches = target.fetches + 1
                fields = {"fetches": fetches, "first_fetch_at": since}
                await self._messages.write([target_update(message.id, leg.id, fields)])
                return Waits(_FETCH_PAUSES.pause_s(fetches), problems[0].text)
            try:
                await self._send_parts(scene, scene.channel, target, place, files, problems)
            except ChannelFailure as failure:
                current = await self._messages.find(message.id)
                shown = current is not None and bool(current.targets[leg.id].parts)
                if failure.kind != "message" or not files or shown:
                    raise
                # The provider refused the part with the files, so the message can be sent without them.
                refused = [FileProblem(file.attachment, failure.text) for file in files]
                await self._send_parts(scene, scene.channel, target, place, (), [*problems, *refused])
        return Done()

    async def _leave(self, scene: Scene, target: Target) -> None:
        """Stop sending a deleted message. Parts that were sent stay until the deletion is applied."""
        place = Place(scene.leg.conversation) if target.sending_at is None else await self._place(scene)
        parts = await self._parts.recover(scene, target, place, if_sent="it may be there still")
        if not parts.ids:
            parts.trace.append(TraceEntry(at=utcnow(), step="deleted"))
        await self._parts.store(scene, parts, state="sent" if parts.ids else "deleted")

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
        texts = channel.split(body, files=len(files))
        parts = await self._parts.recover(scene, target, place)
        for number in range(len(parts.ids), len(texts)):
            await self._parts.send(scene, channel, parts, place, texts[number], () if number else files)
            if number + 1 < len(texts):
                await self._parts.store(scene, parts, state="waiting")
        now = utcnow()
        parts.trace.append(TraceEntry(at=now, step="sent", attempt=scene.change.attempts + 1))
        parts.trace += loss_entries(parts.losses, now)
        fields: dict[str, Any] = {
            "state": "sent",
            "revision": request.revision,
            "attempts": scene.change.attempts + 1,
            "sent_at": now,
            **NO_PROBLEM,
        }
        if files:
            fields["with_files"] = True
        await self._parts.store(scene, parts, **fields)
        failpoint("carry.written")
        metrics.SYNC_SENT.labels(leg.provider).inc()
        metrics.WORKSPACE_USAGE.count(message.workspace, "message")
        metrics.SYNC_AGE.labels(leg.provider).observe((now - message.received_at).total_seconds())
        current = target.model_copy(update={**parts.fields, **fields})
        await self._status.publish(scene.change, message, leg, current)

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
                    raise Stopped(SetAside(WAIT_S, reason))
            if parent is not None and parent.leg == leg.id:  # written there before the mapping was made
                return Place(leg.conversation, None, parent.external_id)
        return Place(leg.conversation)

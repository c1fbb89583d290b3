"""The kinds of changes at a target, with the provider's channel, and what is stored of them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.sync.accounts import SyncAccounts, channel_account
from services.sync.calls import BeforeStep, ChannelCalls
from services.sync.carry.outcomes import Aside, Change, Done, Outcome, Stopped, Waits
from services.sync.carry.pace import Pace
from services.sync.carry.status import StatusEvents
from services.sync.model.mapping import Leg, link_id
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.marker import marker_for
from services.sync.model.synced_message import MessageLink, SyncedMessage, Target, TraceEntry
from services.sync.store.messages import SyncedMessages, target_update, update
from shared.connections.integration_record import Integration
from shared.contracts.errors import Invalid
from shared.manifests.channel_models import ChannelSpec
from shared.manifests.channel_types import (
    Account,
    ChannelFailure,
    Deletes,
    Edits,
    FindsSent,
    Operation,
    Outgoing,
    Person,
    Place,
    Reacts,
    Sends,
    Sent,
    Signals,
    Step,
)
from shared.manifests.registry import Provider
from shared.richtext.markdown import parse_markdown
from shared.richtext.runs import paragraphs_of, text_runs, with_mark
from shared.richtext.tree import Bold, Document, Loss
from shared.runtime import metrics
from shared.runtime.failpoints import failpoint
from shared.runtime.logs import Log
from shared.runtime.mongo import utcnow

_MAX_HOLD_S: Final = 2.0
"""A change that may go out this soon waits in memory; one that has to wait longer is stored."""
_ASIDE_S: Final = 1.0
_FIND_MARGIN: Final = timedelta(seconds=60)
"""How much earlier than the hub's clock a provider may have stamped a message."""
LATE: Final = timedelta(seconds=60)
PART_SEPARATOR: Final = ","
"""Between the ids of one part, of an album: the first is the one that is edited."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the work on a change needs to know: the target's side, and what is stored."""

    change: Change
    mapping: SyncMapping
    leg: Leg
    message: SyncedMessage
    integration: Integration
    account: Account
    channel: object
    spec: ChannelSpec

    @property
    def target(self) -> Target | None:
        return self.message.targets.get(self.leg.id)


class Work:
    """Applies changes at their targets."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        accounts: SyncAccounts,
        calls: ChannelCalls,
        messages: SyncedMessages,
        pace: Pace,
        status: StatusEvents,
        log: Log,
    ) -> None:
        self._providers = providers
        self._accounts = accounts
        self._calls = calls
        self._messages = messages
        self._pace = pace
        self._status = status
        self._log = log

    async def apply(self, change: Change, mapping: SyncMapping, leg: Leg, message: SyncedMessage) -> Outcome:
        """Apply a change at its target.

        Raises `ChannelFailure`, `Stopped`, and what `ChannelCalls.run` and `SyncAccounts.find` raise.
        """
        integration = await self._accounts.find(change.workspace, leg.provider, leg.account)
        spec, channel = self._providers[leg.provider].manifest.channel, self._accounts.channel(leg.provider)
        if spec is None or channel is None:
            raise Invalid(f"{leg.provider} has no conversations: remove the leg from the mapping")
        scene = Scene(change, mapping, leg, message, integration, channel_account(integration), channel, spec)
        match change.request.kind:
            case "message":
                return await self._send(scene)
            case "edit":
                return await self._edit(scene)
            case "delete":
                return await self._delete(scene)
            case "reaction":
                return await self._react(scene)
        return Done()

    # Messages

    async def _send(self, scene: Scene) -> Outcome:
        message, target, leg = scene.message, scene.target, scene.leg
        if target is None or target.state in ("deleted", "discarded", "skipped"):
            return Done()
        if target.state == "sent":
            await self._status.publish(scene.change, message, leg, target)  # the last time may have failed
            return Done()
        if message.deleted:
            await self._note(message, leg, "deleted", state="deleted")
            return Done()
        channel = scene.channel
        if not isinstance(channel, Sends):
            raise ChannelFailure("unsupported", "send", "The hub cannot write there.")
        request = scene.change.request
        place = await self._place(scene)
        body = self._with_author(scene, parse_markdown(request.text))
        parts = channel.split(body, files=0)
        done = list(target.parts)
        trace: list[TraceEntry] = []
        if target.state == "sending":
            found, entry = await self._recover(scene, len(done), target)
            if found is not None:
                done.append(PART_SEPARATOR.join(found.external_ids))
                await self._link(scene, found, len(done) - 1)
            if entry is not None:
                trace.append(entry)
        losses: list[Loss] = []
        permalink, thread = target.permalink, target.thread
        for number in range(len(done), len(parts)):
            outgoing = self._outgoing(scene, parts[number], place, marker_for(message.id, leg.id, number, 0))
            sent = await self._calls.run(
                channel.send(outgoing, scene.account),
                scene.integration.id,
                before=self._before(scene, marks=True),
            )
            failpoint("carry.sent")
            done.append(PART_SEPARATOR.join(sent.external_ids))
            await self._link(scene, sent, number)
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
        trace += _loss_entries(losses, now)
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
            since = (target.sending_at or now) - _FIND_MARGIN
            marker = marker_for(scene.message.id, scene.leg.id, part, 0)
            found = await self._calls.run(
                channel.find_sent(marker, place, since.timestamp(), scene.account),
                scene.integration.id,
                before=self._before(scene),
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
                    raise Stopped(Aside(_ASIDE_S, reason))
            if parent is not None and parent.leg == leg.id:  # written there before the mapping was made
                return Place(leg.conversation, None, parent.external_id)
        return Place(leg.conversation)

    def _with_author(self, scene: Scene, body: Document) -> Document:
        """Return a text with the author's name before it, if the mapping shows names so."""
        options, author = scene.mapping.options, scene.change.request.author
        if options.name_style != "prefix":
            return body
        name = f"{options.prefix}{author.name or author.id}"
        heading = paragraphs_of(with_mark(text_runs(name), Bold))
        return Document((*heading, *body.blocks))

    def _outgoing(self, scene: Scene, body: Document, place: Place, marker: str) -> Outgoing:
        options, request = scene.mapping.options, scene.change.request
        author = request.author
        return Outgoing(
            place=place,
            body=body,
            author=Person(author.id, author.name, author.avatar_url, bot=author.bot),
            marker=marker,
            show_author=options.name_style == "override",
            prefix=options.prefix if options.name_style == "override" else "",
            broadcast=request.broadcast,
            mass_mentions=options.mass_mentions != "never",
        )

    async def _link(self, scene: Scene, sent: Sent, part: int) -> None:
        """Link the ids of a part, before anything else is known of it: its events may come at once."""
        leg, message = scene.leg, scene.message
        await self._messages.add_links(
            [
                MessageLink(
                    id=link_id(leg.provider, leg.account, leg.conversation, external_id),
                    workspace=message.workspace,
                    mapping_id=message.mapping_id,
                    synced_id=message.id,
                    leg=leg.id,
                    part=part,
                    external_id=external_id,
                    expires_at=message.expires_at,
                )
                for external_id in sent.external_ids
            ]
        )

    # Edits and deletions

    async def _edit(self, scene: Scene) -> Outcome:
        message, target, leg, request = scene.message, scene.target, scene.leg, scene.change.request
        if target is None or target.state in ("deleted", "discarded", "skipped", "failed"):
            return Done()
        if message.deleted or request.revision < message.revision:
            return Done()  # a later change is on its way
        if target.state != "sent":
            return self._await_message(scene)
        if request.revision <= target.revision:
            return Done()
        channel = scene.channel
        if not (isinstance(channel, Edits) and isinstance(channel, Sends)):
            raise ChannelFailure("unsupported", "edit", "The hub cannot edit messages there.")
        body = self._with_author(scene, parse_markdown(request.text))
        texts = channel.split(body, files=1 if target.with_files else 0)
        parts = list(target.parts)
        losses: list[Loss] = []
        place = Place(leg.conversation, target.thread)
        for number, text in enumerate(texts):
            marker = marker_for(message.id, leg.id, number, request.revision)
            outgoing = self._outgoing(scene, text, place, marker)
            if number < len(parts):
                part_id = await self._part_id(scene, number)
                operation: Operation[Sent] = channel.edit(part_id, outgoing, scene.account)
            else:
                operation = channel.send(outgoing, scene.account)
            sent = await self._calls.run(operation, scene.integration.id, before=self._before(scene))
            losses += sent.losses
            if number >= len(parts):
                parts.append(PART_SEPARATOR.join(sent.external_ids))
                await self._link(scene, sent, number)
        if len(parts) > len(texts) and isinstance(channel, Deletes):
            for part in parts[len(texts) :]:
                await self._delete_part(scene, channel, part)
            parts = parts[: len(texts)]
        now = utcnow()
        trace = [TraceEntry(at=now, step="edited", attempt=scene.change.attempts + 1)]
        trace += _loss_entries(losses, now)
        fields = {"revision": request.revision, "parts": tuple(parts)}
        await self._messages.write([target_update(message.id, leg.id, fields, trace)])
        return Done()

    async def _part_id(self, scene: Scene, number: int) -> str:
        """Return the id of a part. One that the provider had not told yet is looked for by its marker."""
        target = scene.target
        part = target.parts[number] if target else ""
        if part:
            return first_id(part)
        channel = scene.channel
        if isinstance(channel, FindsSent) and target is not None:
            since = (target.sent_at or utcnow()) - _FIND_MARGIN
            marker = marker_for(scene.message.id, scene.leg.id, number, 0)
            place = Place(scene.leg.conversation, target.thread)
            found = await self._calls.run(
                channel.find_sent(marker, place, since.timestamp(), scene.account),
                scene.integration.id,
                before=self._before(scene),
            )
            if found is not None and found.external_ids:
                return found.external_ids[0]
        raise ChannelFailure("gone", "unknown_id", "The provider does not tell where the message is.")

    async def _delete(self, scene: Scene) -> Outcome:
        message, target, leg = scene.message, scene.target, scene.leg
        if target is None or target.state in ("deleted", "discarded", "skipped"):
            return Done()
        if target.state == "sending":
            return self._await_message(scene)
        if target.state != "sent":
            await self._note(message, leg, "deleted", state="deleted")
            return Done()
        channel = scene.channel
        if not isinstance(channel, Deletes):
            raise ChannelFailure("unsupported", "delete", "The hub cannot delete messages there.")
        for number in range(len(target.parts)):
            part = target.parts[number] or await self._part_id(scene, number)
            await self._delete_part(scene, channel, part)
        await self._note(message, leg, "deleted", state="deleted")
        await self._status.publish(scene.change, message, leg, target.model_copy(update={"state": "deleted"}))
        return Done()

    async def _delete_part(self, scene: Scene, channel: Deletes, part: str) -> None:
        place = Place(scene.leg.conversation)
        for external_id in part.split(PART_SEPARATOR):
            try:
                await self._calls.run(
                    channel.delete(external_id, place, scene.account),
                    scene.integration.id,
                    before=self._before(scene),
                )
            except ChannelFailure as failure:
                if failure.kind != "gone":
                    raise

    def _await_message(self, scene: Scene) -> Outcome:
        """Wait until the message is there, which a change of it follows."""
        if utcnow() - scene.change.received_at > LATE and scene.target and scene.target.state == "waiting":
            return Aside(60.0, "Its message waits.")
        return Aside(_ASIDE_S, "Its message is not sent yet.")

    # Reactions

    async def _react(self, scene: Scene) -> Outcome:
        """Let the target show the reactions that people of the other legs have set, as far as it can."""
        message, target, leg = scene.message, scene.target, scene.leg
        is_source = message.leg == leg.id
        if message.deleted or not (is_source or target):
            return Done()
        if target is not None and target.state != "sent":
            waits = target.state in ("waiting", "sending")
            return self._await_message(scene) if waits else Done()
        channel = scene.channel
        if not isinstance(channel, Reacts):
            raise ChannelFailure("unsupported", "react", "The hub cannot set reactions there.")
        shown = list(target.reactions if target else message.source_reactions)
        states = sorted(message.reactions.values(), key=lambda state: state.at)
        wanted = list(dict.fromkeys(state.emoji for state in states if state.added and state.leg != leg.id))
        staying = [emoji for emoji in shown if emoji in wanted]
        limit = channel.reactions_per_message
        new = [emoji for emoji in wanted if emoji not in staying]
        room = len(new) if limit is None else max(0, limit - len(staying))
        result = [*staying, *new[:room]]
        if target:
            external_id, thread = await self._part_id(scene, 0), target.thread
        else:
            external_id, thread = message.external_id, message.thread
        place = Place(leg.conversation, thread)
        losses: list[Loss] = [Loss("reaction", f"not shown: {emoji}") for emoji in new[room:]]
        replaced = limit == 1 and bool(result)
        for emoji in shown:
            if emoji not in result and not (replaced and result[0] not in shown):
                losses += await self._set_reaction(scene, channel, external_id, place, emoji, added=False)
        for emoji in result:
            if emoji not in shown:
                losses += await self._set_reaction(scene, channel, external_id, place, emoji, added=True)
        now = utcnow()
        trace = [TraceEntry(at=now, step="reacted", detail=" ".join(result)), *_loss_entries(losses, now)]
        if target:
            write = target_update(message.id, leg.id, {"reactions": tuple(result)}, trace)
        else:
            write = update(message.id, {"source_reactions": tuple(result)})
        await self._messages.write([write])
        return Done()

    async def _set_reaction(
        self,
        scene: Scene,
        channel: Reacts,
        external_id: str,
        place: Place,
        emoji: str,
        *,
        added: bool,
    ) -> Sequence[Loss]:
        return await self._calls.run(
            channel.react(external_id, place, emoji, scene.account, added=added),
            scene.integration.id,
            before=self._before(scene),
        )

    async def signal(self, change: Change, leg: Leg) -> None:
        """Show that somebody types. Raises as `apply`."""
        channel = self._accounts.channel(leg.provider)
        if not isinstance(channel, Signals):
            return
        integration = await self._accounts.find(change.workspace, leg.provider, leg.account)
        operation = channel.signal(Place(leg.conversation), channel_account(integration))
        await self._calls.run(operation, integration.id)

    # Steps

    def _before(self, scene: Scene, *, marks: bool = False) -> BeforeStep:
        """Return what is awaited before each step: the pace, and the mark of the visible step."""

        async def before(step: Step) -> None:
            key, conversation = scene.change.account_key, scene.leg.conversation
            scene.change.method = step.method
            while delay := self._pace.take(key, scene.spec, step.method, conversation):
                if delay > _MAX_HOLD_S:
                    reason = "The provider allows no more calls for now: the hub waits."
                    metrics.SYNC_WAITS.labels(scene.leg.provider, "pace").inc()
                    raise Stopped(Waits(delay, reason, counts=False))
                await asyncio.sleep(delay)
            if step.visible and marks:
                fields = {"state": "sending", "sending_at": utcnow()}
                await self._messages.write([target_update(scene.message.id, scene.leg.id, fields)])
                failpoint("carry.sending")

        return before

    def block(self, change: Change, leg: Leg, failure: ChannelFailure) -> None:
        """Obey the pause that a provider has asked for, for what it named."""
        self._pace.block(
            change.account_key, failure.scope, change.method, leg.conversation, failure.retry_after or 0.0
        )

    # What is stored of outcomes

    async def note_waiting(
        self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str, *, unknown: bool
    ) -> None:
        """Store why a change waits, unless that is known already."""
        target = message.targets.get(leg.id)
        if target is None:
            return
        is_message = change.request.kind == "message"
        fields: dict[str, Any] = {"code": code, "reason": text, "attempts": change.attempts + 1}
        if is_message and not unknown:
            fields["state"] = "waiting"  # the provider has refused: nobody has seen it
        entry = TraceEntry(at=utcnow(), step="waiting", attempt=change.attempts + 1, detail=text)
        trace = () if (target.code, target.reason) == (code, text) else (entry,)
        await self._messages.write([target_update(message.id, leg.id, fields, trace)])

    async def note_failed(
        self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str, *, unknown: bool
    ) -> None:
        """Store that a change was given up, and tell the chat."""
        target = message.targets.get(leg.id)
        if target is None:
            return
        problem, _, fix = text.partition(": ")
        entry = TraceEntry(at=utcnow(), step="failed", attempt=change.attempts + 1, detail=text)
        fields: dict[str, Any] = {"code": code, "reason": problem, "fix": fix or None}
        if change.request.kind == "message":
            fields["state"] = "unknown" if unknown else "failed"
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])
        metrics.SYNC_FAILED.labels(leg.provider).inc()
        await self._status.publish(change, message, leg, target.model_copy(update=fields))

    async def note_skipped(
        self, change: Change, message: SyncedMessage, leg: Leg, code: str, text: str
    ) -> None:
        """Store that the provider cannot do what a change asks for."""
        entry = TraceEntry(at=utcnow(), step="skipped", detail=text)
        fields: dict[str, Any] = {"code": code, "reason": text}
        if change.request.kind == "message":
            fields["state"] = "skipped"
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])

    async def note_gone(self, change: Change, message: SyncedMessage, leg: Leg, text: str) -> None:
        """Store that a message is not at its target any more."""
        fields: dict[str, Any] = {} if change.request.kind == "message" else {"state": "deleted"}
        entry = TraceEntry(at=utcnow(), step="deleted", detail=text)
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])

    async def _note(self, message: SyncedMessage, leg: Leg, step: Any, **fields: Any) -> None:
        entry = TraceEntry(at=utcnow(), step=step)
        await self._messages.write([target_update(message.id, leg.id, fields, [entry])])


def first_id(part: str) -> str:
    """Return the id of a part that is edited and answered."""
    return part.split(PART_SEPARATOR, 1)[0]


def _loss_entries(losses: Sequence[Loss], at: datetime) -> list[TraceEntry]:
    """Return the entry for what the target could not show, if there is any."""
    if not losses:
        return []
    unique = dict.fromkeys(f"{loss.node}: {loss.shown_as}" for loss in losses)
    return [TraceEntry(at=at, step="lost_formatting", detail="; ".join(unique)[:500])]

"""One change with all that it needs at its target, and the provider calls that are made for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

from services.sync.carry.outcomes import Change, Done, Outcome, SetAside, Stopped, Waits
from services.sync.carry.pace import Pace
from services.sync.model.mapping import Leg, link_id
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.marker import marker_for
from services.sync.model.synced_message import MessageLink, SyncedMessage, Target
from services.sync.store.messages import SyncedMessages, target_update
from shared.connections.channel_calls import BeforeStep, ChannelCalls, LocalFile
from shared.connections.integration_record import Integration
from shared.manifests.channel_models import ChannelSpec
from shared.manifests.channel_types import (
    Account,
    ChannelFailure,
    FindsSent,
    Operation,
    Outgoing,
    Person,
    Place,
    Sent,
    Step,
)
from shared.richtext.runs import paragraphs_of, text_runs, with_mark
from shared.richtext.tree import Bold, Document
from shared.runtime import metrics
from shared.runtime.clock import utcnow
from shared.runtime.failpoints import failpoint

T = TypeVar("T")
_MAX_HOLD_S: Final = 2.0
"""Maximum wait in memory for the rate limiter, in seconds. A change that has to wait longer is stored."""
WAIT_S: Final = 1.0
"""Pause before a change that depends on another message is retried, in seconds."""
FIND_MARGIN: Final = timedelta(seconds=60)
"""How much earlier than the hub's clock a provider may have stamped a message."""
LATE: Final = timedelta(seconds=60)
"""The longest time that a change waits for the message that it depends on."""
NOT_SENT: Final = "Its message could not be sent."
"""The reason of a failed change whose message has failed: a retry of the message retries both."""
PART_SEPARATOR: Final = ","
"""Between the ids of one part, of an album: the first is the one that is edited."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A change with its target: the mapping and leg, the stored message, the account and its channel."""

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


class SceneCalls:
    """Makes the calls of an account's operations at the rates of its provider."""

    def __init__(self, calls: ChannelCalls, messages: SyncedMessages, pace: Pace) -> None:
        self._calls = calls
        self._messages = messages
        self._pace = pace

    async def run(
        self,
        scene: Scene,
        operation: Operation[T],
        *,
        marks: bool = False,
        files: Mapping[str, LocalFile] | None = None,
    ) -> T:
        """Run an operation for a change. With `marks`, store `sending_at` before the visible step.

        Raises `Stopped` if it has to wait for the provider's rates, and as `ChannelCalls.run`.
        """
        before = self._before(scene, marks=marks)
        return await self._calls.run(operation, scene.integration.id, before=before, files=files)

    async def run_now(
        self, change: Change, leg: Leg, spec: ChannelSpec, operation: Operation[T], integration_id: str
    ) -> T:
        """Run an operation that is useless later, such as a typing signal.

        Raises `Stopped` if the provider's rates do not allow it now, and as `ChannelCalls.run`.
        """

        async def before(step: Step) -> None:
            if self._pace.take(change.rate_key, spec, step.method, leg.conversation):
                raise Stopped(Done())

        return await self._calls.run(operation, integration_id, before=before)

    def _before(self, scene: Scene, *, marks: bool) -> BeforeStep:
        """Return the function to await before each step: it obeys the rates, and stores `sending_at`."""

        async def before(step: Step) -> None:
            key, conversation, lane = scene.change.rate_key, scene.leg.conversation, scene.change.lane
            scene.change.method = step.method
            while delay := self._pace.take(key, scene.spec, step.method, conversation, lane):
                if delay > _MAX_HOLD_S:
                    reason = "The provider allows no more calls for now: the hub waits."
                    metrics.SYNC_WAITS.labels(scene.leg.provider, "pace").inc()
                    raise Stopped(Waits(delay, reason, counts=False))
                await asyncio.sleep(delay)
            if step.visible and marks:
                fields: dict[str, Any] = {"sending_at": utcnow()}
                if (
                    scene.target is None or scene.target.state != "sent"
                ):  # an edit that adds a part leaves it `sent`
                    fields["state"] = "sending"
                await self._messages.write([target_update(scene.message.id, scene.leg.id, fields)])
                failpoint("carry.sending")

        return before

    def block(self, change: Change, leg: Leg, failure: ChannelFailure) -> None:
        """Block calls for the pause that a provider asked for, in the scope that it named."""
        self._pace.block(
            change.rate_key, failure.scope, change.method, leg.conversation, failure.retry_after or 0.0
        )

    async def part_id(self, scene: Scene, parts: Sequence[str], number: int) -> str:
        """Return the id of a part; if it is not known yet, find the part at the provider by its marker."""
        if parts[number]:
            return first_id(parts[number])
        channel, target = scene.channel, scene.target
        if isinstance(channel, FindsSent) and target is not None:
            since = (target.sent_at or utcnow()) - FIND_MARGIN
            marker = marker_for(scene.message.id, scene.leg.id, number, 0)
            place = Place(scene.leg.conversation, target.thread)
            found = await self.run(scene, channel.find_sent(marker, place, since.timestamp(), scene.account))
            if found is not None and found.external_ids:
                return found.external_ids[0]
        raise ChannelFailure("gone", "unknown_id", "The provider does not tell where the message is.")

    async def link(self, scene: Scene, sent: Sent, part: int) -> None:
        """Store the links of a part's ids. Do this first: the provider's events about it may be fast."""
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
                    related_ids=(external_id,),
                    expires_at=message.expires_at,
                )
                for external_id in sent.external_ids
            ]
        )


def unsent_message_outcome(scene: Scene) -> Outcome:
    """Return the outcome of a change to a message that the target does not have yet: it is set aside."""
    if utcnow() - scene.change.received_at > LATE:
        return SetAside(60.0, "Its message waits.")
    return SetAside(WAIT_S, "Its message is not sent yet.")


def first_id(part: str) -> str:
    """Return the id that edits and replies of a part use: the first one of an album."""
    return part.split(PART_SEPARATOR, 1)[0]


def with_author(scene: Scene, body: Document) -> Document:
    """Return a text with the author's name before it, if the mapping's `name_style` is `prefix`."""
    options, author = scene.mapping.options, scene.change.request.author
    if options.name_style != "prefix":
        return body
    name = f"{options.prefix}{author.name or author.id}"
    heading = paragraphs_of(with_mark(text_runs(name), Bold))
    return Document((*heading, *body.blocks))


def outgoing_part(scene: Scene, body: Document, place: Place, marker: str) -> Outgoing:
    """Return one part of a message for its target, without files."""
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

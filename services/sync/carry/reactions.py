"""Let a target show the reactions that people of the other legs have set."""

from collections.abc import Sequence

from services.sync.carry.notes import NO_PROBLEM, loss_entries
from services.sync.carry.outcomes import Done, Failed, Outcome
from services.sync.carry.scene import NOT_SENT, Scene, SceneCalls, unsent_message_outcome
from services.sync.model.synced_message import TraceEntry
from services.sync.store.messages import SyncedMessages, target_update, update
from shared.manifests.channel_types import (
    ChannelFailure,
    Place,
    Reacts,
)
from shared.richtext.tree import Loss
from shared.runtime.clock import utcnow


class ReactionSetter:
    """Sets and removes the hub's own reactions."""

    def __init__(self, calls: SceneCalls, messages: SyncedMessages) -> None:
        self._calls = calls
        self._messages = messages

    async def react(self, scene: Scene) -> Outcome:
        """Let the target show the reactions that people of the other legs have set, as far as it can."""
        message, target, leg = scene.message, scene.target, scene.leg
        is_source = message.leg == leg.id
        if message.deleted or not (is_source or target):
            return Done()
        if target is not None and target.state != "sent":
            if target.state in ("failed", "unknown"):
                return Failed(NOT_SENT)
            waits = target.state in ("waiting", "sending")
            return unsent_message_outcome(scene) if waits else Done()
        channel = scene.channel
        if not isinstance(channel, Reacts):
            raise ChannelFailure("unsupported", "react", "The hub cannot set reactions there.")
        limit = channel.reactions_per_message
        shown = list(target.reactions if target else message.source_reactions)
        unsure = list(target.unsure_reactions if target else message.unsure_source_reactions)
        if limit == 1 and unsure:  # each call replaces what is there: any of them may be
            shown, unsure = [], [*shown, *unsure]
        states = sorted(message.reactions.values(), key=lambda state: state.at)
        wanted = list(dict.fromkeys(state.emoji for state in states if state.added and state.leg != leg.id))
        staying = [emoji for emoji in shown if emoji in wanted]
        new = [emoji for emoji in wanted if emoji not in staying]
        room = len(new) if limit is None else max(0, limit - len(staying))
        new, left = new[:room], new[room:]
        result = [*staying, *new]
        replaced = limit == 1 and bool(new)
        possible = () if replaced else dict.fromkeys([*shown, *unsure])
        gone = [emoji for emoji in possible if emoji not in result]
        losses: list[Loss] = [Loss("reaction", f"not shown: {emoji}") for emoji in left]
        if gone or new:
            # The provider may apply a call without a response, and people may change the reaction before the
            # next attempt.
            await self._store(scene, staying, [*gone, *new])
            if target:
                external_id, thread = await self._calls.part_id(scene, target.parts, 0), target.thread
            else:
                external_id, thread = message.external_id, message.thread
            place = Place(leg.conversation, thread)
            for emoji in gone:
                losses += await self._set_reaction(scene, channel, external_id, place, emoji, added=False)
            for emoji in new:
                losses += await self._set_reaction(scene, channel, external_id, place, emoji, added=True)
        now = utcnow()
        trace = [TraceEntry(at=now, step="reacted", detail=" ".join(result)), *loss_entries(losses, now)]
        await self._store(scene, result, (), trace)
        return Done()

    async def _store(
        self, scene: Scene, shown: Sequence[str], unsure: Sequence[str], trace: Sequence[TraceEntry] = ()
    ) -> None:
        """Store which emoji the target shows, and which it may show."""
        if scene.target:
            fields = {"reactions": tuple(shown), "unsure_reactions": tuple(unsure)}
            solved = NO_PROBLEM if trace else {}
            write = target_update(scene.message.id, scene.leg.id, {**fields, **solved}, trace)
        else:
            fields = {"source_reactions": tuple(shown), "unsure_source_reactions": tuple(unsure)}
            write = update(scene.message.id, fields)
        await self._messages.write([write])

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
            scene, channel.react(external_id, place, emoji, scene.account, added=added)
        )

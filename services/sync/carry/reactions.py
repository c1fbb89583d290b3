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
        shown = list(target.reactions if target else message.source_reactions)
        states = sorted(message.reactions.values(), key=lambda state: state.at)
        wanted = list(dict.fromkeys(state.emoji for state in states if state.added and state.leg != leg.id))
        staying = [emoji for emoji in shown if emoji in wanted]
        limit = channel.reactions_per_message
        new = [emoji for emoji in wanted if emoji not in staying]
        room = len(new) if limit is None else max(0, limit - len(staying))
        result = [*staying, *new[:room]]
        if target:
            external_id, thread = await self._calls.part_id(scene, target.parts, 0), target.thread
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
        trace = [TraceEntry(at=now, step="reacted", detail=" ".join(result)), *loss_entries(losses, now)]
        if target:
            write = target_update(message.id, leg.id, {**NO_PROBLEM, "reactions": tuple(result)}, trace)
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
            scene, channel.react(external_id, place, emoji, scene.account, added=added)
        )

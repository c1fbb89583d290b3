"""Apply reactions: what each person has set is stored, and the targets follow it."""

from typing import Final

from services.sync.model.mapping import CHAT, Leg, Mapping
from services.sync.model.synced_message import (
    PersonReaction,
    SyncedMessage,
)
from services.sync.store.mapping_index import MappedLeg
from services.sync.translate.context import Context
from services.sync.translate.incoming import Incoming
from services.sync.translate.outputs import (
    reaction_record,
    requested_record,
)
from shared.contracts.chat import ChatAuthor
from shared.contracts.ids import derive
from shared.manifests.channel_types import (
    Person,
    ReactionChanged,
)

_MAX_REACTIONS: Final = 200
"""Reactions of one message that are followed."""


class Reactions:
    """Applies reactions."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def react(self, incoming: Incoming, change: ReactionChanged, mapped: MappedLeg) -> None:
        """Apply a reaction: what each person has set is stored, and the targets follow it."""
        mapping, leg = mapped
        if not (mapping.options.reactions and leg.sends):
            return
        state = self._context.state
        synced_id, _ = self._context.locate(incoming.ref, change.conversation, change.external_id, mapped)
        message = state.message(synced_id)
        if message is None:
            message = state.add(self._context.placeholder(synced_id, incoming, change.external_id, mapped))
        if incoming.ref.provider == CHAT and (incoming.repeats or _is_mirrored(message, leg, change)):
            self._context.echoes += 1
            return
        key = derive(leg.id, change.person.id, change.emoji)[:16]
        known = message.reactions.get(key)
        if known is not None and known.at > change.at:
            return
        if known is None and len(message.reactions) >= _MAX_REACTIONS:
            # Removed ones are stored only to recognize earlier events that come late.
            removed = [(it.at, name) for name, it in message.reactions.items() if not it.added]
            if not removed:
                return
            message = state.remove_reaction(message, min(removed)[1])
        author = self._context.author(incoming.ref, change.person)
        reaction = PersonReaction(
            leg=leg.id,
            person=change.person.id,
            name=author.name,
            emoji=change.emoji,
            added=change.added,
            at=change.at,
        )
        message = state.set_reaction(message, key, reaction)
        if not message.has_come or message.deleted:
            return
        for target in mapping.legs:
            if target.id != leg.id and target.provider == CHAT and target.receives:
                state.records.append(
                    reaction_record(
                        message, mapping, target, incoming, change.emoji, author, added=change.added
                    )
                )
        self._request(message, mapping, incoming, except_leg=leg.id)

    def _request(
        self, message: SyncedMessage, mapping: Mapping, incoming: Incoming, except_leg: str = ""
    ) -> None:
        author = ChatAuthor(id=message.author_id or "unknown", name=message.author_name)
        for target in mapping.legs:
            if target.id == except_leg or target.provider == CHAT or not target.receives:
                continue
            self._context.state.records.append(
                requested_record("reaction", message, target, incoming, author=author)
            )

    # What comes back

    def send_all(self, message: SyncedMessage, mapping: Mapping, incoming: Incoming) -> None:
        """Publish the reactions that came before their message, in its conversation."""
        for reaction in message.reactions.values():
            if not reaction.added or reaction.leg != message.leg:
                continue
            author = self._context.author(incoming.ref, Person(reaction.person, reaction.name))
            for target in mapping.legs:
                if target.provider == CHAT and target.id in message.targets:
                    self._context.state.records.append(
                        reaction_record(
                            message, mapping, target, incoming, reaction.emoji, author, added=True
                        )
                    )
        self._request(message, mapping, incoming)


def _is_mirrored(message: SyncedMessage, leg: Leg, change: ReactionChanged) -> bool:
    """Return whether somebody of another leg has set or removed the same: the chat repeats what it got."""
    return any(
        known.leg != leg.id and known.person == change.person.id and known.emoji == change.emoji
        for known in message.reactions.values()
    )

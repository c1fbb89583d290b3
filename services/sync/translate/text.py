"""The text of a message for one target: with the target's ids of the people and channels that it mentions."""

from collections.abc import Callable, Mapping
from typing import Final

from services.sync.accounts import AccountRef
from services.sync.model.mapping import CHAT, Leg, Options
from services.sync.store.mapping_index import MappingIndex
from shared.contracts.chat import ChatAuthor
from shared.richtext.degrade import everyone_text
from shared.richtext.markdown_render import render_markdown
from shared.richtext.mentions import map_mentions, mentioned
from shared.richtext.tree import (
    ChannelMention,
    Document,
    EveryoneMention,
    GroupMention,
    Inline,
    Text,
    UserMention,
)

MAX_TEXT: Final = 40_000
Names = Callable[[AccountRef, str], str]
"""Returns the name of a person of an account; '' if it is not known."""


class People:
    """The links of a batch between people of providers and users of the chat."""

    def __init__(
        self, users: Mapping[tuple[AccountRef, str], str], persons: Mapping[tuple[AccountRef, str], str]
    ) -> None:
        """`users` are users of the chat by person, `persons` are people of an account by user of the chat."""
        self._users = users
        self._persons = persons

    def user_of(self, ref: AccountRef, person: str) -> str | None:
        """Return the user of the chat that a person is; None if they are not linked."""
        return person if ref.provider == CHAT else self._users.get((ref, person))

    def person_of(self, ref: AccountRef, user: str) -> str | None:
        """Return the person of an account that a user of the chat is; None if they are not linked."""
        return user if ref.provider == CHAT else self._persons.get((ref, user))


def mass_mentions_allowed(options: Options, author: ChatAuthor) -> bool:
    """Return whether a message of this author may mention everyone at its targets."""
    return options.mass_mentions == "everyone" or (
        options.mass_mentions == "linked_users" and author.user_id is not None
    )


def text_for(
    body: Document,
    source: AccountRef,
    target: Leg,
    *,
    people: People,
    names: Names,
    index: MappingIndex,
    mass_mentions: bool,
) -> str:
    """Return a text as Markdown with the ids of a target. Whom the target does not know is plain text."""
    ref = AccountRef(source.workspace, target.provider, target.account)
    if ref == source and mass_mentions:
        return render_markdown(body).text[:MAX_TEXT]

    def user(node: UserMention) -> Inline:
        label = node.label or names(source, node.id)
        if ref == source:
            return UserMention(node.id, label)
        chat_user = people.user_of(source, node.id)
        person = people.person_of(ref, chat_user) if chat_user else None
        return UserMention(person, label) if person else Text(f"@{label or node.id}")

    def channel(node: ChannelMention) -> Inline:
        if ref == source:
            return node
        for mapped in index.find(source.workspace, source.provider, source.account, node.id):
            for leg in mapped.mapping.legs:
                if (leg.provider, leg.account) == (target.provider, target.account):
                    return ChannelMention(leg.conversation, leg.name or node.label)
        return Text(f"#{node.label or node.id}")

    def group(node: GroupMention) -> Inline:
        return node if ref == source else Text(f"@{node.label or node.id}")

    def everyone(node: EveryoneMention) -> Inline:
        return node if mass_mentions else Text(everyone_text(node.scope))

    document = map_mentions(body, user=user, channel=channel, group=group, everyone=everyone)
    return render_markdown(document).text[:MAX_TEXT]


def has_mentions(body: Document) -> bool:
    """Return whether a text differs from target to target."""
    found = mentioned(body)
    return bool(found.users or found.channels or found.groups or found.everyone)

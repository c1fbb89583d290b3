"""The text of a message for one target: with the target's ids of the people and channels that it mentions."""

from collections.abc import Callable, Mapping

from services.sync.model.mapping import CHAT, Leg, Options
from services.sync.store.mapping_index import MappingIndex
from shared.connections.channel_accounts import AccountRef
from shared.contracts.chat import ChatAuthor
from shared.contracts.chat_limits import MAX_TEXT_CHARACTERS
from shared.richtext.markdown_render import cut_markdown, render_markdown
from shared.richtext.mentions import resolve_mentions
from shared.richtext.tree import ChannelMention, Document, UserMention

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
        return markdown_of(body)

    def user(node: UserMention) -> tuple[str, str]:
        label = node.label or names(source, node.id)
        if ref == source:
            return node.id, label
        chat_user = people.user_of(source, node.id)
        return (people.person_of(ref, chat_user) if chat_user else None) or "", label

    def channel(node: ChannelMention) -> tuple[str, str]:
        if ref == source:
            return node.id, node.label
        for mapped in index.find(source.workspace, source.provider, source.account, node.id):
            for leg in mapped.mapping.legs:
                if (leg.provider, leg.account) == (target.provider, target.account):
                    return leg.conversation, leg.name or node.label
        return "", node.label

    return markdown_of(
        resolve_mentions(body, user=user, channel=channel, groups=ref == source, mass_mentions=mass_mentions)
    )


def markdown_of(document: Document) -> str:
    """Return a document as Markdown, cut to the length that a message of the chat may have."""
    text = render_markdown(document).text
    return text if len(text) <= MAX_TEXT_CHARACTERS else cut_markdown(document, MAX_TEXT_CHARACTERS)

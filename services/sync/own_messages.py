"""Short messages of the hub itself in conversations: no hub forwards them."""

from typing import Final

from services.sync.chat_inbound import SOURCE, inbound_record
from services.sync.model.mapping import Leg, Mapping
from shared.contracts.chat import MESSAGE_CREATED, ChatAuthor, ChatMessage, ChatOrigin
from shared.contracts.envelope import now
from shared.contracts.ids import derive, message_id_for
from shared.manifests.channel_types import Outgoing, Person, Place
from shared.richtext.markdown_render import render_markdown
from shared.richtext.tree import Document, Paragraph, Text
from shared.runtime.kafka.producer import Record
from shared.runtime.tracing import continue_trace

_AUTHOR: Final = "Interlink"


def _document(text: str) -> Document:
    """Return a plain text: names and reasons in it are those of others, and mention nobody."""
    return Document((Paragraph((Text(text),)),))


def own_message(place: Place, text: str, event_id: str) -> Outgoing:
    """Return a message of the hub for a provider."""
    return Outgoing(
        place=place,
        body=_document(text),
        author=Person(_AUTHOR, _AUTHOR, bot=True),
        # An event brings it back: the marker says that it is the hub's own, and of no mapping.
        marker=derive(event_id),
        show_author=False,
    )


def own_chat_record(
    mapping: Mapping,
    leg: Leg,
    text: str,
    event_id: str,
    *,
    thread: str | None = None,
    reply_to: str | None = None,
) -> Record:
    """Return the record of a message of the hub for a channel of the chat."""
    message = ChatMessage(
        message_id=message_id_for(event_id),
        channel_id=leg.conversation,
        text=render_markdown(_document(text)).text,
        author=ChatAuthor(id=f"author_{derive(SOURCE, _AUTHOR)}", name=_AUTHOR, bot=True),
        thread_id=thread,
        reply_to_id=reply_to,
        origin=ChatOrigin(mapping_id=mapping.id),
        created_at=now(),
    )
    return inbound_record(
        MESSAGE_CREATED,
        message,
        leg.conversation,
        event_id=event_id,
        workspace=mapping.workspace,
        time=now(),
        traceparent=continue_trace(""),
    )

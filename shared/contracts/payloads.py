"""What events carry as data, by the platform that they come from: the models behind the event types' schemas.

Strict about what a receiver relies on, open for everything else: platforms add fields, and the older of
two versions still has to be taken. Ids are texts or numbers, as the platform has them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

Id = str | int


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class _Camel(_Open):
    """The chat's own spelling: `channelId`."""

    model_config = ConfigDict(alias_generator=to_camel)


class Change(_Open):
    """What a field was and is."""

    previous_value: Any = None
    current_value: Any = None


class Person(_Camel):
    """Somebody, by id."""

    id: Id
    username: str | None = None
    name: str | None = None


class Thing(_Camel):
    """A channel, thread, file, call or integration, by id."""

    id: Id
    name: str | None = None


# The chat's own: the id in the data itself, or the thing inside it


class MessageRef(_Camel):
    """A message of the chat, by id; `changed` says what an update changed."""

    message_id: Id
    channel_id: Id
    content: str | None = None
    changed: dict[str, Change] | None = None


class WholeMessage(_Camel):
    id: Id
    channel_id: Id
    content: str | None = None


class MessageInside(_Camel):
    """A message as the chat keeps it, with its channel beside it."""

    message: WholeMessage
    channel: Thing | None = None
    user: Person | None = None


class Reaction(_Camel):
    """Somebody's reaction to a message."""

    message_id: Id
    emoji: str
    channel_id: Id | None = None
    user: Person | None = None


class ChannelRef(_Camel):
    channel_id: Id
    name: str | None = None
    changed: dict[str, Change] | None = None


class ChannelInside(_Camel):
    channel: Thing
    actor: Person | None = None


class UserRef(_Camel):
    user_id: Id
    username: str | None = None
    channel_id: Id | None = None
    changed: dict[str, Change] | None = None


class UserInside(_Camel):
    user: Person
    channel: Thing | None = None


class StatusRef(UserRef):
    status: str


class StatusInside(UserInside):
    status: str


class ThreadRef(_Camel):
    thread_id: Id
    channel_id: Id | None = None
    changed: dict[str, Change] | None = None


class ThreadInside(_Camel):
    thread: Thing
    channel: Thing | None = None


class FileRef(_Camel):
    file_id: Id
    name: str | None = None
    channel_id: Id | None = None


class FileInside(_Camel):
    file: Thing
    user: Person | None = None


class CallRef(_Camel):
    call_id: Id
    channel_id: Id | None = None


class CallInside(_Camel):
    call: Thing
    channel: Thing | None = None


class ParticipantRef(CallRef):
    user_id: Id
    username: str | None = None


class ParticipantInside(_Camel):
    call: Thing
    user: Person


class IntegrationRef(_Camel):
    """An integration, by id; `user` is the chat's own id of the person whose account it is."""

    integration_id: Id
    provider: str | None = None
    user: Id | None = None


class IntegrationTakenOver(IntegrationRef):
    """An integration that another user has connected, with the consent of its account."""

    previous_user: Id


class IntegrationInside(_Camel):
    integration: Thing
    provider: str | None = None


# Chatwoot's, as its `webhook_data` makes them


class Named(_Open):
    """An account, inbox or sender."""

    id: Id
    name: str | None = None


class ChatwootConversation(_Open):
    """A conversation; `id` is the number that people see."""

    id: Id
    status: str
    inbox_id: Id | None = None
    changed_attributes: list[dict[str, Change]] | None = None


class ConversationRef(_Open):
    id: Id


class ChatwootMessage(_Open):
    """A message in a conversation; an attachment alone has no content, an activity no sender."""

    id: Id
    message_type: Id
    conversation: ConversationRef
    content: str | None = None
    sender: Named | None = None
    inbox: Named | None = None
    account: Named | None = None


class ChatwootTyping(_Open):
    conversation: ConversationRef
    user: Named
    is_private: bool = False


class ChatwootContact(_Open):
    id: Id
    name: str | None = None
    email: str | None = None
    account: Named | None = None
    changed_attributes: list[dict[str, Change]] | None = None


class ChatwootInbox(_Open):
    """An inbox's settings: Chatwoot sends its channel, but neither its id nor its name."""

    channel: dict[str, Any]
    changed_attributes: list[dict[str, Change]] | None = None


class InboxRef(Named):
    changed_attributes: list[dict[str, Change]] | None = None


class ChatwootWidget(_Open):
    """A visitor opened the widget: the visitor as a contact of an inbox."""

    source_id: str
    contact: Named | None = None
    inbox: Named | None = None
    account: Named | None = None
    current_conversation: ConversationRef | None = None
    event_info: dict[str, Any] | None = None


# The hub's own


class WebhookTest(_Open):
    message: str


class WebhookFailing(_Open):
    """Nothing but failures since `failing_since`; at `disables_at` the webhook is disabled."""

    webhook_id: str
    name: str
    failing_since: str
    disables_at: str
    last_error: str | None = None


class WebhookDisabled(_Open):
    webhook_id: str
    name: str
    reason: str
    failing_since: str | None = None
    last_error: str | None = None

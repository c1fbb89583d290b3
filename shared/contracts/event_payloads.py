"""What events carry as data, by the platform that they come from: the models behind the event types' schemas.

Strict about what a receiver relies on, open for everything else: platforms add fields, and the older of
two versions still has to be taken. Ids are texts or numbers, as the platform has them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

Id = str | int


class _OpenModel(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class _CamelCaseModel(_OpenModel):
    """The chat's own spelling: `channelId`."""

    model_config = ConfigDict(alias_generator=to_camel)


class FieldChange(_OpenModel):
    """What a field was and is."""

    previous_value: Any = None
    current_value: Any = None


class UserObject(_CamelCaseModel):
    """Somebody, by id."""

    id: Id
    username: str | None = None
    name: str | None = None


class NamedObject(_CamelCaseModel):
    """A channel, thread, file, call or integration, by id."""

    id: Id
    name: str | None = None


# The chat's own: the id in the data itself, or the thing inside it


class MessageRef(_CamelCaseModel):
    """A message of the chat, by id; `changed` says what an update changed."""

    message_id: Id
    channel_id: Id
    content: str | None = None
    changed: dict[str, FieldChange] | None = None


class MessageObject(_CamelCaseModel):
    id: Id
    channel_id: Id
    content: str | None = None


class NestedMessage(_CamelCaseModel):
    """A message as the chat keeps it, with its channel beside it."""

    message: MessageObject
    channel: NamedObject | None = None
    user: UserObject | None = None


class Reaction(_CamelCaseModel):
    """Somebody's reaction to a message."""

    message_id: Id
    emoji: str
    channel_id: Id | None = None
    user: UserObject | None = None


class ChannelRef(_CamelCaseModel):
    channel_id: Id
    name: str | None = None
    changed: dict[str, FieldChange] | None = None


class NestedChannel(_CamelCaseModel):
    channel: NamedObject
    actor: UserObject | None = None


class UserRef(_CamelCaseModel):
    user_id: Id
    username: str | None = None
    channel_id: Id | None = None
    changed: dict[str, FieldChange] | None = None


class NestedUser(_CamelCaseModel):
    user: UserObject
    channel: NamedObject | None = None


class StatusRef(UserRef):
    status: str


class NestedStatus(NestedUser):
    status: str


class ThreadRef(_CamelCaseModel):
    thread_id: Id
    channel_id: Id | None = None
    changed: dict[str, FieldChange] | None = None


class NestedThread(_CamelCaseModel):
    thread: NamedObject
    channel: NamedObject | None = None


class FileRef(_CamelCaseModel):
    file_id: Id
    name: str | None = None
    channel_id: Id | None = None


class NestedFile(_CamelCaseModel):
    file: NamedObject
    user: UserObject | None = None


class CallRef(_CamelCaseModel):
    call_id: Id
    channel_id: Id | None = None


class NestedCall(_CamelCaseModel):
    call: NamedObject
    channel: NamedObject | None = None


class ParticipantRef(CallRef):
    user_id: Id
    username: str | None = None


class NestedParticipant(_CamelCaseModel):
    call: NamedObject
    user: UserObject


class IntegrationRef(_CamelCaseModel):
    """An integration, by id; `user` is the chat's own id of the person whose account it is."""

    integration_id: Id
    provider: str | None = None
    user: Id | None = None


class IntegrationTakenOver(IntegrationRef):
    """An integration that another user has connected, with the consent of its account."""

    previous_user: Id


class NestedIntegration(_CamelCaseModel):
    integration: NamedObject
    provider: str | None = None


# Chatwoot's, as its `webhook_data` makes them


class ChatwootReference(_OpenModel):
    """An account, inbox or sender."""

    id: Id
    name: str | None = None


class ChatwootConversation(_OpenModel):
    """A conversation; `id` is the number that people see."""

    id: Id
    status: str
    inbox_id: Id | None = None
    changed_attributes: list[dict[str, FieldChange]] | None = None


class ConversationRef(_OpenModel):
    id: Id


class ChatwootMessage(_OpenModel):
    """A message in a conversation; an attachment alone has no content, an activity no sender."""

    id: Id
    message_type: Id
    conversation: ConversationRef
    content: str | None = None
    sender: ChatwootReference | None = None
    inbox: ChatwootReference | None = None
    account: ChatwootReference | None = None


class ChatwootTyping(_OpenModel):
    conversation: ConversationRef
    user: ChatwootReference
    is_private: bool = False


class ChatwootContact(_OpenModel):
    id: Id
    name: str | None = None
    email: str | None = None
    account: ChatwootReference | None = None
    changed_attributes: list[dict[str, FieldChange]] | None = None


class ChatwootInbox(_OpenModel):
    """An inbox's settings: Chatwoot sends its channel, but neither its id nor its name."""

    channel: dict[str, Any]
    changed_attributes: list[dict[str, FieldChange]] | None = None


class InboxRef(ChatwootReference):
    changed_attributes: list[dict[str, FieldChange]] | None = None


class ChatwootWidget(_OpenModel):
    """A visitor opened the widget: the visitor as a contact of an inbox."""

    source_id: str
    contact: ChatwootReference | None = None
    inbox: ChatwootReference | None = None
    account: ChatwootReference | None = None
    current_conversation: ConversationRef | None = None
    event_info: dict[str, Any] | None = None


# The hub's own


class WebhookTest(_OpenModel):
    message: str


class WebhookFailing(_OpenModel):
    """Nothing but failures since `failing_since`; at `disables_at` the webhook is disabled."""

    webhook_id: str
    name: str
    failing_since: str
    disables_at: str
    last_error: str | None = None


class WebhookDisabled(_OpenModel):
    webhook_id: str
    name: str
    reason: str
    failing_since: str | None = None
    last_error: str | None = None

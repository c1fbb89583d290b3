"""Models of events' data, from which the schemas of the event types are made, grouped by producer.

They are strict about the fields that subscribers rely on, and allow all others: producers add fields, and
data of an older version must still be accepted. Ids are texts or numbers, as the producer has them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from shared.contracts.messages import TimeText

Id = str | int


class _OpenModel(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class _CamelCaseModel(_OpenModel):
    """Fields are in camel case, as the chat writes them: `channelId`."""

    model_config = ConfigDict(alias_generator=to_camel)


class FieldChange(_OpenModel):
    """The value of a field before and after an update."""

    previous_value: Any = None
    current_value: Any = None


class UserObject(_CamelCaseModel):
    """A user, by id."""

    id: Id
    username: str | None = None
    name: str | None = None


class NamedObject(_CamelCaseModel):
    """A channel, thread, file, call or integration, by id."""

    id: Id
    name: str | None = None


# The chat's own events: the data has an id (`...Ref`), or the whole object (`Nested...`)


class MessageRef(_CamelCaseModel):
    """A message of the chat, by id. `changed` has the fields that an update changed."""

    message_id: Id
    channel_id: Id
    content: str | None = None
    changed: dict[str, FieldChange] | None = None


class MessageObject(_CamelCaseModel):
    id: Id
    channel_id: Id
    content: str | None = None


class NestedMessage(_CamelCaseModel):
    """A message as the chat stores it, with its channel."""

    message: MessageObject
    channel: NamedObject | None = None
    user: UserObject | None = None


class Reaction(_CamelCaseModel):
    """A user's reaction to a message."""

    message_id: Id
    emoji: str
    channel_id: Id | None = None
    user: UserObject | None = None


class MessageIdObject(_CamelCaseModel):
    id: Id


class NestedReaction(_CamelCaseModel):
    """A user's reaction, with the message as an object."""

    message: MessageIdObject
    emoji: str
    channel: NamedObject | None = None
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
    """An integration, by id. `user` is the chat's id of the person who connected the account."""

    integration_id: Id
    provider: str | None = None
    user: Id | None = None
    tags: list[str] | None = None
    metadata: dict[str, str] | None = None


class IntegrationExpiring(IntegrationRef):
    """An integration whose grant ends soon, however often its tokens are refreshed."""

    reconnect_by: TimeText


class IntegrationTakenOver(IntegrationRef):
    """An integration that another user of the same account has taken over."""

    previous_user: Id


class NestedIntegration(_CamelCaseModel):
    integration: NamedObject
    provider: str | None = None


# Chatwoot's events, as its `webhook_data` writes them


class ChatwootReference(_OpenModel):
    """An account, inbox or sender."""

    id: Id
    name: str | None = None


class ChatwootConversation(_OpenModel):
    """A conversation. `id` is the number that people see."""

    id: Id
    status: str
    inbox_id: Id | None = None
    changed_attributes: list[dict[str, FieldChange]] | None = None


class ConversationRef(_OpenModel):
    id: Id


class ChatwootMessage(_OpenModel):
    """A message in a conversation. An attachment alone has no content, an activity has no sender."""

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
    """An inbox's settings. Chatwoot sends its channel, but neither its id nor its name."""

    channel: dict[str, Any]
    changed_attributes: list[dict[str, FieldChange]] | None = None


class InboxRef(ChatwootReference):
    changed_attributes: list[dict[str, FieldChange]] | None = None


class ChatwootWidget(_OpenModel):
    """A visitor who opened the widget, as a contact of an inbox."""

    source_id: str
    contact: ChatwootReference | None = None
    inbox: ChatwootReference | None = None
    account: ChatwootReference | None = None
    current_conversation: ConversationRef | None = None
    event_info: dict[str, Any] | None = None


# The hub's own events


class WebhookTest(_OpenModel):
    message: str


class WebhookFailing(_OpenModel):
    """An outgoing webhook that has only failed since `failing_since`. It is disabled at `disables_at`.

    `delivery_id`, `event_id` and `event_type` are of the last delivery that failed. `payload` is the body of
    that delivery, null if it has more than 16 KiB.
    """

    webhook_id: str
    name: str
    metadata: dict[str, str] | None = None
    delivery_id: str | None = None
    event_id: str | None = None
    event_type: str | None = None
    payload: Any = None
    failing_since: TimeText
    disables_at: TimeText
    last_error: str | None = None


class WebhookDisabled(_OpenModel):
    webhook_id: str
    name: str
    metadata: dict[str, str] | None = None
    reason: str
    failing_since: TimeText | None = None
    last_error: str | None = None


class MappedLeg(_OpenModel):
    """A conversation of a mapping; `provider` is `chat` for a channel of the chat."""

    provider: str
    account: str
    conversation: str
    name: str = ""


class MappingRecovered(_OpenModel):
    mapping_id: str
    name: str
    legs: list[MappedLeg]
    at: TimeText


class MappingFailed(MappingRecovered):
    """A mapping that forwards nothing until a person has done what `fix` says."""

    reason: str
    fix: str


class WebhookSecretRotated(_OpenModel):
    """An outgoing webhook with a new secret. The old one is valid until `old_secret_expires_at`."""

    webhook_id: str
    name: str
    metadata: dict[str, str] | None = None
    rotated_at: TimeText
    old_secret_expires_at: TimeText | None = None


class EndpointSecretRotated(_OpenModel):
    """An inbound endpoint with a new secret, or an incoming webhook with a new token.

    The old one is accepted until `old_secret_expires_at`; null if it is not any more.
    """

    endpoint_id: str
    provider: str
    name: str
    rotated_at: TimeText
    old_secret_expires_at: TimeText | None = None

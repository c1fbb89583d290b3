"""`sync.requested`: one change for one target, from the stage that translates to the one that carries.

The key of a record is the target's account, so that all changes of an account have one consumer.
"""

from typing import Literal

from pydantic import Field

from shared.contracts.chat import ChatAttachment, ChatAuthor
from shared.contracts.messages import Payload, TimeText

Kind = Literal["message", "edit", "delete", "reaction", "signal"]


class SourceRef(Payload):
    """A message at its source: `provider` is `chat` for the chat, whose `account` is the workspace."""

    provider: str
    account: str
    conversation: str
    external_id: str


class SyncRequested(Payload):
    """A change of a message for one leg of a mapping. Repeated, it has the same `request_id`.

    `synced_id` is the message that the change is about, as the mapping has it, and `source` is where it was
    written. `thread_id` and `reply_to_id` are other messages of the mapping, which the target has under ids
    of its own; if one of them has not come yet, it may come until `wait_until`. `revision` orders the edits
    of a message. Which reactions a message has is in its record.
    """

    request_id: str
    mapping_id: str
    leg_id: str
    kind: Kind
    synced_id: str = ""
    source: SourceRef
    author: ChatAuthor
    text: str = ""
    attachments: list[ChatAttachment] = Field(default=[])
    thread_id: str | None = None
    reply_to_id: str | None = None
    wait_until: TimeText | None = None
    revision: int = 0
    broadcast: bool = False
    occurred_at: TimeText
    received_at: TimeText

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

    `source` is the message that the change is about. `revision` orders the edits of a message. `thread` and
    `reply_to` are messages of the source that the target has under other ids.
    """

    request_id: str
    mapping_id: str
    leg_id: str
    kind: Kind
    source: SourceRef
    author: ChatAuthor
    text: str = ""
    attachments: list[ChatAttachment] = Field(default=[])
    thread: SourceRef | None = None
    reply_to: SourceRef | None = None
    revision: int = 0
    emoji: str = ""
    added: bool = True
    broadcast: bool = False
    occurred_at: TimeText
    received_at: TimeText

"""The files of a message as the chat and the carrying stage get them."""

from collections.abc import Sequence

from services.sync.accounts import AccountRef
from services.sync.model.mapping import CHAT
from shared.contracts.chat import ChatAttachment
from shared.manifests.channel_types import ExternalFile


def chat_attachments(
    ref: AccountRef, _message_id: str, files: Sequence[ExternalFile]
) -> tuple[ChatAttachment, ...]:
    """Return the files of a message. Those of the chat have an address of their own."""
    if ref.provider != CHAT:
        return ()
    return tuple(
        ChatAttachment(
            id=file.id, url=file.ref, filename=file.filename, content_type=file.content_type, size=file.size
        )
        for file in files
    )

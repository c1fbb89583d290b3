"""The files of a message as the chat and the carrying stage get them."""

from collections.abc import Sequence

from services.sync.model.mapping import CHAT
from shared.connections.channel_accounts import AccountRef
from shared.connections.files.addresses import FileAddresses
from shared.contracts.chat import ChatAttachment
from shared.manifests.channel_types import ExternalFile


class MessageFiles:
    """Gives the files of providers addresses of the hub; those of the chat have addresses of their own."""

    def __init__(self, addresses: FileAddresses) -> None:
        self._addresses = addresses

    def attachments(
        self, ref: AccountRef, message_id: str, files: Sequence[ExternalFile]
    ) -> tuple[ChatAttachment, ...]:
        """Return the files of a message of an account, whose id in the chat is given."""
        if ref.provider == CHAT:
            return tuple(
                ChatAttachment(
                    id=file.id,
                    url=file.ref,
                    filename=file.filename,
                    content_type=file.content_type,
                    size=file.size,
                )
                for file in files
            )
        return tuple(
            self._addresses.attachment(*ref, message_id, index, file) for index, file in enumerate(files)
        )

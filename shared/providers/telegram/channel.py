"""Telegram's chats: what can be read from them and done in them. The parts are in this folder."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.manifests.channel_failures import checked, spec_failure, status_failure
from shared.manifests.channel_models import ChannelSpec
from shared.manifests.channel_types import (
    Account,
    Call,
    CallResponse,
    Change,
    ChannelFailure,
    Conversation,
    ExternalFile,
    Operation,
    Outgoing,
    Place,
    Sent,
    Step,
)
from shared.providers.telegram import operations
from shared.providers.telegram.events import parse_changes
from shared.providers.telegram.render import text_length
from shared.richtext.split import split
from shared.richtext.tree import Document, Loss

_MAX_HEADING: Final = 202
"""UTF-16 code units that are left for the line with the author's name."""
_NO_WORD: Final = re.compile(r"[^a-z0-9]+")
_UNCHANGED: Final = "message_is_not_modified"


class Channel:
    """Implements the Protocols of `channel_types.py` for Telegram."""

    reactions_per_message: int | None = 1

    def __init__(self, spec: ChannelSpec) -> None:
        self._spec = spec
        # Telegram's errors are sentences: the longest code that is in one decides.
        self._codes = sorted(spec.errors, key=len, reverse=True)

    def changes(self, event: str, payload: Mapping[str, Any], account: Account) -> Sequence[Change]:
        """Return the changes in an update. Raises `Malformed`."""
        return parse_changes(payload, account)

    def split(self, body: Document, *, files: int) -> Sequence[Document]:
        """Return the parts of a long text. Beside files, the first part is their caption."""
        limits = self._spec.limits
        text = limits.text - _MAX_HEADING
        caption = (limits.caption or limits.text) - _MAX_HEADING if files else text
        first, *others = split(body, limit=caption, measure=text_length) or (body,)
        if others and caption < text:
            left = Document(tuple(block for part in others for block in part.blocks))
            others = list(split(left, limit=text, measure=text_length))
        return (first, *others)[: limits.parts]

    def send(self, message: Outgoing, account: Account) -> Operation[Sent]:
        """Write a message."""
        return checked(operations.send(message), self.failure)

    def edit(self, external_id: str, message: Outgoing, account: Account) -> Operation[Sent]:
        """Replace a message's text or caption."""
        return checked(operations.edit(external_id, message), self.failure)

    def delete(self, external_id: str, place: Place, account: Account) -> Operation[None]:
        """Delete a message."""
        return checked(operations.delete(external_id, place), self.failure)

    def react(
        self, external_id: str, place: Place, emoji: str, account: Account, *, added: bool
    ) -> Operation[Sequence[Loss]]:
        """Set or remove the bot's reaction."""
        return checked(operations.react(external_id, place, emoji, added=added), self.failure)

    def download(self, file: ExternalFile, account: Account) -> Operation[Call]:
        """Return the call for a file's bytes."""
        return checked(operations.download(file), self.failure)

    def signal(self, place: Place, account: Account) -> Operation[None]:
        """Show that somebody types."""
        return checked(operations.signal(place), self.failure)

    def conversation(self, conversation_id: str, account: Account) -> Operation[Conversation]:
        """Look a chat up."""
        return checked(operations.conversation(conversation_id, account), self.failure)

    def failure(self, response: CallResponse, step: Step) -> ChannelFailure | None:
        """Classify a response: a sentence says what was wrong, and `parameters` how long to wait."""
        document = response.json if isinstance(response.json, dict) else {}
        if response.status < 400 and document.get("ok") is True:
            return None
        # The limit of a group counts its messages; Telegram does not say which limit was met.
        failure = status_failure(response, scope="conversation")
        if failure:
            parameters = document.get("parameters")
            pause = parameters.get("retry_after") if isinstance(parameters, dict) else None
            if isinstance(pause, int) and failure.retry_after is None:
                failure.retry_after = float(min(max(pause, 0), 3600))
            return failure
        if not document:
            return spec_failure(self._spec, "unreadable_response")
        description = str(document.get("description") or "")[:300]
        sentence = _NO_WORD.sub("_", description.lower()).strip("_")
        if _UNCHANGED in sentence:
            return None
        code = next((code for code in self._codes if code in sentence), f"error_{response.status}")
        return spec_failure(self._spec, code, fallback=description)

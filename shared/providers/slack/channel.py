"""Slack's conversations: what can be read from them and done in them. The parts are in this folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.manifests.channel_failures import checked, spec_failure, status_failure
from shared.manifests.channel_models import ChannelSpec, RateScope
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
    Page,
    Person,
    Place,
    Sent,
    Step,
)
from shared.providers.slack import lookups, operations
from shared.providers.slack.events import parse_changes
from shared.providers.slack.operations import field
from shared.providers.slack.render import text_length
from shared.providers.slack.responses import error_code
from shared.richtext.split import split
from shared.richtext.tree import Document, Loss

_IS_DONE = {"reactions.add": "already_reacted", "reactions.remove": "no_reaction"}
"""Errors that say that what was asked for is so already."""


class Channel:
    """Implements the Protocols of `channel_types.py` for Slack."""

    reactions_per_message: int | None = None

    def __init__(self, spec: ChannelSpec) -> None:
        self._spec = spec

    def changes(self, event: str, payload: Mapping[str, Any], account: Account) -> Sequence[Change]:
        """Return the changes in a payload of the Events API. Raises `Malformed`."""
        return parse_changes(payload, account)

    def split(self, body: Document, *, files: int) -> Sequence[Document]:
        """Return the parts of a long text. Beside files, Slack has the same limit."""
        limits = self._spec.limits
        return split(body, limit=limits.text, measure=text_length)[: limits.parts] or (body,)

    def send(self, message: Outgoing, account: Account) -> Operation[Sent]:
        """Write a message."""
        return checked(operations.send(message, account), self.failure)

    def edit(self, external_id: str, message: Outgoing, account: Account) -> Operation[Sent]:
        """Replace a message's text."""
        return checked(operations.edit(external_id, message, account), self.failure)

    def delete(self, external_id: str, place: Place, account: Account) -> Operation[None]:
        """Delete a message."""
        return checked(operations.delete(external_id, place), self.failure)

    def react(
        self, external_id: str, place: Place, emoji: str, account: Account, *, added: bool
    ) -> Operation[Sequence[Loss]]:
        """Set or remove a reaction."""
        return checked(operations.react(external_id, place, emoji, added=added), self.failure)

    def download(self, file: ExternalFile, account: Account) -> Operation[Call]:
        """Return the call for a file's bytes."""
        return checked(lookups.download(file), self.failure)

    def find_sent(self, marker: str, place: Place, since: float, account: Account) -> Operation[Sent | None]:
        """Look for a message by its marker."""
        return checked(lookups.find_sent(marker, place, since, account), self.failure)

    def history(self, place: Place, cursor: str | None, account: Account) -> Operation[Page]:
        """Return a page of a conversation's messages, the newest first."""
        return checked(lookups.history(place, cursor, account), self.failure)

    def conversations(self, query: str, cursor: str | None, account: Account) -> Operation[Page]:
        """Return a page of channels."""
        return checked(lookups.conversations(query, cursor), self.failure)

    def conversation(self, conversation_id: str, account: Account) -> Operation[Conversation]:
        """Look a conversation up."""
        return checked(lookups.conversation(conversation_id), self.failure)

    def people(self, query: str, cursor: str | None, account: Account) -> Operation[Page]:
        """Return a page of people."""
        return checked(lookups.people(query, cursor), self.failure)

    def profile(self, person_id: str, account: Account) -> Operation[Person]:
        """Look a person or a bot up."""
        return checked(lookups.profile(person_id), self.failure)

    def failure(self, response: CallResponse, step: Step) -> ChannelFailure | None:
        """Classify a response: Slack answers errors with status 200 and `ok: false`."""
        # Each method has a limit of its own; that of chat.postMessage counts for each conversation.
        scope: RateScope = "conversation" if step.method == "chat.postMessage" else "method"
        failure = status_failure(response, scope=scope)
        if failure:
            return failure
        if step.call.url:  # the address of an upload, which answers with text
            return None if response.status < 400 else spec_failure(self._spec, "upload_failed")
        code = error_code(response)
        if not code:
            return None
        if _IS_DONE.get(step.method) == code:
            return None
        failure = spec_failure(self._spec, code)
        needed = field(response, "needed")
        if code == "missing_scope" and isinstance(needed, str):
            failure.text = f"{failure.text} Missing: {needed[:200]}."
        return failure

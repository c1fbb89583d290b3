"""Complete an event's record when its direct requests have ended."""

from collections.abc import Callable
from typing import Protocol

from services.delivery.model.delivery import due_event
from shared.contracts.envelope import Event
from shared.contracts.ids import WebhookId
from shared.runtime.kafka.batch import Completion


class _Owner(Protocol):
    def is_lost(self, assignment: int) -> bool: ...
    def publish(self, request: "DirectRequest", event: Event) -> None: ...
    def end(self, request: "DirectRequest", error: Exception | None) -> None: ...


class DirectEvent:
    """The record of an event, complete when all of its direct requests have ended."""

    __slots__ = ("_completion", "_error", "_on_end", "open")

    def __init__(self, completion: Completion, count: int, on_end: Callable[[], None]) -> None:
        self._completion = completion
        self._on_end = on_end
        self._error: Exception | None = None
        self.open = count
        """Direct requests that have not ended."""

    @property
    def is_revoked(self) -> bool:
        """True if the event's partition was revoked: its next owner repeats the event."""
        return self._completion.is_revoked

    def end(self, error: Exception | None) -> None:
        """End one request. The record fails with an error of one of them."""
        self.open -= 1
        self._error = self._error or error
        if self.open:
            return
        if self._error is None:
            self._completion.done()
        else:
            self._completion.fail(self._error)
        self._on_end()


class DirectRequest:
    """The completion of a direct request, used like that of a record of `delivery.requested`."""

    __slots__ = ("_assignment", "_owner", "event", "source")

    def __init__(self, owner: _Owner, source: DirectEvent, event: Event, assignment: int) -> None:
        """Initialise; `assignment` is that of `delivery.requested` at the time."""
        self._owner = owner
        self._assignment = assignment
        self.source = source
        self.event = event

    @property
    def is_revoked(self) -> bool:
        """True if another process may own the webhook's partition by now."""
        return self._owner.is_lost(self._assignment)

    def done(self) -> None:
        """End the request, which is in the log.

        If the webhook's partition was lost before, its next owner may have looked for open deliveries too
        early: it has to look again.
        """
        if self.is_revoked:
            webhook_id = WebhookId(self.event.subject)
            self._owner.publish(self, due_event(webhook_id, self.event.workspace))
        else:
            self._owner.end(self, None)

    def fail(self, error: Exception) -> None:
        """End the request with an error, which dead-letters the event."""
        self._owner.end(self, error)

    def give_back(self) -> None:
        """Have the request attempted by the owner of the webhook's partition: it is not in the log."""
        self._owner.publish(self, self.event)

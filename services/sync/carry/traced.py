"""Spans of the attempts to apply a change at its target."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from services.sync.carry.outcomes import Change, Failed, Outcome

if TYPE_CHECKING:
    from shared.runtime.spans import Tracer


class TracedCarry:
    """Applies changes within spans, for those whose traces are recorded."""

    def __init__(self, carry: Callable[[Change], Awaitable[Outcome]], tracer: "Tracer") -> None:
        self._carry = carry
        self._tracer = tracer

    async def __call__(self, change: Change) -> Outcome:
        """Apply a change as `Carrier.carry` does. A retry is linked to the first attempt."""
        attributes: dict[str, str | int | bool] = {
            "interlink.workspace": change.workspace,
            "interlink.mapping_id": change.request.mapping_id,
            "interlink.change": change.request.kind,
            "interlink.attempt": change.attempts + 1,
        }
        link = change.first_attempt if change.attempts else ""
        span = self._tracer.start("carry", "client", change.traceparent, attributes, link=link)
        if span is None:
            return await self._carry(change)
        change.first_attempt = change.first_attempt or span.traceparent
        with span:
            outcome = await self._carry(change)
            span.set({"interlink.outcome": type(outcome).__name__.lower()})
            if change.method:
                span.set({"interlink.provider_method": change.method})
            span.end("failed" if isinstance(outcome, Failed) else None)
        return outcome

"""Failures of a provider's API: the manifest's classes and texts by code, and how long to wait."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from shared.manifests.channel_types import CallResponse, ChannelFailure, Operation, Step
from shared.wire.retry_after import parse_retry_after

if TYPE_CHECKING:  # a reader process of an import starts without pydantic
    from shared.manifests.channel_models import ChannelSpec, RateScope
    from shared.manifests.history_models import HistorySpec

T = TypeVar("T")
MAX_PAUSE_S: Final = 3600.0


def spec_failure(spec: "ChannelSpec", code: str, *, fallback: str = "") -> ChannelFailure:
    """Return the failure of a code. A code that the manifest does not list is final for the message.

    `fallback` is the provider's own text, which is shown for such a code.
    """
    known = spec.errors.get(code)
    if known is None:
        detail = f": {fallback[:200]}" if fallback else ""
        text = f"The provider refused the message ({code[:100]}){detail}. Correct it and send it again."
        return ChannelFailure("message", code[:100], text)
    return ChannelFailure(known.kind, code, known.text, scope=known.scope, uncertain=known.uncertain)


def history_failure(spec: "HistorySpec", code: str) -> ChannelFailure:
    """Return the failure of a code when history is read. A code that is not listed ends the conversation."""
    known = spec.errors.get(code)
    if known is None:
        text = (
            f"The provider does not let this conversation be read ({code[:100]}): look this error up there."
        )
        return ChannelFailure("conversation", code[:100], text)
    return ChannelFailure(known.kind, code, known.text, scope=known.scope)


def status_failure(response: CallResponse, *, scope: "RateScope") -> ChannelFailure | None:
    """Return the failure of status 429 or 5xx; None for another status. `scope` is what a 429 pauses.

    A 5xx is uncertain: the provider, or a proxy before it, may have failed after the effect.
    """
    if response.status == 429:
        pause = retry_after(response.headers)
        text = "The provider allows no more calls for now: the hub waits and tries again."
        return ChannelFailure("later", "rate_limited", text, retry_after=pause, scope=scope)
    if response.status >= 500:
        text = f"The provider failed (status {response.status}): the hub tries again."
        pause = retry_after(response.headers)
        return ChannelFailure("later", f"http_{response.status}", text, retry_after=pause, uncertain=True)
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `Retry-After`, at most an hour; None if the header is missing or unreadable."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    pause = parse_retry_after(text, datetime.now(UTC))
    return None if pause is None else min(pause, MAX_PAUSE_S)


def checked(
    operation: Operation[T], classify: Callable[[CallResponse, Step], ChannelFailure | None]
) -> Operation[T]:
    """Carry an operation out, and raise the `ChannelFailure` of its first response that is one.

    After the visible step nothing is raised: the message is there, and the operation does without the rest.
    But the operation may raise one itself, if it cannot do without. Failures before the visible step are
    never uncertain, those after it always.
    """
    shown = False
    try:
        step = next(operation)
        while True:
            response = yield step
            failure = classify(response, step)
            if failure and not shown:
                failure.uncertain &= step.visible
                raise failure
            shown = shown or step.visible
            step = operation.send(response)
    except StopIteration as done:
        result: T = done.value
        return result
    except ChannelFailure as failure:
        failure.uncertain |= shown
        raise


def split_fix(text: str) -> tuple[str, str | None]:
    """Split a text into the problem and its fix, which a colon divides. None if it names no fix.

    Both become sentences, except that an id stays as it is.
    """
    problem, colon, fix = text.partition(": ")
    return (f"{_capitalized(problem)}.", f"{_capitalized(fix).rstrip('.')}.") if colon else (text, None)


def _capitalized(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" if text.partition(" ")[0].isalpha() else text

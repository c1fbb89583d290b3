"""Which events a webhook wants beyond its patterns: by place, person and words, and by a condition.

All criteria that are given have to hold. In a list, one of its items is enough. A criterion asks for
something: an event that has no such thing (no channel, no words, nobody who did it) does not meet it.
What excludes, and `has_attachments: false`, is met by an event that has no such thing.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import re2
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.webhooks.event_fields import EventFields
from shared.wire.expressions import (
    MAX_CONDITION_STEPS,
    MAX_EXPRESSION_CHARACTERS,
    BudgetExceeded,
    Checkpoint,
    Expression,
    ExpressionError,
)

_MAX_PATTERN_CHARACTERS: Final = 500
_MAX_PROGRAM_SIZE: Final = 2_000
_MAX_PATTERN_MEMORY_BYTES: Final = 512 * 1024
_MAX_SEARCHED_CHARACTERS: Final = 10_000
"""Characters of the words. With the size of a pattern's program they bound the time that it takes."""

_Check = Callable[[EventFields, str], bool]


def _options() -> re2.Options:
    options = re2.Options()
    options.max_mem = _MAX_PATTERN_MEMORY_BYTES
    options.never_capture = True
    options.log_errors = False
    return options


_OPTIONS: Final = _options()


def _compile_pattern(source: str) -> Any:
    """Raises `ExpressionError` for what RE2 does not take, or could take long over."""
    try:
        pattern = re2.compile(source, _OPTIONS)
    except re2.error as error:
        told = error.args[0] if error.args else b""
        reason = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
        raise ExpressionError(f"not a pattern that RE2 takes: {reason[:200]}") from None
    if pattern.programsize > _MAX_PROGRAM_SIZE:
        raise ExpressionError("too large: repeat less, or name fewer classes of characters")
    return pattern


def _compile_condition(source: str) -> Expression:
    return Expression(source, "condition", max_steps=MAX_CONDITION_STEPS)


def _validate_pattern(text: str) -> str:
    try:
        _compile_pattern(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from None
    return text


def _validate_condition(text: str) -> str:
    try:
        _compile_condition(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from None
    return text


_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=200)]


class FilterSettings(BaseModel):
    """A filter as the API takes it and the store keeps it; what is left out asks for nothing.

    `channels` and `conversations` are ids, `users` and `mentions` ids or names. `content` is an RE2
    pattern, looked for in the first 10,000 characters of the words. `exclude_own` keeps out events that
    came through the integration that the webhook belongs to. `condition` is JMESPath on
    `{id, type, workspace, occurred_at, sequence, subject, origin, actor, data}`.
    """

    model_config = ConfigDict(extra="forbid")

    channels: _Names = []
    users: _Names = []
    conversations: _Names = []
    mentions: _Names = []
    content: (
        Annotated[
            str, Field(min_length=1, max_length=_MAX_PATTERN_CHARACTERS), AfterValidator(_validate_pattern)
        ]
        | None
    ) = None
    has_attachments: bool | None = None
    exclude_bots: bool = False
    exclude_own: bool = False
    condition: (
        Annotated[
            str,
            Field(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS),
            AfterValidator(_validate_condition),
        ]
        | None
    ) = None


class EventFilter:
    """A compiled filter: asked once for each event and webhook, so cheap checks come first."""

    __slots__ = ("_checks", "_condition")

    def __init__(self, settings: FilterSettings) -> None:
        self._checks = tuple(_checks(settings))
        self._condition = _compile_condition(settings.condition) if settings.condition is not None else None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "EventFilter | None":
        """The filter that is stored like this; None when it asks for nothing.

        Raises `ExpressionError` for settings that `FilterSettings` does not take.
        """
        try:
            read = FilterSettings.model_validate(settings)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ExpressionError(f"filter: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        return cls(read) if read != FilterSettings() else None

    def matches(self, facts: EventFields, own: str) -> bool:
        """Whether the webhook wants this event. `own` is the id of the integration it belongs to, or empty.

        Never raises: an event that the condition cannot be evaluated on does not meet it.
        """
        return self.explain(facts, own)[0]

    def explain(self, facts: EventFields, own: str) -> tuple[bool, str]:
        """As `passes`, with the first criterion that is not met and why; empty when all are."""
        try:
            return self.evaluate(facts, own)
        except BudgetExceeded as error:
            return False, f"condition_too_expensive: {error}"

    @property
    def has_condition(self) -> bool:
        """Whether judging may take long."""
        return self._condition is not None

    def evaluate(self, facts: EventFields, own: str, rest: Checkpoint | None = None) -> tuple[bool, str]:
        """As `explain`. Raises `BudgetExceeded`: whether the condition holds is not known.

        `rest` is called again and again while the condition is evaluated.
        """
        for told, check in self._checks:
            if not check(facts, own):
                return False, told
        if self._condition is not None:
            try:
                if not self._condition.holds(facts.document, rest):
                    return False, "condition: is false for this event"
            except BudgetExceeded:
                raise
            except ExpressionError as error:
                return False, str(error)
        return True, ""


def _checks(wanted: FilterSettings) -> list[tuple[str, _Check]]:
    """Each criterion but the condition: what to tell when it is not met, and how to find out."""
    checks: list[tuple[str, _Check]] = []
    if wanted.exclude_own:
        checks.append(("exclude_own: the event came through this integration", _not_own))
    if wanted.channels:
        checks.append(("channels: the event is in none of them", _in_channels(frozenset(wanted.channels))))
    if wanted.conversations:
        conversations = frozenset(wanted.conversations)
        checks.append(("conversations: the event is in none of them", _in_conversations(conversations)))
    if wanted.users:
        checks.append(("users: none of them did it", _by_users(frozenset(wanted.users))))
    if wanted.exclude_bots:
        checks.append(("exclude_bots: a program did it", _not_by_bot))
    if wanted.has_attachments is not None:
        told = "there are none" if wanted.has_attachments else "there are some"
        checks.append((f"has_attachments: {told}", _with_attachments(wanted.has_attachments)))
    if wanted.mentions:
        checks.append(("mentions: none of them is mentioned", _with_mentions(frozenset(wanted.mentions))))
    if wanted.content is not None:
        checks.append(("content: the pattern is not in the words", _with_content(wanted.content)))
    return checks


def _not_own(facts: EventFields, own: str) -> bool:
    return not own or own not in facts.origin_ids


def _not_by_bot(facts: EventFields, _own: str) -> bool:
    return not facts.is_bot


def _in_channels(channels: frozenset[str]) -> _Check:
    return lambda facts, _own: facts.channel in channels


def _in_conversations(conversations: frozenset[str]) -> _Check:
    return lambda facts, _own: facts.conversation in conversations


def _by_users(users: frozenset[str]) -> _Check:
    return lambda facts, _own: facts.user in users or facts.user_name in users


def _with_attachments(wanted: bool) -> _Check:
    return lambda facts, _own: bool(facts.attachments) is wanted


def _with_mentions(names: frozenset[str]) -> _Check:
    return lambda facts, _own: not names.isdisjoint(facts.mentions)


def _with_content(source: str) -> _Check:
    pattern = _compile_pattern(source)

    def said(facts: EventFields, _own: str) -> bool:
        words = facts.content[:_MAX_SEARCHED_CHARACTERS].encode("utf-8", "replace")
        return bool(words) and pattern.search(words) is not None

    return said

"""The names that a subscriber can ask for: event types of the hub and its providers, and triggers. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Final

from shared.contracts.event_types import EVENT_TYPES
from shared.manifests.catalogue import Trigger, triggers
from shared.manifests.registry import Provider

_MAX_SUGGESTED: Final = 5
"""Names of one request that get suggestions: each is compared with every event of its kind."""
_MAX_SUGGESTIONS: Final = 3
_FORCE_HINT: Final = "If it is a type of your own, repeat with ?force=true."
_SUGGESTION_CUTOFF: Final = 0.6
_MISSPELLING_CUTOFF: Final = 0.8
"""Similarity above which an unknown name counts as misspelled, and not as a workspace's own."""
_MIN_MISSPELLED_LENGTH: Final = 5
_TRIGGER_PATTERN: Final = re.compile(r"([a-z0-9-]+_trigger_).*")


@dataclass(slots=True)
class NameReport:
    """Problems with names: `errors` by position in the list, and warnings."""

    errors: dict[int, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class EventNames:
    """All names that events have. The manifests of the providers are read on first use."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = providers

    @cached_property
    def _of_providers(self) -> frozenset[str]:
        return frozenset(name for provider in self._providers.values() for name in provider.trigger_types)

    @cached_property
    def _families(self) -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in EVENT_TYPES)

    @cached_property
    def _prefixes(self) -> frozenset[str]:
        return frozenset(prefix for name in (*self._of_providers, *EVENT_TYPES) for prefix in _prefixes(name))

    @cached_property
    def _triggers(self) -> Mapping[str, Trigger]:
        by_id: dict[str, Trigger] = {}
        for provider in self._providers.values():
            for trigger in triggers(provider, self._providers):
                # A webhook wins over polling as the source of a trigger.
                if trigger.id not in by_id or trigger.by == "webhook":
                    by_id[trigger.id] = trigger
        return by_id

    def is_trigger(self, name: str) -> bool:
        """Return whether the name is a trigger of the catalogue."""
        return name in self._triggers

    def triggers_of(self, provider: str, event: str) -> list[str]:
        """Return the triggers that an event of a provider may fire."""
        return sorted(
            name
            for name, trigger in self._triggers.items()
            if trigger.provider == provider
            and (event in trigger.events or (trigger.polling and trigger.polling.event == event))
        )

    def check(
        self, patterns: Sequence[str], accepted: Iterable[str] = (), *, suggesting: bool = True
    ) -> NameReport:
        """Check the patterns of a subscription.

        A trigger or a provider that is not in the catalogue is an error, with the closest names. Other
        unknown names may be types that a workspace publishes itself, or that a provider has added: a warning.
        Names in `accepted` are never errors: a webhook may keep the names that it has. Without `suggesting`
        the check is cheap, and gives no suggestions.
        """
        report = NameReport()
        allowed = frozenset(accepted)
        for position, pattern in enumerate(patterns):
            # Suggestions are expensive: only the first names of a request get them.
            room = suggesting and len(report.errors) + len(report.warnings) < _MAX_SUGGESTED
            error, warning = self._problem(pattern, suggesting=suggesting, room=room)
            if error and pattern not in allowed:
                report.errors[position] = error
            elif error or warning:
                report.warnings.append(f"{pattern}: {error or warning}")
        return report

    def _problem(self, pattern: str, *, suggesting: bool, room: bool) -> tuple[str, str]:
        """Return the error of a pattern, or else a warning; with `room`, similar events are suggested."""
        name, wildcard, _ = pattern.partition(".*")
        family = name.partition(".")[0]
        if pattern == "*":
            return "", ""
        if trigger := self._triggers.get(pattern):
            if trigger.events:
                return "", ""
            if trigger.polling:
                return "", "it comes only where a polling trigger asks for it: POST /api/polling-triggers"
            return "", "no webhook brings this trigger, so nothing will come for it"
        if prefix := _TRIGGER_PATTERN.fullmatch(name):
            provider_triggers = [known for known in self._triggers if known.startswith(prefix[1])]
            hint = _suggestion(
                name,
                provider_triggers or self._triggers,
                _SUGGESTION_CUTOFF if not provider_triggers else 0.0,
                suggest=suggesting,
            )
            return f"no such trigger in the catalogue{hint}", ""
        # An unknown event of a known provider may be new: a warning.
        if family in self._providers:
            if (name == family or name in self._prefixes) if wildcard else name in self._of_providers:
                return "", ""
            family_events = [known for known in self._of_providers if known.startswith(f"{family}.")]
            return "", f"not a known event of {family}" + _suggestion(name, family_events, suggest=room)
        if family in self._families:
            if name in self._prefixes if wildcard else name in EVENT_TYPES:
                return "", ""
            return "", "not an event type of the hub" + _suggestion(name, EVENT_TYPES, suggest=room)
        if hint := self._misspelling_hint(family) if suggesting and "." in pattern else "":
            return f"no such provider in the catalogue{hint} {_FORCE_HINT}", ""
        if (
            hint := ""
            if "." in pattern
            else _suggestion(name, self._triggers, _MISSPELLING_CUTOFF, suggest=suggesting)
        ):
            return f"no such trigger in the catalogue{hint} {_FORCE_HINT}", ""
        return "", "not an event type of the hub: only events that you publish yourself can match"

    def _misspelling_hint(self, family: str) -> str:
        """Suggest a provider; '' for a different word that is only similar (`teams` and `team`, `mail`)."""
        if len(family) < _MIN_MISSPELLED_LENGTH:
            return ""
        candidates = [
            provider
            for provider in self._providers
            if len(provider) >= _MIN_MISSPELLED_LENGTH
            and provider[0] == family[0]
            and provider.strip("s") != family.strip("s")
        ]
        return _suggestion(family, candidates, _MISSPELLING_CUTOFF, suggest=True)


def _prefixes(name: str) -> Iterator[str]:
    """Yield the beginnings of `name`, up to each of its dots."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _suggestion(name: str, known: Iterable[str], cutoff: float = _SUGGESTION_CUTOFF, *, suggest: bool) -> str:
    matches = get_close_matches(name[:100], known, n=_MAX_SUGGESTIONS, cutoff=cutoff) if suggest else []
    return f": did you mean {', '.join(matches)}?" if matches else ""

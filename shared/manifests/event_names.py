"""The names that a subscriber can ask for: event types of the hub and its providers, and triggers. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Final

from shared.contracts.event_types import EVENT_TYPES
from shared.manifests.catalogue import Trigger, triggers
from shared.manifests.registry import Provider, providers

_MAX_SUGGESTED: Final = 5
"""Names of one request that events are suggested for: each is compared with every event of its kind."""
_MAX_SUGGESTIONS: Final = 3
_FORCE_HINT: Final = "If it is a type of your own, repeat with ?force=true."
_SUGGESTION_CUTOFF: Final = 0.6
_MISSPELLING_CUTOFF: Final = 0.8
"""How alike a name has to be to one of the catalogue to be taken for it, and not for one of a workspace."""
_MIN_MISSPELLED_LENGTH: Final = 5
_TRIGGER_PATTERN: Final = re.compile(r"([a-z0-9-]+_trigger_).*")


@dataclass(slots=True)
class NameReport:
    """What is wrong with names: `errors` by position in the list, and warnings."""

    errors: dict[int, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class EventNames:
    """Every name that events come under."""

    def __init__(self, known: Mapping[str, Provider]) -> None:
        self._providers = frozenset(known)
        self._of_providers = frozenset(name for each in known.values() for name in each.trigger_types)
        self._families = frozenset(name.partition(".")[0] for name in EVENT_TYPES)
        self._prefixes = frozenset(
            prefix for name in (*self._of_providers, *EVENT_TYPES) for prefix in _prefixes(name)
        )
        self._triggers: dict[str, Trigger] = {}
        for provider in known.values():
            for trigger in triggers(provider, known):
                if trigger.id not in self._triggers or trigger.by == "webhook":
                    self._triggers[trigger.id] = trigger

    def is_trigger(self, name: str) -> bool:
        """Whether it is a trigger of the catalogue."""
        return name in self._triggers

    def triggers_of(self, provider: str, event: str) -> list[str]:
        """The triggers that an event of a provider may fire."""
        return sorted(
            name
            for name, each in self._triggers.items()
            if each.provider == provider and event in each.events
        )

    def check(
        self, patterns: Sequence[str], accepted: Iterable[str] = (), *, suggesting: bool = True
    ) -> NameReport:
        """Check the patterns of a subscription.

        A trigger or a provider that the catalogue lacks is an error, with the closest names. Other unknown
        names may be types that a workspace publishes itself, or that a provider has added: a warning.
        `accepted` names are no errors: a webhook may keep those that it has. Without `suggesting` it costs
        little, and does not say what may be meant.
        """
        report = NameReport()
        keep = frozenset(accepted)
        for position, pattern in enumerate(patterns):
            room = suggesting and len(report.errors) + len(report.warnings) < _MAX_SUGGESTED
            error, warning = self._fault(pattern, suggesting=suggesting, room=room)
            if error and pattern not in keep:
                report.errors[position] = error
            elif error or warning:
                report.warnings.append(f"{pattern}: {error or warning}")
        return report

    def _fault(self, pattern: str, *, suggesting: bool, room: bool) -> tuple[str, str]:
        """The error with a pattern, or else what to warn of; with `room`, events that may be meant."""
        name, wild, _ = pattern.partition(".*")
        family = name.partition(".")[0]
        if pattern == "*":
            return "", ""
        if trigger := self._triggers.get(pattern):
            return "", "" if trigger.events else "no webhook brings this trigger, so nothing will come for it"
        if prefix := _TRIGGER_PATTERN.fullmatch(name):
            of_provider = [each for each in self._triggers if each.startswith(prefix[1])]
            near = _suggestion(
                name,
                of_provider or self._triggers,
                _SUGGESTION_CUTOFF if not of_provider else 0.0,
                suggest=suggesting,
            )
            return f"no such trigger in the catalogue{near}", ""
        if family in self._providers:
            if (name == family or name in self._prefixes) if wild else name in self._of_providers:
                return "", ""
            of_family = [each for each in self._of_providers if each.startswith(f"{family}.")]
            return "", f"not known as an event of {family}" + _suggestion(name, of_family, suggest=room)
        if family in self._families:
            if name in self._prefixes if wild else name in EVENT_TYPES:
                return "", ""
            return "", "no event type of the hub" + _suggestion(name, EVENT_TYPES, suggest=room)
        if near := self._misspelling_hint(family) if suggesting and "." in pattern else "":
            return f"no such provider in the catalogue{near} {_FORCE_HINT}", ""
        if (
            near := ""
            if "." in pattern
            else _suggestion(name, self._triggers, _MISSPELLING_CUTOFF, suggest=suggesting)
        ):
            return f"no such trigger in the catalogue{near} {_FORCE_HINT}", ""
        return "", "no event type that the hub knows: it has to be one that you publish"

    def _misspelling_hint(self, family: str) -> str:
        """Which provider is meant; nothing for a word that is only like it (`teams` and `team`, `mail`)."""
        if len(family) < _MIN_MISSPELLED_LENGTH:
            return ""
        alike = [
            each
            for each in self._providers
            if len(each) >= _MIN_MISSPELLED_LENGTH
            and each[0] == family[0]
            and each.strip("s") != family.strip("s")
        ]
        return _suggestion(family, alike, _MISSPELLING_CUTOFF, suggest=True)


def _prefixes(name: str) -> Iterator[str]:
    """What `name` begins with, up to each of its dots."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _suggestion(name: str, known: Iterable[str], cutoff: float = _SUGGESTION_CUTOFF, *, suggest: bool) -> str:
    found = get_close_matches(name[:100], known, n=_MAX_SUGGESTIONS, cutoff=cutoff) if suggest else []
    return f": did you mean {', '.join(found)}?" if found else ""


@cache
def event_names() -> EventNames:
    """The names of all providers' events and triggers."""
    return EventNames(providers())

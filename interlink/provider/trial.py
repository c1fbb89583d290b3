"""A provider's fixtures, run one by one: what each becomes, and what is wrong with it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from shared.catalog.checker import Trial, tried, unread
from shared.catalog.fixtures import Fixture, cases, read_fixture, signings
from shared.catalog.registry import Provider
from shared.contracts.errors import Misconfigured

EXPECTED: Final = "expected.json"
_LONGEST: Final = 120
_TARGET: Final = re.compile(r"(?<!\\)\]\([^)\s]*\)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fixture after its run; `wrote`: its `expected.json` is new; without `faults` it is right."""

    name: str
    said: str
    faults: tuple[str, ...]
    wrote: bool = False

    def lines(self, width: int) -> Iterator[str]:
        """For people: one line, and one for each fault."""
        word = "wrong" if self.faults else "wrote" if self.wrote else "ok"
        yield f"{word:6}{self.name:{width}}  {self.said}".rstrip()
        for fault in self.faults:
            yield f"        {fault}"


def run(folder: Path, provider: Provider, *, write: bool = False) -> Iterator[Outcome]:
    """Run the fixtures of a folder in the order of their names.

    With `write`, an `expected.json` that is missing or differs is written anew.
    """
    keys, others = signings(provider), signings(provider)
    for case in cases(folder):
        try:
            fixture = read_fixture(case, expected_later=write)
        except Misconfigured as error:
            yield Outcome(case.name, "", (unread(folder, case, error),))
            continue
        trial = tried(provider, fixture, keys, others)
        wrote = write and bool(trial.saw) and _kept(case, fixture, trial.saw)
        if wrote:
            trial = tried(provider, replace(fixture, expected=trial.saw), keys, others)
        yield Outcome(case.name, _said(provider, trial), trial.faults, wrote)


def _kept(case: Path, fixture: Fixture, saw: Mapping[str, Any]) -> bool:
    """Write what was seen, unless it is there already."""
    file = case / EXPECTED
    if file.exists() and fixture.expected == saw:
        return False
    file.write_bytes(expected_text(saw))
    return True


def expected_text(saw: Mapping[str, Any]) -> bytes:
    """`expected.json` as it is kept: indented by two, with characters as they are."""
    return orjson.dumps(saw, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _said(provider: Provider, trial: Trial) -> str:
    webhook = provider.manifest.webhook
    parts = [
        f"{webhook.verification[position].name or webhook.verification[position].scheme} {verdict}"
        for position, verdict in trial.verdicts.items()
        if webhook
    ]
    if "handshake" in trial.saw:
        parts.append(f"handshake, answered with {trial.saw['answer']['status']}")
    events = trial.saw.get("events", [])
    parts += [_event(event) for event in events[:5]]
    if len(events) > 5:
        parts.append(f"and {len(events) - 5} more")
    elif "events" in trial.saw and not events:
        parts.append("no event")
    message = next((event["message"]["text"] for event in events if "message" in event), "")
    line = _TARGET.sub("]", message.partition("\n")[0])
    return "  ".join([", ".join(parts), line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"])


def _event(event: Mapping[str, Any]) -> str:
    triggers = " ".join(event.get("triggers", ()))
    return f"{event['event']} ({triggers})" if triggers else str(event["event"])

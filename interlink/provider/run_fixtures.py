"""A provider's fixtures, run one by one: what each becomes, and what is wrong with it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from interlink.provider.checker import FixtureResult, describe_unreadable_fixture, run_fixture
from shared.contracts.errors import Misconfigured
from shared.manifests.fixtures import Fixture, fixture_folders, read_fixture, scheme_signers
from shared.manifests.registry import Provider

EXPECTED_FILE: Final = "expected.json"
_MAX_LINE_LENGTH: Final = 120
_LINK_TARGET: Final = re.compile(r"(?<!\\)\]\([^)\s]*\)")


@dataclass(frozen=True, slots=True)
class FixtureOutcome:
    """A fixture after its run; `wrote`: its `expected.json` is new; without `faults` it is right."""

    name: str
    summary: str
    faults: tuple[str, ...]
    written: bool = False

    def lines(self, width: int) -> Iterator[str]:
        """For people: one line, and one for each fault."""
        word = "wrong" if self.faults else "wrote" if self.written else "ok"
        yield f"{word:6}{self.name:{width}}  {self.summary}".rstrip()
        for fault in self.faults:
            yield f"        {fault}"


def run(folder: Path, provider: Provider, *, write: bool = False) -> Iterator[FixtureOutcome]:
    """Run the fixtures of a folder in the order of their names.

    With `write`, an `expected.json` that is missing or differs is written anew.
    """
    keys, others = scheme_signers(provider), scheme_signers(provider)
    for case in fixture_folders(folder):
        try:
            fixture = read_fixture(case, allow_missing_expected=write)
        except Misconfigured as error:
            yield FixtureOutcome(case.name, "", (describe_unreadable_fixture(folder, case, error),))
            continue
        trial = run_fixture(provider, fixture, keys, others)
        wrote = write and bool(trial.observed) and _write_expected(case, fixture, trial.observed)
        if wrote:
            trial = run_fixture(provider, replace(fixture, expected=trial.observed), keys, others)
        yield FixtureOutcome(case.name, _summary(provider, trial), trial.faults, wrote)


def _write_expected(case: Path, fixture: Fixture, observed: Mapping[str, Any]) -> bool:
    """Write what was seen, unless it is there already."""
    file = case / EXPECTED_FILE
    if file.exists() and fixture.expected == observed:
        return False
    file.write_bytes(expected_text(observed))
    return True


def expected_text(observed: Mapping[str, Any]) -> bytes:
    """`expected.json` as it is kept: indented by two, with characters as they are."""
    return orjson.dumps(observed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _summary(provider: Provider, trial: FixtureResult) -> str:
    webhook = provider.manifest.webhook
    parts = [
        f"{webhook.verification[position].name or webhook.verification[position].scheme} {verdict}"
        for position, verdict in trial.verdicts.items()
        if webhook
    ]
    if "handshake" in trial.observed:
        parts.append(f"handshake, answered with {trial.observed['answer']['status']}")
    events = trial.observed.get("events", [])
    parts += [_event_summary(event) for event in events[:5]]
    if len(events) > 5:
        parts.append(f"and {len(events) - 5} more")
    elif "events" in trial.observed and not events:
        parts.append("no event")
    message = next((event["message"]["text"] for event in events if "message" in event), "")
    line = _LINK_TARGET.sub("]", message.partition("\n")[0])
    return "  ".join(
        [", ".join(parts), line if len(line) <= _MAX_LINE_LENGTH else line[: _MAX_LINE_LENGTH - 1] + "…"]
    )


def _event_summary(event: Mapping[str, Any]) -> str:
    triggers = " ".join(event.get("triggers", ()))
    return f"{event['event']} ({triggers})" if triggers else str(event["event"])

"""Runs a provider's fixtures one by one, for `interlink provider test`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from interlink.provider.fixture_result import FixtureResult, describe_unreadable_fixture, run_fixture
from shared.contracts.errors import Misconfigured
from shared.manifests.fixtures import Fixture, fixture_folders, read_fixture
from shared.manifests.registry import Provider
from shared.manifests.scheme_signers import scheme_signers

EXPECTED_FILE: Final = "expected.json"
_MAX_LINE_LENGTH: Final = 120
_LINK_TARGET: Final = re.compile(r"(?<!\\)\]\([^)\s]*\)")


@dataclass(frozen=True, slots=True)
class FixtureOutcome:
    """Outcome of a fixture. `written`: its `expected.json` is new. Without `faults` it passed."""

    name: str
    summary: str
    faults: tuple[str, ...]
    written: bool = False

    def lines(self, width: int) -> Iterator[str]:
        """Yield the output: one line, and one for each fault."""
        status = "wrong" if self.faults else "wrote" if self.written else "ok"
        yield f"{status:6}{self.name:{width}}  {self.summary}".rstrip()
        for fault in self.faults:
            yield f"        {fault}"


def run(folder: Path, provider: Provider, *, write: bool = False) -> Iterator[FixtureOutcome]:
    """Run the fixtures of a folder in the order of their names.

    With `write`, write an `expected.json` that is missing or differs.
    """
    signers, other_signers = scheme_signers(provider), scheme_signers(provider)
    for case in fixture_folders(folder):
        try:
            fixture = read_fixture(case, allow_missing_expected=write)
        except Misconfigured as error:
            yield FixtureOutcome(case.name, "", (describe_unreadable_fixture(folder, case, error),))
            continue
        result = run_fixture(provider, fixture, signers, other_signers)
        written = write and bool(result.observed) and _write_expected(case, fixture, result.observed)
        # Run again: the faults are those of the file as written.
        if written:
            result = run_fixture(provider, replace(fixture, expected=result.observed), signers, other_signers)
        yield FixtureOutcome(case.name, _summary(provider, result), result.faults, written)


def _write_expected(case: Path, fixture: Fixture, observed: Mapping[str, Any]) -> bool:
    """Write the observed result and return True, unless the file has it already."""
    file = case / EXPECTED_FILE
    if file.exists() and fixture.expected == observed:
        return False
    file.write_bytes(expected_text(observed))
    return True


def expected_text(observed: Mapping[str, Any]) -> bytes:
    """Return the content of `expected.json`: indented by two, with characters as they are."""
    return orjson.dumps(observed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _summary(provider: Provider, result: FixtureResult) -> str:
    webhook = provider.manifest.webhook
    parts = [
        f"{webhook.verification[position].name or webhook.verification[position].scheme} {verdict}"
        for position, verdict in result.verdicts.items()
        if webhook
    ]
    if "handshake" in result.observed:
        parts.append(f"handshake, answered with {result.observed['answer']['status']}")
    events = result.observed.get("events", [])
    parts += [_event_summary(event) for event in events[:5]]
    if len(events) > 5:
        parts.append(f"and {len(events) - 5} more")
    elif "events" in result.observed and not events:
        parts.append("no event")
    message = next((event["message"]["text"] for event in events if "message" in event), "")
    line = _LINK_TARGET.sub("]", message.partition("\n")[0])
    return "  ".join(
        [", ".join(parts), line if len(line) <= _MAX_LINE_LENGTH else line[: _MAX_LINE_LENGTH - 1] + "…"]
    )


def _event_summary(event: Mapping[str, Any]) -> str:
    triggers = " ".join(event.get("triggers", ()))
    return f"{event['event']} ({triggers})" if triggers else str(event["event"])

"""Make the plan of an import from a file and the options of the command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.contracts.errors import Malformed, Misconfigured
from shared.wire.bodies import parse_json

Json = dict[str, Any]
_MAX_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The options of a plan: a file, and what differs from it. Days are those of the plan's time zone."""

    file: Path | None = None
    channels: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """True if the import's own plan stays unchanged."""
        return self == PlanOptions()

    def plan(self, stored: Mapping[str, Any], conversations: Sequence[Mapping[str, Any]]) -> Json:
        """Return the plan to set, from the import's present one. Raises `Misconfigured`."""
        plan = _read(self.file) if self.file else dict(stored)
        zone = _zone(plan)
        if self.since:
            plan["since"] = _moment(self.since, zone, "--since")
        if self.until:
            plan["until"] = _moment(self.until, zone, "--until")
        if self.answers:
            plan["answers"] = {**plan.get("answers", {}), **self.answers}
        if self.channels:
            known = plan.get("channels", {})
            wanted = [_conversation(name, conversations) for name in self.channels]
            plan["channels"] = {item: _included(known.get(item)) for item in wanted}
            plan["other_channels"] = "leave_out"
        return plan


def parse_answers(texts: Sequence[str]) -> Mapping[str, str]:
    """Return answers by the ids of their questions, from `ID=VALUE`. Raises `Misconfigured`."""
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise Misconfigured(f"--answer: {text}: has to be ID=VALUE")
        found[name] = value
    return found


def _read(file: Path) -> Json:
    try:
        plan = parse_json(file.read_bytes())
    except OSError as error:
        raise Misconfigured(f"--plan: {file} cannot be read: {error.strerror}") from None
    except Malformed as error:
        raise Misconfigured(f"--plan: {file}: {error}") from None
    if not isinstance(plan, dict):
        raise Misconfigured(f"--plan: {file}: has to be an object, as 'interlink import plan' prints it")
    return plan


def _conversation(name: str, conversations: Sequence[Mapping[str, Any]]) -> str:
    """Return the export's id of a conversation, by id or name. Raises `Misconfigured`."""
    plain = name.removeprefix("#")
    by_name = [item["conversation"] for item in conversations if item["name"] == plain]
    if len(by_name) > 1:
        ids = ", ".join(by_name[:_MAX_NAMED])
        raise Misconfigured(f"--channel: several conversations are called {plain}: use an id, {ids}")
    if by_name:
        return str(by_name[0])
    if any(item["conversation"] == name for item in conversations):
        return name
    names = [item["name"] for item in conversations if item["name"]]
    near = get_close_matches(plain, names, 3) or sorted(names)[:_MAX_NAMED]
    raise Misconfigured(f"--channel: the export has no conversation {plain!r}; it has {', '.join(near)}")


def _included(known: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return known if known and known.get("into") != "leave_out" else {"into": "new"}


def _zone(plan: Mapping[str, Any]) -> Any:
    try:
        return ZoneInfo(str(plan.get("time_zone") or "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        return UTC  # the hub names what is wrong with it


def _moment(text: str, zone: Any, option: str) -> str:
    """Return a day or a time as RFC 3339 has it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"{option}: {text}: has to be a day (2024-11-05) or a time (RFC 3339)") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).isoformat()

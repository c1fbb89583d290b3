"""Count a part of a unit: up to 5,000 records that are imported together, or not at all."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from services.importer.accounts.walk import Walk
from services.importer.files.attachments import UnitFiles
from services.importer.jobs.selection import Target
from services.importer.store.unit_record import UnitRecord, add_digest, packed
from shared.contracts.history import MAX_BATCH

FOUND, SELECTED, IMPORTED, DUPLICATE, SKIPPED, FAILED, CHANGED = (
    *("found", "selected", "imported", "duplicate", "skipped", "failed", "changed"),
)
"""Found = imported + duplicate + skipped + failed. Changed are those duplicates that got a newer content."""
_BY_DAY: Final = (FOUND, SELECTED, IMPORTED, DUPLICATE, FAILED, CHANGED)
UNKNOWN_DAY: Final = ""
"""The day of a record with an unreadable time."""


class Known(NamedTuple):
    """A message of the part: its day, its Unix time, the mark of its content, and its reactions."""

    day: str
    at: float
    mark: bytes
    reactions: int = 0


@dataclass(slots=True)
class Part:
    """Records of one or several units (`SourcePart`), with their counts, and the messages among them.

    `added` are those to be published as new, `changed` as changed, and `duplicates` those that the chat has;
    each by message id, in 16 bytes as are all. `outside` has the parents of replies that are not in the part.
    """

    position: int
    offset: int
    end_position: int
    end_offset: int
    name: str
    target: Target
    files: UnitFiles
    records: int = 0
    size: int = 0
    walk: Walk | None = None
    """The place of the next page of a connected account."""
    read_at: float = 0.0
    """The time up to which its conversation is read, if it is the last page of a connected one; else 0."""
    days: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    counts: Counter[str] = field(default_factory=Counter)
    """Counts of other kinds than messages, by dotted names, such as `reactions.skipped.bot`."""
    added: dict[bytes, Known] = field(default_factory=dict)
    changed: dict[bytes, Known] = field(default_factory=dict)
    duplicates: dict[bytes, Known] = field(default_factory=dict)
    outside: list[bytes] = field(default_factory=list)
    issues: list[tuple[str, str, str]] = field(default_factory=list)
    """Place, reason and record of what failed."""
    batches: list[str] = field(default_factory=list)
    next_number: int = 0

    @property
    def weight(self) -> int:
        """The number of batches that it counts as in the limit of unstored parts; at least 1."""
        return max(1, len(self.batches), self.records // MAX_BATCH)

    @property
    def place(self) -> str:
        """The position of its first record, as a text. Texts sort in the order of the parts."""
        return f"{self.position:08d}:{self.offset:08d}"

    def record_id(self, run_id: str) -> str:
        """Return the id of the `UnitRecord` that it becomes."""
        return f"{run_id}:{self.place}"

    def count(self, what: str, day: str = UNKNOWN_DAY, by: int = 1) -> None:
        """Count messages of a day."""
        self.days[day][what] += by

    def skip(self, reason: str, day: str = UNKNOWN_DAY, reactions: int = 0) -> None:
        """Count a record that is left out."""
        self.count(SKIPPED, day)
        self.counts[f"messages.skipped.{reason}"] += 1
        if reactions:
            self.counts[f"reactions.skipped.{reason}"] += reactions

    def fail(self, place: str, reason: str, record: str, day: str = UNKNOWN_DAY, reactions: int = 0) -> None:
        """Count a record that failed, and list it."""
        self.count(FAILED, day)
        self.counts["reactions.failed"] += reactions
        self.issues.append((place, reason, record))

    def repeat(self, packed_id: bytes, known: Known, *, is_own: bool) -> None:
        """Count a message that the chat has; `is_own` if this import has added it."""
        self.count(DUPLICATE, known.day)
        self.counts["reactions.duplicate"] += known.reactions
        if not is_own:
            self.duplicates[packed_id] = known

    def settle(self, duplicates: Iterable[str], rejected: Iterable[tuple[str, str]]) -> None:
        """Take the chat's confirmation into account: messages that it has left as they were, or rejects."""
        duplicates, rejected = list(duplicates), list(rejected)
        self.files.settle(duplicates, [message_id for message_id, _ in rejected])
        for packed_id in map(packed, duplicates):
            known = self.added.pop(packed_id, None) or self.changed.pop(packed_id, None)
            if known is not None:
                self.repeat(packed_id, known, is_own=False)
        for message_id, reason in rejected:
            packed_id, text = packed(message_id), f"the chat rejected it: {reason}"
            if (known := self.added.pop(packed_id, None)) is not None:
                self.fail(message_id, text, "", known.day, known.reactions)
            elif (known := self.changed.pop(packed_id, None)) is not None:
                self.repeat(packed_id, known, is_own=False)
                self.issues.append((message_id, text, ""))
        for packed_id, known in self.changed.items():
            self.repeat(packed_id, known, is_own=False)
            self.count(CHANGED, known.day)
        for known in self.added.values():
            self.days[known.day][IMPORTED] += 1
            if known.reactions:
                self.counts["reactions.imported"] += known.reactions

    def increments(self) -> Counter[str]:
        """Return by how much the counts of the import grow, by dotted names."""
        totals = Counter({name: number for name, number in self.counts.items() if number})
        for name, number in self.files.counts().items():
            totals[f"files.{name}"] += number
        for day in self.days.values():
            for name in _BY_DAY:
                if day[name]:
                    totals[f"messages.{name}"] += day[name]
        return totals

    def record(self, run_id: str, workspace: str, *, is_ledger: bool) -> UnitRecord:
        """Return the part as it is stored. `is_ledger` if other imports have to know of its messages."""
        known = {**self.added, **self.duplicates}
        times = [item.at for item in known.values()]
        return UnitRecord(
            id=self.record_id(run_id),
            import_id=run_id,
            workspace=workspace,
            position=self.position,
            offset=self.offset,
            unit=self.name[:1000],
            source=self.target.source if is_ledger else "",
            conversation=self.target.conversation,
            channel_id=self.target.channel_id,
            first=min(times, default=0.0),
            last=max(times, default=0.0),
            added=len(self.added),
            ids=b"".join(self.added),
            marks=b"".join(item.mark for item in self.added.values()),
            changed=b"".join(key + item.mark for key, item in self.changed.items()),
            duplicates=b"".join(self.duplicates),
            outside=b"".join(self.outside),
            days=self._stored_days(known),
        )

    def _stored_days(self, known: Mapping[bytes, Known]) -> dict[str, dict[str, Any]]:
        """Return the counts by day, with first, last and digest of the messages that the chat has."""
        by_day: dict[str, list[tuple[float, bytes]]] = {}
        for packed_id, item in known.items():
            by_day.setdefault(item.day, []).append((item.at, packed_id))
        stored: dict[str, dict[str, Any]] = {day: dict(counts) for day, counts in self.days.items()}
        for day, items in by_day.items():
            digest = add_digest("", (packed_id for _, packed_id in items))
            stored[day] |= {"digest": digest, "first": min(items)[0], "last": max(items)[0]}
        return stored

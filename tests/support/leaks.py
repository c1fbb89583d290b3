"""The search for secrets after a run: in every log, topic and answer, and in the store.

A secret is looked for in the forms in which text gets about: as it is, URL-encoded, escaped in JSON or HTML,
in base64 wherever it begins, and as the bytes that it is the base64 of. Keys of the hub are found by how they
look, too, also those that nobody noted.

How it is quick: of each form, the eight-byte windows that begin at eight positions one after another are in a
set. Wherever the form stands in a text, one of them is among the text's own windows, taken every eight bytes;
so one look into a set for every eight bytes finds all forms at once.
"""

import base64
import binascii
import html
import json
import mmap
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from urllib.parse import quote, quote_plus

import markupsafe

from tests.support import run
from tests.support.capture import DOCUMENTS, MARK, RESPONSES, SPLIT, TOPICS, UNREAD
from tests.support.recorded_secrets import recorded_secrets

LOGS = "logs"
LOOKS = {
    "a service key": re.compile(rb"ils_[A-Za-z0-9_-]{60,}"),
    "an API key": re.compile(rb"ilk_[A-Za-z0-9_-]{43}"),
}
"""Keys of the hub, by how they look."""

_WINDOW = 8
_SPAN = 2 * _WINDOW - 1
_MAX_SHOWN = 30


@dataclass(frozen=True)
class Finding:
    """A kind of secret, in a form, that stands where none may be; `at` says where in there."""

    what: str
    where: str
    at: str


@dataclass
class Searched:
    """What was searched, how much of it, and what was found: never the secret itself."""

    secrets: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    megabytes: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        found = f"{len(self.findings)} FOUND" if self.findings else "none found"
        return (
            f"secrets: {self.secrets} looked for in {self.counts[LOGS]} logs, {self.counts[TOPICS]} messages,"
            f" {self.counts[RESPONSES]} answers and {self.counts[DOCUMENTS]} documents"
            f" ({self.megabytes:.0f} MB) within {self.seconds:.1f} s: {found}"
        )

    def shown(self) -> list[str]:
        """A line for each kind and place: what was found where, how often, and where first."""
        found: dict[tuple[str, str], list[str]] = {}
        for each in self.findings:
            found.setdefault((each.where, each.what), []).append(each.at)
        lines = [
            f"{what}: {where}, {at[0]}" + (f", and {len(at) - 1} times more" if len(at) > 1 else "")
            for (where, what), at in sorted(found.items())
        ]
        return lines[:_MAX_SHOWN] + [f"and {len(lines) - _MAX_SHOWN} more"] * (len(lines) > _MAX_SHOWN)


class Search:
    """Looks for all forms of these secrets (and of which kind each is) at once."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._windows: dict[int, list[tuple[bytes, int, str]]] = {}
        for secret, kind in secrets.items():
            for form, raw in forms(secret).items():
                self._add(raw, f"{kind}, {form}")
        self._wanted = frozenset(self._windows)

    def _add(self, raw: bytes, what: str) -> None:
        """The last windows are taken: what secrets have in common stands in front."""
        first = len(raw) - _SPAN
        for begin in range(first, first + _WINDOW):
            window = int.from_bytes(raw[begin : begin + _WINDOW], sys.byteorder)
            self._windows.setdefault(window, []).append((raw, begin, what))

    def found(self, data: "bytes | mmap.mmap") -> Iterator[tuple[str, int]]:
        """What stands in the data, and where it begins."""
        even = len(data) // _WINDOW * _WINDOW
        with memoryview(data) as whole, whole[:even] as part, part.cast("Q") as windows:
            hits = self._wanted.intersection(windows)
            places = [at for at, window in enumerate(windows) if window in hits] if hits else []
            candidates = [
                (what, at * _WINDOW - begin, raw)
                for at in places
                for raw, begin, what in self._windows[windows[at]]
            ]
        for what, begin, raw in candidates:
            if begin >= 0 and data[begin : begin + len(raw)] == raw:
                yield what, begin
        for what, look in LOOKS.items():
            for match in look.finditer(data):
                yield f"{what}, by its look", match.start()


_wanted = Search({})


def forms(secret: str) -> dict[str, bytes]:
    """The ways in which a secret may stand in a text; those that are the same are there once."""
    raw = secret.encode()
    found = {
        "as it is": raw,
        "URL-encoded": quote(secret, safe="").encode(),
        "URL-encoded in small letters": _small(quote(secret, safe="")).encode(),
        "URL-encoded as a form": quote_plus(secret).encode(),
        "URL-encoded in part": quote(secret).encode(),
        "JSON-escaped": json.dumps(secret)[1:-1].encode(),
        "JSON-escaped, in Unicode": json.dumps(secret, ensure_ascii=False)[1:-1].encode(),
        "HTML-escaped": html.escape(secret).encode(),
        "HTML-escaped by a template": str(markupsafe.escape(secret)).encode(),
    }
    for shift in range(3):
        for name, encoded in _base64(raw, shift).items():
            found[f"{name} at {shift}"] = encoded
    if (decoded := _decoded(secret)) is not None:
        found["decoded from base64"] = decoded
    once: dict[bytes, str] = {}
    for name, each in found.items():
        if len(each) >= _SPAN:
            once.setdefault(each, name)
    return {name: each for each, name in once.items()}


def _small(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda escaped: escaped[0].lower(), text)


def _base64(raw: bytes, shift: int) -> dict[str, bytes]:
    """What of its base64 does not depend on what stands around it, when so many bytes are in front of it."""
    first = (0, 2, 3)[shift]
    last = (shift + len(raw)) // 3 * 4
    text = base64.b64encode(bytes(shift) + raw)[first:last]
    return {"base64": text, "base64 for URLs": text.translate(bytes.maketrans(b"+/", b"-_"))}


def _decoded(secret: str) -> bytes | None:
    text = secret.partition("_")[2] if secret.startswith("whsec_") else secret
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def search(base: Path) -> Searched:
    """All that the run with this base folder has kept, and the logs that lie in it.

    On every core, with the long files first: at the end of a run nothing else is going on.
    """
    started = monotonic()
    secrets = recorded_secrets(base)
    result = Searched(len(secrets))
    places = [(LOGS, file, f"the log {file.relative_to(base)}") for file in _logs(base)]
    places += [(name, file, "") for name in (TOPICS, RESPONSES, DOCUMENTS) for file in run.files(base, name)]
    places.sort(key=lambda place: place[1].stat().st_size, reverse=True)
    with get_context("fork").Pool(initializer=_prepare, initargs=(Search(secrets),)) as pool:
        for name, count, size, findings in pool.imap(_in_file, places):
            result.counts[name] += count
            result.megabytes += size / 1e6
            result.findings += findings
    for file in run.files(base, UNREAD):
        for line in file.read_text().splitlines():
            result.findings.append(Finding("not searched", *line.split(SPLIT)))
    result.seconds = monotonic() - started
    return result


def _logs(base: Path) -> Iterable[Path]:
    for folder, _, names in os.walk(base):
        yield from (Path(folder, name) for name in sorted(names) if name.endswith((".log", ".out")))


def _prepare(wanted: Search) -> None:
    """Remember, in a process that searches, what it looks for."""
    global _wanted  # noqa: PLW0603 -- it searches once
    _wanted = wanted


def _in_file(place: tuple[str, Path, str]) -> tuple[str, int, int, list[Finding]]:
    """Search a file: what kind of file it is, how many parts and bytes it has, and what was found.

    `log` names a log; in other files each part has its name in front.
    """
    name, file, log = place
    if file.stat().st_size == 0:
        return name, 0, 0, []
    findings = []
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for what, at in _wanted.found(data):
            where, part = (log, f"line {_line(data, at)}") if log else _part(data, at)
            findings.append(Finding(what, where, part))
        return name, 1 if log else _count(data), len(data), findings


def _count(data: mmap.mmap) -> int:
    return sum(1 for _ in re.finditer(re.escape(MARK), data))


def _line(data: mmap.mmap, at: int) -> int:
    return data[:at].count(b"\n") + 1


def _part(data: mmap.mmap, at: int) -> tuple[str, str]:
    """Where the part is from in which this place is, and which one it is there."""
    begin = data.rfind(MARK, 0, at) + len(MARK)
    where, _, part = data[begin : data.find(b"\n", begin)].decode("utf-8", "replace").partition(SPLIT)
    return where, part

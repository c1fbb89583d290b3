"""`interlink keys`: which encryption keys the store depends on, and every sealed value under the first one.

A rotation goes through every document of every collection while services write: what it writes is written
only where the value is still the one that was read. It keeps no place, because to begin again costs reading
only: what is under the first key already is not written again.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from interlink.prepare import indexes
from shared.contracts.errors import Misconfigured
from shared.runtime.encryption_keys import load_keys
from shared.runtime.mongo import Collection, Document, Mongo, UpdateOne, translate_errors
from shared.runtime.secrets import LocalKeyProvider, Sealed, Vault, is_sealed
from shared.runtime.settings import HubSettings, MongoSettings, load

_BATCH_SIZE: Final = 300
_MAX_PASSES: Final = 4
_MAX_ATTEMPTS: Final = 20
_MAX_REPORTED: Final = 100
"""Values of one collection that are named; the others are only counted."""

FieldPath = tuple[str | int, ...]
"""Where a value stands in its document: names, and places in lists."""
SealedTransform = Callable[[Sealed, FieldPath, Document], Sealed | None]
"""What a sealed value is to become, or None where it stays. Raises `Misconfigured`: it cannot be opened."""
_KeyUse = tuple[str, bool]
"""What is kept of a sealed value to count it: its key id, and whether it has the form of 0.3.0."""


class LineReporter(Protocol):
    """Takes a line for the operator; `wrong` ones tell what could not be done."""

    def __call__(self, line: str, *, wrong: bool = False) -> None: ...


async def status(services: Iterable[str], say: LineReporter) -> bool:
    """Count sealed values by key and change nothing; False when one is sealed with a key that is not there.

    Raises `Misconfigured`, `DatabaseUnavailable`.
    """
    keys = load_keys(load(HubSettings))

    def known(value: Sealed, _path: FieldPath, document: Document) -> None:
        if value["k"] not in keys.ids:
            raise Misconfigured(f"a secret of {document['_id']} was sealed with key {value['k']}")

    async with _collections(services) as collections:
        found = {each.name: await _CollectionPass(each, known, say).run() for each in collections}
        for name, counts in found.items():
            say(counts.line(name))
    used = _total_by_key(found.values())
    _report_keys(keys, used, say)
    return used.keys() <= set(keys.ids)


async def rotate(services: Iterable[str], say: LineReporter) -> bool:
    """Bring every sealed value under the first key; False when one is left under another.

    What a service read before and writes afterwards is under the old key again, so collections that hold
    sealed values are gone through until one time changes nothing. Raises `Misconfigured`,
    `DatabaseUnavailable`.
    """
    keys = load_keys(load(HubSettings))
    renewal = _Rewrapper(keys)
    found: dict[str, _Counts] = {}
    async with _collections(services) as everywhere:
        collections, changed = everywhere, 0
        for nth in range(_MAX_PASSES):
            changed = 0
            for each in collections:
                counts = await _CollectionPass(each, renewal.rewrap, say if nth == 0 else _discard_line).run()
                found[each.name] = counts
                changed += counts.changed
                if nth == 0 or counts.changed:
                    again = "" if nth == 0 else f" (time {nth + 1})"
                    say(f"{counts.line(each.name)}, {counts.changed} documents changed{again}")
            if not changed:
                break
            collections = [each for each in collections if found[each.name].keys]
        else:
            say("services seal with another key meanwhile: give them all the same first one", wrong=True)
    used = _total_by_key(found.values())
    _report_keys(keys, used, say)
    return not changed and used.keys() <= {keys.current}


async def count_unknown_keys(mongo: Mongo, services: Iterable[str]) -> dict[str, int]:
    """How much is sealed with which key that is not there, among the newest documents of each collection.

    A look for `interlink doctor`: it reads no more than a page of each. Raises `Misconfigured`,
    `DatabaseUnavailable`.
    """
    known, found = load_keys(load(HubSettings)).ids, Counter[str]()
    for name in {name for each in indexes(services) for name in each}:
        with translate_errors():
            async for document in mongo.collection(name).find().sort("_id", -1).limit(_BATCH_SIZE):
                found.update(value["k"] for _, value in sealed_in(document) if value["k"] not in known)
    return dict(found)


def sealed_in(value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Sealed]]:
    """Every sealed value in a document, at any depth, with where it stands."""
    if is_sealed(value):
        yield path, value
        return
    for name, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(each, dict | list):
            yield from sealed_in(each, (*path, name))


class _Rewrapper:
    """What a rotation makes of a value: its data key under the first key, or all of it anew."""

    def __init__(self, keys: LocalKeyProvider) -> None:
        self._keys = keys
        self._vault = Vault(keys, direct=keys)

    def rewrap(self, value: Sealed, path: FieldPath, document: Document) -> Sealed | None:
        record = str(document["_id"])
        if "w" not in value:
            return self._of_0_3(value, path, document, record)
        return None if value["k"] == self._keys.current else self._vault.rewrap(value, record=record)

    def _of_0_3(self, value: Sealed, path: FieldPath, document: Document, record: str) -> Sealed:
        """The record and field that it was bound to are told from where it stands, and opening proves it."""
        name, workspace = _field_name(path), document.get("workspace")
        try:
            plain = self._vault.open(value, workspace="", record=record, field=name)
        except Misconfigured as error:
            if value["k"] not in self._keys.ids:
                raise
            raise Misconfigured(f"{error}; or version 0.3.0 sealed it for another place") from None
        if not isinstance(workspace, str):
            until = " until it expires" if document.get("expires_at") else ""
            raise Misconfigured(
                f"the secret {name!r} of {record} was sealed by version 0.3.0, and the document does not say "
                f"for which workspace: it stays as it is{until}"
            )
        return self._vault.seal(plain, workspace=workspace, record=record, field=name)


def _field_name(path: FieldPath) -> str:
    match path:
        case ("secrets", int(), "sealed"):
            return "secret"
    return ".".join(map(str, path))


@dataclass(slots=True)
class _Counts:
    """What was found in a collection; values as they are after what was changed."""

    documents: int = 0
    changed: int = 0
    of_0_3: int = 0
    keys: Counter[str] = field(default_factory=Counter)

    def add(self, values: Iterable[_KeyUse]) -> None:
        """Count a document with these sealed values."""
        self.documents += 1
        for key, of_0_3 in values:
            self.keys[key] += 1
            self.of_0_3 += of_0_3

    def line(self, name: str) -> str:
        form = f" ({self.of_0_3} in the form of 0.3.0)" if self.of_0_3 else ""
        return f"{name}: {self.documents} documents, {self.keys.total()} sealed values{form}"


@dataclass(frozen=True, slots=True)
class _DocumentUpdate:
    """What is to be done with one document. Its update matches only what was read."""

    id: Any
    match: Mapping[str, Any]
    change: Mapping[str, Any]
    before: Sequence[_KeyUse]
    after: Sequence[_KeyUse]
    faults: Sequence[str]

    def update(self) -> UpdateOne:
        return UpdateOne({"_id": self.id, **self.match}, {"$set": self.change})


class _CollectionPass:
    """One time through a collection. It holds one batch of documents and one page of updates in memory."""

    def __init__(self, collection: Collection, rewrap: SealedTransform, say: LineReporter) -> None:
        self._collection = collection
        self._transform = rewrap
        self._say = say
        self._told = 0
        self._counts = _Counts()

    async def run(self) -> _Counts:
        waiting: list[_DocumentUpdate] = []
        with translate_errors():
            # One cursor, in the store's own order: no document moves in it when it is changed. A query for
            # each page in the order of ids costs the embedded store all that follows, each time.
            async for document in self._collection.find().batch_size(_BATCH_SIZE):
                self._take(self._planned(document), waiting)
                if len(waiting) == _BATCH_SIZE:
                    await self._write(waiting)
                    waiting = []
        if waiting:
            await self._write(waiting)
        if self._told > _MAX_REPORTED:
            self._say(f"{self._collection.name}: {self._told - _MAX_REPORTED} more such values", wrong=True)
        return self._counts

    def _take(self, plan: _DocumentUpdate, waiting: list[_DocumentUpdate]) -> None:
        if plan.change:
            waiting.append(plan)
        else:
            self._settle(plan, plan.before)

    async def _write(self, plans: list[_DocumentUpdate]) -> None:
        """Write what still is as it was read; what is not is read and planned again."""
        for _ in range(_MAX_ATTEMPTS):
            with translate_errors():
                done = await self._collection.bulk_write([plan.update() for plan in plans], ordered=False)
            self._counts.changed += done.matched_count
            if done.matched_count == len(plans):
                for plan in plans:
                    self._settle(plan, plan.after)
                return
            again: list[_DocumentUpdate] = []
            with translate_errors():
                async for document in self._collection.find({"_id": {"$in": [plan.id for plan in plans]}}):
                    self._take(self._planned(document), again)
            if not again:
                return
            plans = again
        for plan in plans:
            self._settle(plan, plan.before)
            self._fault(f"{plan.id} changes all the time, or has a dot in a field's name: it stays as it is")

    def _planned(self, document: Document) -> _DocumentUpdate:
        match: Document = {}
        change: Document = {}
        before: list[_KeyUse] = []
        after: list[_KeyUse] = []
        faults: list[str] = []
        for path, value in sealed_in(document):
            new: Sealed | None = None
            try:
                new = self._transform(value, path, document)
            except Misconfigured as error:
                faults.append(str(error))
            before.append(_key_use(value))
            after.append(_key_use(new or value))
            if new:
                place = ".".join(map(str, path))
                # A nonce and a wrapped key are random: the same one is the same value.
                match |= {f"{place}.k": value["k"], f"{place}.n": value["n"]}
                match |= {f"{place}.w": value["w"]} if "w" in value else {}
                change |= {f"{place}.k": new["k"], f"{place}.w": new["w"]} if "w" in value else {place: new}
        return _DocumentUpdate(document["_id"], match, change, before, after, faults)

    def _settle(self, plan: _DocumentUpdate, values: Sequence[_KeyUse]) -> None:
        self._counts.add(values)
        for fault in plan.faults:
            self._fault(fault)

    def _fault(self, text: str) -> None:
        self._told += 1
        if self._told <= _MAX_REPORTED:
            self._say(f"{self._collection.name}: {text}", wrong=True)


@asynccontextmanager
async def _collections(services: Iterable[str]) -> AsyncIterator[Sequence[Collection]]:
    mongo = Mongo(load(MongoSettings), app="interlink-keys")
    try:
        await mongo.ping()
        names = dict.fromkeys(name for each in indexes(services) for name in each)
        yield [mongo.collection(name) for name in names]
    finally:
        mongo.close()


def _key_use(value: Sealed) -> _KeyUse:
    return value["k"], "w" not in value


def _total_by_key(found: Iterable[_Counts]) -> Counter[str]:
    return sum((counts.keys for counts in found), Counter[str]())


def _report_keys(keys: LocalKeyProvider, used: Counter[str], say: LineReporter) -> None:
    for nth, key in enumerate(keys.ids):
        first = ", the first" if nth == 0 else ""
        count = f"{used[key]} sealed values" if used[key] else "nothing is sealed with it"
        say(f"key {key}{first}: {count}")
    for key in sorted(used.keys() - set(keys.ids)):
        say(f"key {key}, which is not there: {used[key]} sealed values", wrong=True)


def _discard_line(line: str, *, wrong: bool = False) -> None:
    """For what was said the first time through."""

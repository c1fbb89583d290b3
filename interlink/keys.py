"""`interlink keys`: count stored secrets by encryption key, and seal all of them with the first key.

A rotation reads every document of every collection while services write. An update applies only if the value
is still the one that was read. Progress is not stored: starting again costs reads only, because values under
the first key are not written again.
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
"""Maximum of faulty values of a collection that are listed. The others are only counted."""

FieldPath = tuple[str | int, ...]
"""Path of a value in its document: field names, and indexes of lists."""
SealedTransform = Callable[[Sealed, FieldPath, Document], Sealed | None]
"""Returns the new value, or None to leave it. Raises `Misconfigured` if the value cannot be opened."""
_KeyUse = tuple[str, bool]
"""Key id of a sealed value, and True if it has the format of version 0.3.0."""


class LineReporter(Protocol):
    """Prints a line for the operator. `wrong` lines report what could not be done."""

    def __call__(self, line: str, *, wrong: bool = False) -> None: ...


async def status(services: Iterable[str], report: LineReporter) -> bool:
    """Count sealed values by key and change nothing. Return False if the key of one is missing.

    Raises `Misconfigured` or `DatabaseUnavailable`.
    """
    keys = load_keys(load(HubSettings))

    def check_key(value: Sealed, _path: FieldPath, document: Document) -> None:
        if value["k"] not in keys.ids:
            raise Misconfigured(f"a secret of {document['_id']} was sealed with key {value['k']}")

    async with _collections(services) as collections:
        results = {
            collection.name: await _CollectionPass(collection, check_key, report).run()
            for collection in collections
        }
        for name, counts in results.items():
            report(counts.line(name))
    used = _total_by_key(results.values())
    _report_keys(keys, used, report)
    return used.keys() <= set(keys.ids)


async def rotate(services: Iterable[str], report: LineReporter) -> bool:
    """Seal every value with the first key. Return False if one is left under another key.

    Raises `Misconfigured` or `DatabaseUnavailable`.
    """
    keys = load_keys(load(HubSettings))
    rewrapper = _Rewrapper(keys)
    results: dict[str, _Counts] = {}
    async with _collections(services) as all_collections:
        collections, changed = all_collections, 0
        # A service may write back under the old key what it read before: repeat until a pass changes nothing.
        for number in range(_MAX_PASSES):
            changed = 0
            first = number == 0
            for collection in collections:
                counts = await _CollectionPass(
                    collection, rewrapper.rewrap, report if first else _discard_line
                ).run()
                results[collection.name] = counts
                changed += counts.changed
                if first or counts.changed:
                    note = "" if first else f" (pass {number + 1})"
                    report(f"{counts.line(collection.name)}, {counts.changed} documents changed{note}")
            if not changed:
                break
            collections = [collection for collection in collections if results[collection.name].keys]
        else:
            report("services still seal with another key: give all of them the same first key", wrong=True)
    used = _total_by_key(results.values())
    _report_keys(keys, used, report)
    return not changed and used.keys() <= {keys.current}


async def count_unknown_keys(mongo: Mongo, services: Iterable[str]) -> dict[str, int]:
    """Count sealed values by missing key, in the newest documents of each collection.

    For `interlink doctor`: at most one batch of each collection is read. Raises `Misconfigured` or
    `DatabaseUnavailable`.
    """
    available, counts = load_keys(load(HubSettings)).ids, Counter[str]()
    for name in {name for by_collection in indexes(services) for name in by_collection}:
        with translate_errors():
            async for document in mongo.collection(name).find().sort("_id", -1).limit(_BATCH_SIZE):
                counts.update(value["k"] for _, value in sealed_in(document) if value["k"] not in available)
    return dict(counts)


def sealed_in(value: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Sealed]]:
    """Yield every sealed value in a document, at any depth, with its path."""
    if is_sealed(value):
        yield path, value
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from sealed_in(item, (*path, name))


class _Rewrapper:
    """Seals values with the first key: wraps the data key again, or encrypts those of version 0.3.0 again."""

    def __init__(self, keys: LocalKeyProvider) -> None:
        self._keys = keys
        self._vault = Vault(keys, direct=keys)

    def rewrap(self, value: Sealed, path: FieldPath, document: Document) -> Sealed | None:
        """Return the value under the first key; None if it is. Raises `Misconfigured` if it does not open."""
        record = str(document["_id"])
        if "w" not in value:
            return self._reseal_0_3(value, path, document, record)
        return None if value["k"] == self._keys.current else self._vault.rewrap(value, record=record)

    def _reseal_0_3(self, value: Sealed, path: FieldPath, document: Document, record: str) -> Sealed:
        """Encrypt a value of version 0.3.0 again. Its path gives the field, and opening proves it."""
        name, workspace = _field_name(path), document.get("workspace")
        try:
            plain = self._vault.open(value, workspace="", record=record, field=name)
        except Misconfigured as error:
            if value["k"] not in self._keys.ids:
                raise
            raise Misconfigured(f"{error}; or version 0.3.0 sealed it for another field") from None
        if not isinstance(workspace, str):
            until = " until it expires" if document.get("expires_at") else ""
            raise Misconfigured(
                f"the secret {name!r} of {record} was sealed by version 0.3.0, and the document does not say "
                f"for which workspace: it stays as it is{until}"
            )
        return self._vault.seal(plain, workspace=workspace, record=record, field=name)


def _field_name(path: FieldPath) -> str:
    """Return the field name that a value at this path is bound to."""
    match path:
        case ("secrets", int(), "sealed"):
            return "secret"
    return ".".join(map(str, path))


@dataclass(slots=True)
class _Counts:
    """Counts of one pass through a collection, after its changes."""

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
        note = f" ({self.of_0_3} in the format of 0.3.0)" if self.of_0_3 else ""
        return f"{name}: {self.documents} documents, {self.keys.total()} sealed values{note}"


@dataclass(frozen=True, slots=True)
class _DocumentUpdate:
    """The update of one document. It matches only the values that were read."""

    id: Any
    match: Mapping[str, Any]
    change: Mapping[str, Any]
    before: Sequence[_KeyUse]
    after: Sequence[_KeyUse]
    faults: Sequence[str]

    def operation(self) -> UpdateOne:
        return UpdateOne({"_id": self.id, **self.match}, {"$set": self.change})


class _CollectionPass:
    """One pass through a collection. At most one batch of documents and of updates is in memory."""

    def __init__(self, collection: Collection, transform: SealedTransform, report: LineReporter) -> None:
        self._collection = collection
        self._transform = transform
        self._report = report
        self._faults = 0
        self._counts = _Counts()

    async def run(self) -> _Counts:
        """Read every document and write what the transform changes. Return the counts."""
        updates: list[_DocumentUpdate] = []
        with translate_errors():
            # One cursor in storage order: a change does not move a document in it. Queries by page in the
            # order of ids would make the embedded database read all later documents for each page.
            async for document in self._collection.find().batch_size(_BATCH_SIZE):
                self._add(self._plan(document), updates)
                if len(updates) == _BATCH_SIZE:
                    await self._write(updates)
                    updates = []
        if updates:
            await self._write(updates)
        if self._faults > _MAX_REPORTED:
            more = self._faults - _MAX_REPORTED
            self._report(f"{self._collection.name}: {more} more such values", wrong=True)
        return self._counts

    def _add(self, update: _DocumentUpdate, updates: list[_DocumentUpdate]) -> None:
        """Collect an update to write. Count a document without one at once."""
        if update.change:
            updates.append(update)
        else:
            self._count(update, update.before)

    async def _write(self, updates: list[_DocumentUpdate]) -> None:
        """Apply the updates. Documents that changed since they were read are read and planned again."""
        for _ in range(_MAX_ATTEMPTS):
            with translate_errors():
                result = await self._collection.bulk_write(
                    [update.operation() for update in updates], ordered=False
                )
            self._counts.changed += result.matched_count
            if result.matched_count == len(updates):
                for update in updates:
                    self._count(update, update.after)
                return
            # The result does not say which updates matched. Those that did need no other one.
            remaining: list[_DocumentUpdate] = []
            with translate_errors():
                async for document in self._collection.find(
                    {"_id": {"$in": [update.id for update in updates]}}
                ):
                    self._add(self._plan(document), remaining)
            if not remaining:
                return
            updates = remaining
        for update in updates:
            self._count(update, update.before)
            self._report_fault(
                f"{update.id} changes all the time, or has a dot in a field's name: it stays as it is"
            )

    def _plan(self, document: Document) -> _DocumentUpdate:
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
                field_path = ".".join(map(str, path))
                # A nonce and a wrapped key are random: the same one is the same value.
                match |= {f"{field_path}.k": value["k"], f"{field_path}.n": value["n"]}
                match |= {f"{field_path}.w": value["w"]} if "w" in value else {}
                if "w" in value:
                    change |= {f"{field_path}.k": new["k"], f"{field_path}.w": new["w"]}
                else:
                    change[field_path] = new
        return _DocumentUpdate(document["_id"], match, change, before, after, faults)

    def _count(self, update: _DocumentUpdate, values: Sequence[_KeyUse]) -> None:
        self._counts.add(values)
        for fault in update.faults:
            self._report_fault(fault)

    def _report_fault(self, text: str) -> None:
        self._faults += 1
        if self._faults <= _MAX_REPORTED:
            self._report(f"{self._collection.name}: {text}", wrong=True)


@asynccontextmanager
async def _collections(services: Iterable[str]) -> AsyncIterator[Sequence[Collection]]:
    mongo = Mongo(load(MongoSettings), app="interlink-keys")
    try:
        await mongo.ping()
        names = dict.fromkeys(name for by_collection in indexes(services) for name in by_collection)
        yield [mongo.collection(name) for name in names]
    finally:
        mongo.close()


def _key_use(value: Sealed) -> _KeyUse:
    return value["k"], "w" not in value


def _total_by_key(results: Iterable[_Counts]) -> Counter[str]:
    return sum((counts.keys for counts in results), Counter[str]())


def _report_keys(keys: LocalKeyProvider, used: Counter[str], report: LineReporter) -> None:
    for number, key in enumerate(keys.ids):
        first = ", the first" if number == 0 else ""
        count = f"{used[key]} sealed values" if used[key] else "nothing is sealed with it"
        report(f"key {key}{first}: {count}")
    for key in sorted(used.keys() - set(keys.ids)):
        report(f"key {key}, which is missing: {used[key]} sealed values", wrong=True)


def _discard_line(line: str, *, wrong: bool = False) -> None:
    """Report nothing: a later pass finds the faults of the first one again."""

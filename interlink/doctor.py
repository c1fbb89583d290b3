"""`interlink doctor`: what stands between these settings and a running hub, and what to do about it."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic_settings import BaseSettings

from interlink.datadir import FORMAT, display_path, in_use, join_running
from interlink.keys import count_unknown_keys
from interlink.prepare import BOOTSTRAP_VARIABLE, indexes
from shared.connections.apps import APPS_DIR_VARIABLE as APPS_DIR
from shared.connections.apps import configured_apps
from shared.contracts.errors import InterlinkError, Misconfigured
from shared.manifests.catalogue import CALLBACK_PATH
from shared.runtime.encryption_keys import open_vault
from shared.runtime.failpoints import FAILPOINT_VARIABLE as CRASH_AT
from shared.runtime.kafka.admin import missing_topics
from shared.runtime.mongo import Index, Mongo, translate_errors, utcnow
from shared.runtime.settings import EgressSettings, HubSettings, KafkaSettings, MongoSettings, load
from shared.runtime.web import idempotency

_MAX_CLOCK_SKEW: Final = timedelta(seconds=5)
_MAX_NAMED: Final = 4
_MISSING_FIELD: Final = "Field required"
_PROBE: Final = "interlink-doctor"
_OTHER_VARIABLES: Final = frozenset(
    {"INTERLINK_SECRET", "INTERLINK_DATA_DIR", BOOTSTRAP_VARIABLE, CRASH_AT, APPS_DIR}
)
"""Variables that are no settings of a service."""

S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok` is None when it could not be; `detail` says what to do."""

    about: str
    ok: bool | None
    detail: str


async def run_checks(data_dir: Path, services: Sequence[str]) -> list[Finding]:
    """Look at everything; what cannot work because of an earlier finding is left out."""
    join_running(data_dir)
    findings = [*_check_python(), _check_data_folder(data_dir), *_check_settings(services)]
    kafka, mongo = _load_or_none(KafkaSettings), _load_or_none(MongoSettings)
    if kafka:
        findings.append(await _check_kafka(kafka))
    if mongo:
        findings += [finding async for finding in _check_mongo(mongo, services)]
    return findings


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the findings."""
    from rich.console import Console  # noqa: PLC0415 -- only when it is shown
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    words = {True: Text("ok", "green"), False: Text("wrong", "bold red"), None: Text("unknown", "yellow")}
    rows = Table(box=None, pad_edge=False, show_header=False)
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for finding in findings:
        rows.add_row(finding.about, words[finding.ok], Text(finding.detail))
    Console().print(rows)


def _check_python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", sys.version_info >= (3, 11), version)


def _check_data_folder(path: Path) -> Finding:
    if not path.exists():
        return Finding("data folder", True, f"{display_path(path)} is not there yet: 'interlink up' makes it")
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(
            "data folder", False, f"{display_path(path)} is not writable: choose another with --data-dir"
        )
    state = "in use by 'interlink up'" if in_use(path) else "free"
    return Finding("data folder", True, f"{display_path(path)}, format {FORMAT}, {state}")


def _check_settings(services: Sequence[str]) -> Iterator[Finding]:
    for kind, name in ((HubSettings, "hub"), (KafkaSettings, "Kafka"), (MongoSettings, "MongoDB")):
        yield _check_setting(f"settings: {name}", partial(load, kind))
    for name, own in own_settings(services):
        found = _check_setting(f"settings: {name}", partial(load, own))
        if _MISSING_FIELD not in found.detail:  # 'interlink up' gives what only one service needs
            yield found
    yield _check_setting("encryption key", lambda: open_vault(load(HubSettings)))
    yield _check_apps()
    yield _check_variables(services)


def _check_variables(services: Sequence[str]) -> Finding:
    """Variables that begin as ours do and that nobody reads: it may be a slip."""
    kinds: list[type[BaseSettings]] = [HubSettings, *(kind for _, kind in own_settings(services))]
    known = {f"INTERLINK_{name}".upper() for kind in kinds for name in kind.model_fields}
    known |= _OTHER_VARIABLES
    strangers = [
        f"{name} (did you mean {near[0]}?)" if (near := get_close_matches(name, known, 1)) else name
        for name in sorted(os.environ)
        if name.startswith("INTERLINK_") and not name.startswith("INTERLINK_APP_") and name not in known
    ]
    if strangers:
        return Finding("variables", None, f"nobody reads {_shorten(strangers)}: see 'interlink settings'")
    return Finding("variables", True, "all are known")


def own_settings(services: Sequence[str]) -> Iterator[tuple[str, type[EgressSettings]]]:
    """What single services read."""
    for service in services:
        if find_spec(f"services.{service}.settings"):
            known = vars(import_module(f"services.{service}.settings")).values()
            own = [each for each in known if isinstance(each, type) and issubclass(each, EgressSettings)]
            yield from ((service, each) for each in own if each is not EgressSettings)


def _check_apps() -> Finding:
    """The apps that environment and files say, and the address that each has to be registered with."""
    hub = _load_or_none(HubSettings)
    where = f"; redirect URI: {hub.public_base}{CALLBACK_PATH}" if hub else ""
    try:
        found = [f"{name} ({app.source})" for name, app in sorted(configured_apps().items())]
    except Misconfigured as error:
        return Finding("apps", False, str(error))
    return Finding("apps", True, (", ".join(found) or "none but those that the API was told") + where)


def _check_setting(about: str, action: Callable[[], object]) -> Finding:
    try:
        action()
    except Misconfigured as error:
        hint = "; or run 'interlink up', which brings its own" if _MISSING_FIELD in str(error) else ""
        return Finding(about, False, f"{error}{hint}")
    return Finding(about, True, "")


def _load_or_none(kind: type[S]) -> S | None:
    try:
        return load(kind)
    except Misconfigured:
        return None


async def _check_kafka(settings: KafkaSettings) -> Finding:
    try:
        missing = await missing_topics(settings)
    except InterlinkError as error:
        return Finding("bus", False, f"{error}: is it running, and is KAFKA_BOOTSTRAP_SERVERS right?")
    if missing:
        return Finding("bus", False, f"topics are missing ({_shorten(missing)}): run 'interlink init'")
    return Finding("bus", True, f"{settings.bootstrap_servers} answers, every topic is there")


async def _check_mongo(settings: MongoSettings, services: Sequence[str]) -> AsyncIterator[Finding]:
    try:
        mongo = Mongo(settings, app=_PROBE)
    except Misconfigured as error:
        yield Finding("store", False, str(error))
        return
    try:
        await mongo.ping()
        yield Finding("store", True, "answers")
        yield await _check_indexes(mongo, services)
        yield await _check_write(mongo)
        yield await _check_clock(mongo)
        yield await _check_sealed_secrets(mongo, services)
    except InterlinkError as error:
        yield Finding("store", False, f"{error}: is it running, and is MONGODB_URI right?")
    finally:
        mongo.close()


async def _check_indexes(mongo: Mongo, services: Sequence[str]) -> Finding:
    missing: list[str] = []
    for each in indexes(services):
        for name, wanted in each.items():
            with translate_errors():
                there = await mongo.collection(name).index_information()
            present = {tuple((key, int(way)) for key, way in index["key"]) for index in there.values()}
            missing += [_index_name(name, index) for index in wanted if tuple(index.keys) not in present]
    if missing:
        return Finding("indexes", False, f"missing: {_shorten(missing)}: run 'interlink init'")
    return Finding("indexes", True, "all there")


async def _check_sealed_secrets(mongo: Mongo, services: Sequence[str]) -> Finding:
    """Whether the keys that there are open what the store has."""
    try:
        missing = await count_unknown_keys(mongo, services)
    except Misconfigured:
        return Finding("sealed secrets", None, "there is no encryption key to open them with")
    if missing:
        keys = ", ".join(f"{count} with key {key}" for key, count in sorted(missing.items()))
        return Finding(
            "sealed secrets",
            False,
            f"sealed with a key that is not there: {keys}. Nothing that needs them is sent or called: "
            "put that key behind the first one and restart; 'interlink keys status' counts all of them",
        )
    return Finding("sealed secrets", True, "the keys open them")


def _shorten(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _index_name(collection: str, index: Index) -> str:
    return f"{collection}({', '.join(key for key, _ in index.keys)})"


async def _check_write(mongo: Mongo) -> Finding:
    collection = mongo.collection(idempotency.COLLECTION)
    probe: dict[str, Any] = {"_id": f"{_PROBE}-{os.getpid()}", "expires_at": utcnow()}
    with translate_errors():
        await collection.replace_one({"_id": probe["_id"]}, probe, upsert=True)
        await collection.delete_one({"_id": probe["_id"]})
    return Finding("store, writing", True, "a document was written and removed")


async def _check_clock(mongo: Mongo) -> Finding:
    before = utcnow()
    with translate_errors():
        answer = await mongo.collection(idempotency.COLLECTION).database.command("hello")
    after = utcnow()
    theirs = answer.get("localTime")
    if theirs is None:
        return Finding("clock", None, "the store does not tell its time")
    theirs = theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)
    ours = before + (after - before) / 2
    apart = abs(theirs - ours)
    shown_s = f"{apart.total_seconds():.1f} s from the store's"
    if apart > _MAX_CLOCK_SKEW:
        return Finding("clock", False, f"{shown_s}: leases and retries need the same time; set up NTP")
    return Finding("clock", True, shown_s)

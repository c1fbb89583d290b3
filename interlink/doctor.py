"""`interlink doctor`: check settings, data folder, Kafka and MongoDB, and say how to repair what is wrong."""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic_settings import BaseSettings

from interlink.datadir import FORMAT, display_path, in_use, join_running
from interlink.hub_api import KEY_VARIABLE, URL_VARIABLE
from interlink.keys import count_unknown_keys
from interlink.prepare import BOOTSTRAP_FILE_VARIABLE, BOOTSTRAP_VARIABLE, indexes
from services.importer.settings import ImporterSettings
from shared.connections.configured_apps import APPS_DIR_VARIABLE, configured_apps
from shared.contracts.errors import InterlinkError, Misconfigured
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.registry import registry
from shared.runtime.clock import utcnow
from shared.runtime.encryption_keys import open_vault
from shared.runtime.failpoints import FAILPOINT_VARIABLE
from shared.runtime.kafka.admin import absent_topics
from shared.runtime.mongo import Mongo, translate_errors
from shared.runtime.prerequisites import shorten
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from shared.runtime.web import idempotency_keys

_MAX_CLOCK_SKEW: Final = timedelta(seconds=5)
_MISSING_FIELD: Final = "Field required"
_PROBE: Final = "interlink-doctor"
_OTHER_VARIABLES: Final = frozenset(
    {
        "INTERLINK_SECRET",
        "INTERLINK_DATA_DIR",
        URL_VARIABLE,
        KEY_VARIABLE,
        BOOTSTRAP_VARIABLE,
        BOOTSTRAP_FILE_VARIABLE,
        FAILPOINT_VARIABLE,
        APPS_DIR_VARIABLE,
    }
)
"""Variables that the command or tests read, and that are no settings of a service."""

S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `ok` is None if it could not be made; `detail` says what to do."""

    about: str
    ok: bool | None
    detail: str


async def run_checks(data_dir: Path, services: Sequence[str]) -> list[Finding]:
    """Run all checks, except those that cannot work because of an earlier finding."""
    join_running(data_dir)
    findings = [*_check_python(), _check_data_folder(data_dir), *_check_settings(services)]
    kafka, mongo = _load_or_none(KafkaSettings), _load_or_none(MongoSettings)
    if kafka:
        findings.append(await _check_kafka(kafka))
    if mongo:
        findings += [finding async for finding in _check_mongo(mongo, services)]
    return findings


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the findings as a table."""
    from rich.console import Console  # noqa: PLC0415 -- only when it is shown
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    verdicts = {True: Text("ok", "green"), False: Text("wrong", "bold red"), None: Text("unknown", "yellow")}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(finding.about, verdicts[finding.ok], Text(finding.detail))
    Console().print(table)


def _check_python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", sys.version_info >= (3, 11), version)


def _check_data_folder(path: Path) -> Finding:
    if not path.exists():
        return Finding(
            "data folder", True, f"{display_path(path)} does not exist yet: 'interlink up' creates it"
        )
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
        finding = _check_setting(f"settings: {name}", partial(load, own))
        if _MISSING_FIELD not in finding.detail:  # 'interlink up' sets what single services require
            yield finding
        if issubclass(own, ImporterSettings) and finding.ok:
            yield _check_uploads(load(ImporterSettings).upload_folder)
    yield _check_setting("encryption key", lambda: open_vault(load(HubSettings)))
    yield _check_apps()
    yield _check_variables(services)


def _check_uploads(path: Path) -> Finding:
    """Check that the importer can use its folder, which it creates where it is missing."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        detail = f"{display_path(path)} is not writable: set INTERLINK_UPLOAD_FOLDER to a folder that is"
        return Finding("upload folder", False, detail)
    free = shutil.disk_usage(existing).free // 1024**3
    return Finding("upload folder", True, f"{display_path(path)}, {free} GB are free")


def _check_variables(services: Sequence[str]) -> Finding:
    """Report variables with the prefix INTERLINK_ that nothing reads: their names may be misspelled."""
    kinds: list[type[BaseSettings]] = [HubSettings, *(kind for _, kind in own_settings(services))]
    names = {f"INTERLINK_{name}".upper() for kind in kinds for name in kind.model_fields}
    names |= _OTHER_VARIABLES
    unknown = [
        f"{name} (did you mean {near[0]}?)" if (near := get_close_matches(name, names, 1)) else name
        for name in sorted(os.environ)
        if name.startswith("INTERLINK_") and not name.startswith("INTERLINK_APP_") and name not in names
    ]
    if unknown:
        return Finding(
            "variables",
            None,
            f"nothing reads {shorten(unknown)}: 'interlink settings' lists the right names",
        )
    return Finding("variables", True, "all of them are settings of the hub")


def own_settings(services: Sequence[str]) -> Iterator[tuple[str, type[BaseSettings]]]:
    """Yield the settings classes of single services, with the service's name."""
    for service in services:
        module = f"services.{service}.settings"
        if find_spec(module):
            members = [kind for kind in vars(import_module(module)).values() if isinstance(kind, type)]
            own = [kind for kind in members if issubclass(kind, BaseSettings) and kind.__module__ == module]
            yield from ((service, kind) for kind in own)


def _check_apps() -> Finding:
    """List the apps from environment and files, and the redirect URI to register at the providers."""
    hub = _load_or_none(HubSettings)
    redirect_uri = f"; redirect URI: {hub.public_base}{CALLBACK_PATH}" if hub else ""
    try:
        apps = [f"{name} ({app.source})" for name, app in sorted(configured_apps(registry()).items())]
    except Misconfigured as error:
        return Finding("apps", False, str(error))
    return Finding("apps", True, (", ".join(apps) or "only those that were set by the API") + redirect_uri)


def _check_setting(about: str, action: Callable[[], object]) -> Finding:
    try:
        action()
    except Misconfigured as error:
        hint = "; or run 'interlink up', which sets it" if _MISSING_FIELD in str(error) else ""
        return Finding(about, False, f"{error}{hint}")
    return Finding(about, True, "")


def _load_or_none(kind: type[S]) -> S | None:
    try:
        return load(kind)
    except Misconfigured:
        return None


async def _check_kafka(settings: KafkaSettings) -> Finding:
    try:
        absent = await absent_topics(settings)
    except InterlinkError as error:
        return Finding("Kafka", False, str(error))
    if absent.missing:
        return Finding(
            "Kafka", False, f"topics are missing ({shorten(absent.missing)}): run 'interlink init'"
        )
    if absent.hidden:
        detail = (
            f"this Kafka user may not see {shorten(absent.hidden)}: right for a single service; for all "
            "checks, use the user of 'interlink init' (docs/reference/kafka-acls.md)"
        )
        return Finding("Kafka", None, detail)
    return Finding("Kafka", True, f"{settings.bootstrap_servers} answers, every topic exists")


async def _check_mongo(settings: MongoSettings, services: Sequence[str]) -> AsyncIterator[Finding]:
    try:
        mongo = Mongo(settings, app=_PROBE)
    except Misconfigured as error:
        yield Finding("MongoDB", False, str(error))
        return
    try:
        await mongo.ping()
        yield Finding("MongoDB", True, "answers")
        yield await _check_indexes(mongo, services)
        yield await _check_write(mongo)
        yield await _check_clock(mongo)
        yield await _check_sealed_secrets(mongo, services)
    except InterlinkError as error:
        yield Finding("MongoDB", False, f"{error}: is it running, and is MONGODB_URI right?")
    finally:
        mongo.close()


async def _check_indexes(mongo: Mongo, services: Sequence[str]) -> Finding:
    missing = [name for group in indexes(services) for name in await mongo.missing_indexes(group)]
    if missing:
        return Finding("indexes", False, f"missing: {shorten(missing)}: run 'interlink init'")
    return Finding("indexes", True, "all exist")


async def _check_sealed_secrets(mongo: Mongo, services: Sequence[str]) -> Finding:
    """Check that the configured keys open the stored secrets."""
    try:
        missing = await count_unknown_keys(mongo, services)
    except Misconfigured:
        return Finding("sealed secrets", None, "there is no encryption key to open them with")
    if missing:
        keys = ", ".join(f"{count} with key {key}" for key, count in sorted(missing.items()))
        return Finding(
            "sealed secrets",
            False,
            f"sealed with a key that is missing: {keys}. Deliveries and calls that need them fail: "
            "add that key behind the first one and restart; 'interlink keys status' counts all of them",
        )
    return Finding("sealed secrets", True, "the configured keys open them")


async def _check_write(mongo: Mongo) -> Finding:
    """Write and remove a document. Raises `DatabaseUnavailable`."""
    collection = mongo.collection(idempotency_keys.COLLECTION)
    probe: dict[str, Any] = {"_id": f"{_PROBE}-{os.getpid()}", "expires_at": utcnow()}
    with translate_errors():
        await collection.replace_one({"_id": probe["_id"]}, probe, upsert=True)
        await collection.delete_one({"_id": probe["_id"]})
    return Finding("MongoDB, writing", True, "a document was written and removed")


async def _check_clock(mongo: Mongo) -> Finding:
    """Compare this machine's clock with MongoDB's, at the middle of a request."""
    before = utcnow()
    theirs = await mongo.time()
    after = utcnow()
    if theirs is None:
        return Finding("clock", None, "MongoDB does not report its time")
    ours = before + (after - before) / 2
    skew = abs(theirs - ours)
    difference = f"{skew.total_seconds():.1f} s from MongoDB's"
    if skew > _MAX_CLOCK_SKEW:
        return Finding("clock", False, f"{difference}: leases and retries need the same time; set up NTP")
    return Finding("clock", True, difference)

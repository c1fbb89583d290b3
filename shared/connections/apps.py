"""Platform credentials: the apps that an installation, or one workspace of it, has registered with platforms.

They come from the environment (`INTERLINK_APP_<PROVIDER>_CLIENT_ID`, `_CLIENT_SECRET`, `_SIGNING_SECRET`,
`_SETTING_<NAME>`), from files of the same fields below `INTERLINK_APPS_DIR/<provider>/` (`client_id`,
`setting_<name>`), or from the API, sealed in the store. A workspace's own app goes before the installation's,
and what environment or files say of the installation's before what the API was told.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from shared.contracts.errors import Invalid, Misconfigured
from shared.contracts.ids import derive
from shared.manifests.connector import Connector
from shared.manifests.field_validation import validate_fields
from shared.manifests.registry import connectors
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.secrets import Sealed, Vault
from shared.runtime.snapshot import Snapshot
from shared.wire.oauth import redact

COLLECTION: Final = "platform_credentials"
INDEXES: Final = {
    COLLECTION: (
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}
INSTALLATION: Final = ""
"""In place of a workspace: of the whole installation."""
SECRET_FIELDS: Final = ("client_secret", "signing_secret")
APPS_DIR_VARIABLE: Final = "INTERLINK_APPS_DIR"
_VARIABLE_PREFIX: Final = "INTERLINK_APP_"
_SETTING_PREFIX: Final = "setting_"
_FIELD_PATTERNS: Final = {
    "client_id": re.compile(r"[\x21-\x7e]{1,1000}"),
    **dict.fromkeys(SECRET_FIELDS, re.compile(r"[\x20-\x7e]{1,8000}")),
}
_FIELD_NAMES: Final = "client_id, client_secret, signing_secret, setting_<name>"
_MAX_FILE_BYTES: Final = 16 * 1024
_MAX_REASON_LENGTH: Final = 300

AppSource = Literal["api", "environment", "file"]
AppRef = Sequence[str]
"""Whose an app is (`INSTALLATION`, or the workspace) and its client id: what an integration keeps of it."""


@dataclass(frozen=True, slots=True)
class App:
    """An app registered with a platform; `secrets` has those of `SECRET_FIELDS` that are known."""

    provider: str
    workspace: str
    client_id: str
    secrets: Mapping[str, str] = field(repr=False)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    verified: bool = False
    """The platform has taken it, or its operator says that it is right: accounts may be connected with it."""
    source: AppSource = "api"
    reason: str = ""
    """What the platform said to it, or why it was not asked."""
    created_at: datetime | None = None
    changed_at: datetime | None = None
    revision: str = ""
    """Another one after each change of id, secrets or settings, and when the platform took it once more:
    what was found out is of this one only."""
    readable: bool = True
    """Whether everything that is sealed opens: with half of its secrets an app is not used."""


class Apps:
    """The apps in memory. A part of every service that has them.

    Raises `Misconfigured`, as `configured_apps`.
    """

    def __init__(self, mongo: Mongo, configuration: Configuration, vault: Vault, log: Log) -> None:
        self._vault = vault
        self._log = log
        self._collection = mongo.collection(COLLECTION)
        self._configuration = configuration
        self._by_provider: dict[str, Sequence[App]] = {}
        self._snapshot: Snapshot[App] = Snapshot(
            configuration, self._collection, self._parse, log, on_change=self._invalidate
        )
        self.configured: Mapping[str, App] = configured_apps()
        """By provider: the installation's apps that the environment or files say."""

    async def start(self) -> None:
        await self._snapshot.start()

    async def stop(self) -> None:
        await self._snapshot.stop()

    async def current(self) -> None:
        """Bring the apps up to date, where no API key was checked: see `Configuration.current`."""
        await self._configuration.current()

    def find(self, provider: str, workspace: str, registered: AppRef | None = None) -> App | None:
        """The app that a workspace's accounts of a provider are connected with, now or (`registered`) once.

        None also when it cannot be read or is not there any more: another one in its place would be given
        this one's codes and tokens.
        """
        app = self._find_app(provider, workspace, registered)
        return app if app is not None and app.readable else None

    def is_unreadable(self, provider: str, workspace: str, registered: AppRef | None = None) -> bool:
        """Whether the app that `find` is asked for is there, and cannot be opened."""
        app = self._find_app(provider, workspace, registered)
        return app is not None and not app.readable

    def _find_app(self, provider: str, workspace: str, registered: AppRef | None) -> App | None:
        if registered is None:
            return self.select(provider, workspace)
        every = self._candidates(provider, workspace)
        return next((each for each in every if list(app_ref(each)) == list(registered)), None)

    def select(self, provider: str, workspace: str) -> App | None:
        """The app for accounts that are connected now, whether it can be read or not."""
        return next(self._candidates(provider, workspace), None)

    def all_readable(self, provider: str) -> Sequence[App]:
        """All apps of a provider that can be read, of whomever, the installation's first.

        The same object until one of them changes.
        """
        found = self._by_provider.get(provider)
        if found is None:
            told = sorted(self._snapshot.items.values(), key=lambda each: each.workspace)
            given = self.configured.get(provider)
            apps = [*([given] if given else []), *(each for each in told if each.provider == provider)]
            found = self._by_provider[provider] = tuple(each for each in apps if each.readable)
        return found

    def _candidates(self, provider: str, workspace: str) -> Iterator[App]:
        """The workspace's own and the installation's: the first is used for what is connected now."""
        items = self._snapshot.items
        own, told = (
            items.get(app_record_id(provider, workspace)),
            items.get(app_record_id(provider, INSTALLATION)),
        )
        return (each for each in (own, self.configured.get(provider), told) if each is not None)

    # In the store

    async def read(self, provider: str, workspace: str) -> App | None:
        """The app that the API was told, as it is in the store now. Raises `DatabaseUnavailable`."""
        with translate_errors():
            document = await self._collection.find_one(
                {"_id": app_record_id(provider, workspace), "deleted_at": None}
            )
        return None if document is None else self._parse(document)

    async def write(self, app: App, before: App | None) -> App | None:
        """Keep an app in place of what was `read`; None when that is not what is there any more.

        Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        app = replace(app, changed_at=now, created_at=app.created_at or now, revision=secrets.token_hex(8))
        document = self._document(app)
        found = {"_id": document["_id"]}
        try:
            with translate_errors():
                if before is not None:
                    query = {**found, "revision": before.revision, "deleted_at": None}
                else:
                    query = {**found, "deleted_at": {"$ne": None}}
                done = await self._collection.replace_one(query, document)
                if not done.modified_count:
                    if before is not None:
                        return None
                    await self._collection.insert_one(document)
        except Duplicate:
            return None
        await self._snapshot.record(document["_id"])
        return app

    async def record_check(
        self, app: App, *, verified: bool, reason: str, new_revision: bool = False
    ) -> App | None:
        """Note what was found out about an app; None when it has been changed since.

        `anew`: what was found out before does not count any more. Should a platform repeat the app's
        secrets, they are left out. Raises `DatabaseUnavailable`.
        """
        change = {"verified": verified, "reason": _redact_reason(app, reason), "changed_at": utcnow()}
        if new_revision:
            change["revision"] = secrets.token_hex(8)
        return await self._change(app, change)

    async def remove(self, app: App) -> App | None:
        """Remove an app and its secrets; None when it has been changed since.

        Raises `DatabaseUnavailable`.
        """
        return await self._change(app, {"deleted_at": utcnow(), "changed_at": utcnow(), "secrets": {}})

    async def _change(self, app: App, change: Document) -> App | None:
        wanted = {
            "_id": app_record_id(app.provider, app.workspace),
            "revision": app.revision,
            "deleted_at": None,
        }
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                wanted, {"$set": change}, return_document=True
            )
        if document is None:
            return None
        await self._snapshot.record(document["_id"])
        return self._parse(document)

    def _invalidate(self, before: App | None, after: App | None) -> None:
        for app in (before, after):
            if app:
                self._by_provider.pop(app.provider, None)

    def _document(self, app: App) -> Document:
        name = app_record_id(app.provider, app.workspace)
        hidden = secret_settings(app.provider)
        sealed = dict(app.secrets) | {
            _SETTING_PREFIX + key: value for key, value in app.settings.items() if key in hidden
        }
        return {
            "_id": name,
            "provider": app.provider,
            "workspace": app.workspace,
            "client_id": app.client_id,
            "secrets": {
                key: self._vault.seal(value, workspace=app.workspace, record=name, field=key)
                for key, value in sealed.items()
            },
            "settings": {key: value for key, value in app.settings.items() if key not in hidden},
            "verified": app.verified,
            "reason": app.reason,
            "revision": app.revision,
            "created_at": app.created_at,
            "changed_at": app.changed_at,
            "deleted_at": None,
        }

    def _parse(self, document: Document) -> App:
        name, workspace = document["_id"], document["workspace"]
        kept: dict[str, str] = {}
        readable = True
        sealed: Mapping[str, Sealed] = document["secrets"]
        for key, value in sealed.items():
            try:
                kept[key] = self._vault.open(value, workspace=workspace, record=name, field=key)
            except Misconfigured as error:
                readable = False
                self._log.error(
                    "platform credential not used", provider=document["provider"], error=str(error)
                )
        hidden = {
            key.removeprefix(_SETTING_PREFIX): value
            for key, value in kept.items()
            if key.startswith(_SETTING_PREFIX)
        }
        return App(
            provider=document["provider"],
            workspace=workspace,
            client_id=document["client_id"],
            secrets={key: value for key, value in kept.items() if key in SECRET_FIELDS},
            settings={**document["settings"], **hidden},
            verified=document["verified"] and readable,
            reason=document["reason"]
            if readable
            else "unreadable: its secrets cannot be opened: bring back their key, or enter them again",
            created_at=document["created_at"],
            changed_at=document["changed_at"],
            revision=document["revision"],
            readable=readable,
        )


def app_ref(app: App) -> AppRef:
    """What an integration keeps of the app that it is connected with."""
    return app.workspace, app.client_id


def app_record_id(provider: str, workspace: str) -> str:
    """The id of a platform credential: there is one for each provider and workspace."""
    return f"pcr_{derive('platform credential', provider, workspace)}"


def secret_settings(provider: str) -> frozenset[str]:
    """The settings of a provider's app that are never shown."""
    connector = connectors().get(provider)
    return frozenset(
        name for name, setting in (connector.settings if connector else {}).items() if setting.secret
    )


def uses_own_app(connector: Connector) -> bool:
    """Whether accounts of the provider are connected with an app of its own."""
    return bool(connector.oauth2 or connector.oauth1) and connector.app == connector.provider


def _redact_reason(app: App, text: str) -> str:
    hidden = secret_settings(app.provider)
    of_settings = (value for name, value in app.settings.items() if name in hidden)
    return redact(text, [*app.secrets.values(), *of_settings])[:_MAX_REASON_LENGTH]


# Environment and files


def configured_apps(environment: Mapping[str, str] = os.environ) -> dict[str, App]:
    """The installation's apps that environment and files say, by provider.

    Raises `Misconfigured`, which names the variable or file: no such provider or field, a field that is
    missing, empty or has the wrong form, an app that is in both.
    """
    told = _read_environment(environment)
    filed = _read_files(environment.get(APPS_DIR_VARIABLE, ""))
    for provider in told.keys() & filed.keys():
        raise Misconfigured(
            f"the app of {provider} is in the environment and in {APPS_DIR_VARIABLE}: leave one of them out"
        )
    return {
        **{provider: _build_app(provider, fields, "environment") for provider, fields in told.items()},
        **{provider: _build_app(provider, fields, "file") for provider, fields in filed.items()},
    }


@dataclass(frozen=True, slots=True)
class _FieldValue:
    """A field's value, and the variable or file that says it."""

    value: str = field(repr=False)
    origin: str


def _read_environment(environment: Mapping[str, str]) -> dict[str, dict[str, _FieldValue]]:
    """The fields by provider; a variable that is empty is one that is not set."""
    found: dict[str, dict[str, _FieldValue]] = {}
    known = {name.replace("-", "_"): name for name in connectors()}
    for variable, value in environment.items():
        if not variable.startswith(_VARIABLE_PREFIX) or not value:
            continue
        name, key = _split_variable(variable.removeprefix(_VARIABLE_PREFIX).lower())
        if not key:
            raise Misconfigured(
                f"{variable}: ends in none of _CLIENT_ID, _CLIENT_SECRET, _SIGNING_SECRET, _SETTING_<NAME>"
            )
        provider = known.get(name, name)
        _check_provider(provider, variable)
        found.setdefault(provider, {})[key] = _FieldValue(value, variable)
    return found


def _split_variable(name: str) -> tuple[str, str]:
    """Provider and field of a variable's name; without a field when there is none."""
    provider, found, setting = name.partition(f"_{_SETTING_PREFIX}")
    if found:
        return provider, _SETTING_PREFIX + setting if setting else ""
    for key in _FIELD_PATTERNS:
        if name.endswith(f"_{key}"):
            return name.removesuffix(f"_{key}"), key
    return name, ""


def _read_files(folder: str) -> dict[str, dict[str, _FieldValue]]:
    if not folder:
        return {}
    found: dict[str, dict[str, _FieldValue]] = {}
    for place in _list_folder(Path(folder)):
        if not place.is_dir():
            raise Misconfigured(
                f"{place}: in {APPS_DIR_VARIABLE} stands a folder for each provider, with files in it"
            )
        _check_provider(place.name, str(place))
        said = {file.name: _FieldValue(_read_field(file), str(file)) for file in _list_folder(place)}
        if said:
            found[place.name] = said
    return found


def _list_folder(folder: Path) -> list[Path]:
    """What is in it, but for hidden names: Kubernetes mounts a secret as links into a folder `..data`."""
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise Misconfigured(f"{APPS_DIR_VARIABLE}: {folder} cannot be read: {error.strerror}") from None


def _read_field(file: Path) -> str:
    """The text without blanks and line breaks at its end, which editors and `echo` leave there."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise Misconfigured(f"{file}: has more than {_MAX_FILE_BYTES} bytes")
        text = raw.decode().strip()
    except OSError as error:
        raise Misconfigured(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise Misconfigured(f"{file}: is not text") from None
    if not text:
        raise Misconfigured(f"{file}: is empty")
    return text


def _check_provider(provider: str, origin: str) -> None:
    connector = connectors().get(provider)
    if connector is None:
        raise Misconfigured(f"{origin}: no accounts are connected with an app of {provider!r}")
    if connector.app != provider:
        raise Misconfigured(
            f"{origin}: accounts of {provider} are connected with the app of {connector.app}: set that one"
        )
    if not uses_own_app(connector):
        raise Misconfigured(f"{origin}: accounts of {provider} are connected without an app")


def _build_app(provider: str, said: Mapping[str, _FieldValue], source: AppSource) -> App:
    connector = connectors()[provider]
    settings: dict[str, str] = {}
    for key, each in said.items():
        if key.startswith(_SETTING_PREFIX):
            settings[key.removeprefix(_SETTING_PREFIX)] = each.value
        elif key not in _FIELD_PATTERNS:
            raise Misconfigured(f"{each.origin}: no such field: there are {_FIELD_NAMES}")
        elif not _FIELD_PATTERNS[key].fullmatch(each.value):
            raise Misconfigured(f"{each.origin}: {key} is printable ASCII in one line, and not that long")
    wanted = ["client_id", *(["client_secret"] if connector.needs_secret else [])]
    for key in wanted:
        if key not in said:
            raise Misconfigured(
                f"the app of {provider} that the {source} says has no {key.replace('_', ' ')}"
            )
    try:
        settings = validate_fields(connector.settings, settings, place="setting")
    except Invalid as error:
        faults = "; ".join(f"{each.field}: {each.message}" for each in error.errors)
        raise Misconfigured(f"the app of {provider} that the {source} says: {faults}") from None
    return App(
        provider=provider,
        workspace=INSTALLATION,
        client_id=said["client_id"].value,
        secrets={key: said[key].value for key in SECRET_FIELDS if key in said},
        settings=settings,
        verified=True,
        source=source,
        # The same in every process; too short to try out secrets with.
        revision=derive(*(part for key in sorted(said) for part in (key, said[key].value)))[:8],
    )

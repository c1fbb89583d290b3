"""OAuth apps of the installation and of workspaces: client id, secrets and settings that providers issued.

An app comes from the environment or files (`configured_apps`) or from the API, which stores its secrets
sealed. A workspace's own app takes precedence over the installation's. For the installation, environment and
files take precedence over the API.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from shared.connections.configured_apps import APPS_DIR_VARIABLE, configured_apps
from shared.connections.provider_app import (
    INSTALLATION,
    SECRET_FIELDS,
    SETTING_PREFIX,
    App,
    AppRef,
    AppSource,
    app_record_id,
    app_ref,
    secret_settings,
    uses_own_app,
)
from shared.contracts.errors import Misconfigured
from shared.manifests.registry import connectors
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Duplicate, Index, Mongo, translate_errors, utcnow
from shared.runtime.secrets import Sealed, Vault
from shared.runtime.snapshot import Snapshot
from shared.wire.redaction import redact

__all__ = [
    "APPS_DIR_VARIABLE",
    "COLLECTION",
    "INDEXES",
    "INSTALLATION",
    "SECRET_FIELDS",
    "App",
    "AppRef",
    "AppSource",
    "Apps",
    "app_ref",
    "configured_apps",
    "secret_settings",
    "uses_own_app",
]

COLLECTION: Final = "platform_credentials"
INDEXES: Final = {
    COLLECTION: (
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}
_MAX_REASON_LENGTH: Final = 300


class Apps:
    """All apps, held in memory and written to MongoDB.

    The constructor raises `Misconfigured` if environment or files configure an app wrongly.
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
        """The installation's apps from environment and files, by provider id."""

    async def start(self) -> None:
        await self._snapshot.start()

    async def stop(self) -> None:
        await self._snapshot.stop()

    async def current(self) -> None:
        """Apply changes of other processes. Checking an API key does it too: see `Configuration.current`."""
        await self._configuration.current()

    def find(self, provider: str, workspace: str, registered: AppRef | None = None) -> App | None:
        """Return the app with which a workspace connects accounts of a provider.

        With `registered`, return exactly the app that an integration refers to. Return None if the app is
        unreadable or was removed. Never fall back to another app: it would receive codes and tokens that
        belong to this one.
        """
        app = self._find_app(provider, workspace, registered)
        return app if app is not None and app.readable else None

    def is_unreadable(self, provider: str, workspace: str, registered: AppRef | None = None) -> bool:
        """Return whether the app that `find` looks for exists, but its secrets cannot be decrypted."""
        app = self._find_app(provider, workspace, registered)
        return app is not None and not app.readable

    def _find_app(self, provider: str, workspace: str, registered: AppRef | None) -> App | None:
        if registered is None:
            return self.select(provider, workspace)
        candidates = self._candidates(provider, workspace)
        return next((app for app in candidates if list(app_ref(app)) == list(registered)), None)

    def select(self, provider: str, workspace: str) -> App | None:
        """Return the app for accounts that are connected now, readable or not."""
        return next(self._candidates(provider, workspace), None)

    def all_readable(self, provider: str) -> Sequence[App]:
        """Return the readable apps of a provider, of all workspaces, the installation's first.

        Return the same object until one of them changes, so that callers can cache by identity.
        """
        cached = self._by_provider.get(provider)
        if cached is None:
            stored = sorted(self._snapshot.items.values(), key=lambda app: app.workspace)
            configured = self.configured.get(provider)
            apps = [app for app in stored if app.provider == provider]
            if configured:
                apps.insert(0, configured)
            cached = self._by_provider[provider] = tuple(app for app in apps if app.readable)
        return cached

    def _candidates(self, provider: str, workspace: str) -> Iterator[App]:
        """Yield the workspace's app and the installation's, in order of precedence."""
        items = self._snapshot.items
        own = items.get(app_record_id(provider, workspace))
        installation = items.get(app_record_id(provider, INSTALLATION))
        return (app for app in (own, self.configured.get(provider), installation) if app is not None)

    # In MongoDB

    async def read(self, provider: str, workspace: str) -> App | None:
        """Read an app that was set by the API. Return None if there is none. Raises `DatabaseUnavailable`."""
        with translate_errors():
            document = await self._collection.find_one(
                {"_id": app_record_id(provider, workspace), "deleted_at": None}
            )
        return None if document is None else self._parse(document)

    async def write(self, app: App, before: App | None) -> App | None:
        """Store an app in place of `before`, which is what `read` returned (None: there was no app).

        Return None if the stored app has changed since. Raises `DatabaseUnavailable`.
        """
        now = utcnow()
        app = replace(app, changed_at=now, created_at=app.created_at or now, revision=secrets.token_hex(8))
        document = self._document(app)
        by_id = {"_id": document["_id"]}
        try:
            with translate_errors():
                if before is not None:
                    query = {**by_id, "revision": before.revision, "deleted_at": None}
                else:
                    # The document of an app that was removed stays for a while, under the same id.
                    query = {**by_id, "deleted_at": {"$ne": None}}
                result = await self._collection.replace_one(query, document)
                if not result.modified_count:
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
        """Store the result of a check of an app. Return None if the app has changed since.

        `new_revision` makes earlier results, and pauses because of them, void. Secrets of the app are removed
        from `reason`, because a provider may repeat them in an error. Raises `DatabaseUnavailable`.
        """
        change = {"verified": verified, "reason": _redact_reason(app, reason), "changed_at": utcnow()}
        if new_revision:
            change["revision"] = secrets.token_hex(8)
        return await self._change(app, change)

    async def remove(self, app: App) -> App | None:
        """Remove an app and its secrets. Return None if the app has changed since.

        Raises `DatabaseUnavailable`.
        """
        return await self._change(app, {"deleted_at": utcnow(), "changed_at": utcnow(), "secrets": {}})

    async def _change(self, app: App, change: Document) -> App | None:
        query = {
            "_id": app_record_id(app.provider, app.workspace),
            "revision": app.revision,
            "deleted_at": None,
        }
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                query, {"$set": change}, return_document=True
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
        record_id = app_record_id(app.provider, app.workspace)
        hidden = secret_settings(connectors().get(app.provider))
        sealed = dict(app.secrets) | {
            SETTING_PREFIX + key: value for key, value in app.settings.items() if key in hidden
        }
        return {
            "_id": record_id,
            "provider": app.provider,
            "workspace": app.workspace,
            "client_id": app.client_id,
            "secrets": {
                key: self._vault.seal(value, workspace=app.workspace, record=record_id, field=key)
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
        """Return the app of a document. One whose secrets do not all open is not `readable`."""
        record_id, workspace = document["_id"], document["workspace"]
        opened: dict[str, str] = {}
        readable = True
        sealed: Mapping[str, Sealed] = document["secrets"]
        for key, value in sealed.items():
            try:
                opened[key] = self._vault.open(value, workspace=workspace, record=record_id, field=key)
            except Misconfigured as error:
                readable = False
                self._log.error("app.unreadable", provider=document["provider"], error=str(error))
        hidden = {
            key.removeprefix(SETTING_PREFIX): value
            for key, value in opened.items()
            if key.startswith(SETTING_PREFIX)
        }
        return App(
            provider=document["provider"],
            workspace=workspace,
            client_id=document["client_id"],
            secrets={key: value for key, value in opened.items() if key in SECRET_FIELDS},
            settings={**document["settings"], **hidden},
            verified=document["verified"] and readable,
            reason=document["reason"]
            if readable
            else "unreadable: its secrets cannot be decrypted: restore their key, or enter them again",
            created_at=document["created_at"],
            changed_at=document["changed_at"],
            revision=document["revision"],
            readable=readable,
        )


def _redact_reason(app: App, text: str) -> str:
    """Return a provider's text without the app's secrets, cut to the stored length."""
    hidden = secret_settings(connectors().get(app.provider))
    settings = (value for name, value in app.settings.items() if name in hidden)
    return redact(text, [*app.secrets.values(), *settings])[:_MAX_REASON_LENGTH]

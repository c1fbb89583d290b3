"""OAuth apps as they are stored: their record, their indexes, and every read and write of them.

A record has its secrets sealed; `App` is the same app with its secrets open.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pydantic import Field

from shared.connections.provider_app import (
    DEFAULT_APP,
    SECRET_FIELDS,
    SETTING_PREFIX,
    App,
    app_record_id,
    secret_settings,
)
from shared.contracts.errors import Misconfigured
from shared.manifests.connector import Connector
from shared.runtime.clock import utcnow
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.mongo import TOMBSTONE_TTL_S, Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.records import Record, stored_null
from shared.runtime.secrets import StoredSecret, Vault
from shared.runtime.snapshot import Snapshot
from shared.wire.redaction import redact

COLLECTION: Final = "platform_credentials"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("changed_at", 1),)),
        Index((("deleted_at", 1),), ttl_s=TOMBSTONE_TTL_S),
    )
}
_MAX_REASON_LENGTH: Final = 300
_UNREADABLE: Final = "unreadable: its secrets cannot be decrypted: restore their key, or enter them again"


class AppVersion(Record):
    """The id of an app and its revision, which changes with the app."""

    provider: str
    workspace: str
    """Empty for the installation's app."""
    revision: str


class AppRecord(AppVersion):
    """An app that was set by the API, as it is stored. Its secrets and secret settings are sealed."""

    name: str | None = None
    """None for the default app."""
    client_id: str
    secrets: Mapping[str, StoredSecret]
    """Those of `SECRET_FIELDS` that are set, and each secret setting under its name after `setting_`."""
    settings: Mapping[str, str] = Field(default_factory=dict)
    verified: bool
    reason: str
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None = stored_null()
    """A removed app is stored for a while, without secrets, so that every process sees the removal."""


_VERSION_FIELDS: Final = {AppVersion.stored_name(name): 1 for name in AppVersion.model_fields}


class AppRepository:
    """Reads and writes of the collection. Every method with `async` raises `DatabaseUnavailable`.

    Who writes has to record the change in the snapshot.
    """

    def __init__(self, mongo: Mongo, vault: Vault, connectors: Mapping[str, Connector], log: Log) -> None:
        """Set the connectors, which say which settings of an app are secret."""
        self._collection = mongo.collection(COLLECTION)
        self._vault = vault
        self._connectors = connectors
        self._log = log

    def snapshot(
        self, configuration: Configuration, on_change: Callable[[App | None, App | None], None]
    ) -> Snapshot[App]:
        """Return the collection in memory, by the ids of its documents."""
        return Snapshot(configuration, self._collection, self._parse, self._log, on_change=on_change)

    async def find(self, provider: str, workspace: str, name: str) -> App | None:
        """Return an app; None if there is none."""
        with translate_errors():
            document = await self._collection.find_one(
                {"_id": app_record_id(provider, workspace, name), "deleted_at": None}
            )
        return None if document is None else self._parse(document)

    async def changed_since(self, moment: datetime | None) -> list[AppVersion]:
        """Return the apps that were written at this moment or later, removed ones too; all for None."""
        query = {} if moment is None else {"changed_at": {"$gte": moment}}
        with translate_errors():
            documents = await self._collection.find(query, _VERSION_FIELDS).to_list(None)
        return [AppVersion.from_document(document) for document in documents]

    async def write(self, app: App, before: App | None) -> App | None:
        """Store an app in place of `before`, which is what `find` returned (None: there was no app).

        Return the app with its new revision; None if the stored app has changed since.
        """
        now = utcnow()
        created_at = app.created_at or now
        app = replace(app, changed_at=now, created_at=created_at, revision=secrets.token_hex(8))
        document = self._seal(app, created_at=created_at, changed_at=now).document()
        by_id = {"_id": document["_id"]}
        try:
            with translate_errors():
                if before is not None:
                    del document["_id"]
                    result = await self._collection.update_one(
                        {**by_id, "revision": before.revision, "deleted_at": None}, {"$set": document}
                    )
                    return app if result.matched_count else None
                # The document of an app that was removed stays for a while, under the same id.
                result = await self._collection.replace_one({**by_id, "deleted_at": {"$ne": None}}, document)
                if not result.modified_count:
                    await self._collection.insert_one(document)
        except Duplicate:
            return None
        return app

    async def record_check(
        self, app: App, *, verified: bool, reason: str, new_revision: bool = False
    ) -> App | None:
        """Store the result of a check of an app. Return None if the app has changed since.

        `new_revision` makes earlier results, and pauses because of them, void. Secrets of the app are removed
        from `reason`, because a provider may repeat them in an error.
        """
        changes: dict[str, Any] = {"verified": verified, "reason": self._redact_reason(app, reason)}
        if new_revision:
            changes["revision"] = secrets.token_hex(8)
        return await self._change(app, **changes)

    async def remove(self, app: App) -> App | None:
        """Mark an app as removed, and delete its secrets. Return None if the app has changed since."""
        return await self._change(app, deleted_at=utcnow(), secrets={})

    async def _change(self, app: App, **changes: Any) -> App | None:
        query = {
            "_id": app_record_id(app.provider, app.workspace, app.name),
            "revision": app.revision,
            "deleted_at": None,
        }
        update = {"$set": AppRecord.stored_fields({**changes, "changed_at": utcnow()})}
        with translate_errors():
            document: Document | None = await self._collection.find_one_and_update(
                query, update, return_document=True
            )
        return None if document is None else self._parse(document)

    def _redact_reason(self, app: App, text: str) -> str:
        """Return a provider's text without the app's secrets, cut to the stored length."""
        hidden = secret_settings(self._connectors.get(app.provider))
        settings = (value for name, value in app.settings.items() if name in hidden)
        return redact(text, [*app.secrets.values(), *settings])[:_MAX_REASON_LENGTH]

    def _seal(self, app: App, *, created_at: datetime, changed_at: datetime) -> AppRecord:
        """Return the record of an app."""
        record_id = app_record_id(app.provider, app.workspace, app.name)
        hidden = secret_settings(self._connectors.get(app.provider))
        texts = dict(app.secrets) | {
            SETTING_PREFIX + key: value for key, value in app.settings.items() if key in hidden
        }
        return AppRecord(
            id=record_id,
            provider=app.provider,
            workspace=app.workspace,
            name=app.name or None,
            client_id=app.client_id,
            secrets={
                key: self._vault.seal(value, workspace=app.workspace, record=record_id, field=key)
                for key, value in texts.items()
            },
            settings={key: value for key, value in app.settings.items() if key not in hidden},
            verified=app.verified,
            reason=app.reason,
            revision=app.revision,
            created_at=created_at,
            changed_at=changed_at,
        )

    def _parse(self, document: Document) -> App:
        return self._decrypt(AppRecord.from_document(document))

    def _decrypt(self, record: AppRecord) -> App:
        """Return the app of a record. One whose secrets do not all open is not `readable`."""
        texts: dict[str, str] = {}
        readable = True
        for key, sealed in record.secrets.items():
            try:
                texts[key] = self._vault.open(sealed, workspace=record.workspace, record=record.id, field=key)
            except Misconfigured as error:
                readable = False
                self._log.error("app.unreadable", provider=record.provider, error=str(error))
        hidden = {
            key.removeprefix(SETTING_PREFIX): value
            for key, value in texts.items()
            if key.startswith(SETTING_PREFIX)
        }
        return App(
            provider=record.provider,
            workspace=record.workspace,
            name=record.name or DEFAULT_APP,
            client_id=record.client_id,
            secrets={key: value for key, value in texts.items() if key in SECRET_FIELDS},
            settings={**record.settings, **hidden},
            verified=record.verified and readable,
            reason=record.reason if readable else _UNREADABLE,
            created_at=record.created_at,
            changed_at=record.changed_at,
            revision=record.revision,
            readable=readable,
        )

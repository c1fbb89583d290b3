"""Watches: subscriptions at the platforms of connected accounts, made, renewed before they end, cancelled.

A watch is worked on by whoever takes its lease, which is its due time: a process that dies leaves it due. Its
id is derived from what is watched, and the endpoint is made under an idempotency key, so a repeat finds what
was there. What the platform made in a turn that was not written down ends by itself.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from services.oauth.endpoints import Endpoint, Endpoints
from shared.catalog.connect import Request
from shared.catalog.connector import Connector, PlatformBusy, Refused
from shared.catalog.entering import entered
from shared.catalog.registry import connectors, providers
from shared.catalog.watch_calls import asked_first, end_of, kept_of, new_watch, watch_values
from shared.catalog.watches import Watch
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import Conflict, FieldError, InterlinkError, Invalid, NotFound, RetryLater
from shared.contracts.ids import watch_id_for
from shared.runtime.integrations import Integrations
from shared.runtime.logs import Log
from shared.runtime.metrics import WATCHES
from shared.runtime.mongo import Collection, Document, Duplicate, Index, Mongo, translated, utcnow
from shared.runtime.periodic import Periodic
from shared.runtime.secrets import Vault
from shared.runtime.tokens import Access, NotConnected, TokenSource
from shared.wire.fills import Fill, Unfillable
from shared.wire.oauth import Call

COLLECTION: Final = "watches"
_OPEN: Final = {"open": True}
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("integration_id", 1), ("created_at", -1), ("_id", -1))),
        Index((("open", 1), ("due_at", 1), ("_id", 1)), where=_OPEN),
    )
}
MOST: Final = 100
"""Of one integration."""
_LEASE: Final = timedelta(seconds=90)
_PATIENCE_S: Final = 15.0
_LOOK_S: Final = 0.1
_PAGE: Final = 100
_AT_ONCE: Final = 10
_FIRST_PAUSE_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 6 * 3600.0
_WAITS: Final = timedelta(seconds=30)
_ASLEEP: Final = timedelta(hours=1)


class Watching:
    """The watches of all integrations. A part of the service."""

    def __init__(
        self,
        mongo: Mongo,
        vault: Vault,
        integrations: Integrations,
        tokens: TokenSource,
        endpoints: Endpoints,
        log: Log,
        *,
        every_s: float,
    ) -> None:
        self.collection: Collection = mongo.collection(COLLECTION)
        self._vault = vault
        self._integrations = integrations
        self._tokens = tokens
        self._endpoints = endpoints
        self._log = log
        self._turn = Periodic(self.turn, every_s, log)

    async def start(self) -> None:
        await self._turn.start()

    async def stop(self) -> None:
        await self._turn.stop()

    # For the API and the dance

    async def add(
        self, integration: Document, kind: str, resource: Mapping[str, str], *, channel: str | None
    ) -> Document:
        """Watch something more; what is watched already stays as it is.

        Raises `Invalid`, `Conflict`, `StoreUnavailable`.
        """
        watch = _kind(integration["provider"], kind)
        values = entered(watch.resource, resource, place="resource")
        with translated():
            there = await self.collection.count_documents({"integration_id": integration["_id"]}, limit=MOST)
        if there >= MOST:
            raise Conflict(f"an integration has {MOST} watches at most")
        return await self._ensure(integration, watch, values, channel)

    async def expect(self, integration: Document) -> None:
        """An account is about to be connected: note its automatic watches, to be made once it is."""
        known = self._tokens.values(integration)
        for watch in kinds(integration["provider"]):
            if watch.automatic and all(known.get(name) for name in watch.needs):
                defaults = entered(watch.resource, {}, place="resource")
                await self._ensure(integration, watch, defaults, None)

    async def wake(self, integration: str) -> None:
        """An account is connected (again): what waits for it is due now."""
        waiting = {"integration_id": integration, "status": {"$in": ["pending", "stopped", "failing"]}}
        with translated():
            await self.collection.update_many(waiting, {"$set": {"due_at": utcnow(), "failures": 0}})

    async def of(self, integration: str) -> list[Document]:
        """The watches of an integration, newest first."""
        with translated():
            return (
                await self.collection.find({"integration_id": integration})
                .sort([("created_at", -1), ("_id", -1)])
                .to_list(MOST)
            )

    async def find(self, integration: str, name: str) -> Document:
        """One of an integration's. Raises `NotFound`."""
        with translated():
            found = await self.collection.find_one({"_id": name, "integration_id": integration})
        if found is None:
            raise NotFound("no such watch")
        return found

    async def end(self, document: Document) -> None:
        """Cancel it at the platform and remove its endpoint, as far as they let us; then it is gone."""
        await self._remove(await self._taken(document))

    async def _remove(self, document: Document) -> None:
        try:
            access = await self._tokens.access(document["integration_id"])
            await self._cancel(access, document)
        except (InterlinkError, Unfillable) as error:
            self._log.warning("watch not cancelled", watch_id=document["_id"], why=str(error)[:200])
        if document.get("endpoint_id"):
            try:
                await self._endpoints.remove(document["workspace"], document["endpoint_id"])
            except InterlinkError as error:
                self._log.warning("endpoint not removed", watch_id=document["_id"], why=str(error)[:200])
        with translated():
            await self.collection.delete_one({"_id": document["_id"]})

    async def _taken(self, document: Document) -> Document:
        """The watch, out of the hands of whoever is working on it: he is waited for, a while."""
        deadline = monotonic() + _PATIENCE_S
        waits = True
        while waits:
            waits = monotonic() < deadline
            free: dict[str, Any] = {"_id": document["_id"]}
            if waits:
                free["$or"] = [{"working": False}, {"due_at": {"$lte": utcnow()}}]
            with translated():
                taken: Document | None = await self.collection.find_one_and_update(
                    free,
                    {"$set": {"open": False, "working": True}, "$inc": {"fence": 1}},
                    return_document=True,
                )
            if taken is not None:
                return taken
            await asyncio.sleep(_LOOK_S)
        return document  # somebody else has ended it

    async def end_all(self, integration: str) -> None:
        """The integration ends."""
        while found := await self.of(integration):
            for document in found:
                await self.end(document)

    async def _ensure(
        self, integration: Document, watch: Watch, values: Mapping[str, str], channel: str | None
    ) -> Document:
        pairs = [f"{name}={value}" for name, value in sorted(values.items())]
        name, now = watch_id_for(integration["_id"], watch.id, *pairs), utcnow()
        document: Document = {
            "_id": name,
            "workspace": integration["workspace"],
            "integration_id": integration["_id"],
            "provider": integration["provider"],
            "watch": watch.id,
            "resource": dict(values),
            "channel_id": channel,
            "status": "pending",
            "endpoint_id": None,
            "endpoint_url": None,
            "endpoint_secret": None,
            "made": None,
            "expires_at": None,
            "open": True,
            "due_at": now,
            "working": False,
            "fence": 0,
            "failures": 0,
            "last_error": None,
            "created_at": now,
            "renewed_at": None,
        }
        try:
            with translated():
                await self.collection.insert_one(document)
        except Duplicate:
            return await self.find(integration["_id"], name)
        return document

    # By itself

    async def turn(self) -> None:
        """Make and renew what is due."""
        with translated():
            due = (
                await self.collection.find({**_OPEN, "due_at": {"$lte": utcnow()}}, {"_id": 1, "due_at": 1})
                .sort([("due_at", 1), ("_id", 1)])
                .limit(_PAGE)
                .to_list(_PAGE)
            )
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                try:
                    claimed = await self._claim(name)
                    if claimed is not None:
                        await self._work(claimed)
                except Exception as error:  # noqa: BLE001 -- it is due again when its lease ends; others go on
                    self._log.error("watch not looked after", watch_id=name, error=repr(error)[:200])

        await asyncio.gather(*(one(document["_id"]) for document in due))

    async def _claim(self, name: str) -> Document | None:
        now = utcnow()
        with translated():
            return await self.collection.find_one_and_update(
                {"_id": name, **_OPEN, "due_at": {"$lte": now}},
                {"$set": {"due_at": now + _LEASE, "working": True}, "$inc": {"fence": 1}},
                return_document=True,
            )

    async def _work(self, document: Document) -> None:
        try:
            integration = await self._integrations.find(document["integration_id"])
        except NotFound:
            await self._remove(document)
            return
        if integration["status"] == "pending":
            await self._write(document, {"due_at": utcnow() + _WAITS})
            return
        if integration["status"] not in ("connected", "error"):
            await self._write(document, {"status": "stopped", "due_at": utcnow() + _ASLEEP})
            return
        try:
            change = await self._renewed(document, integration)
        except (RetryLater, NotConnected) as error:
            await self._failed(document, "unavailable", str(error))
        except Refused as error:
            await self._failed(document, error.code, error.detail or "the platform refuses")
        except (Unfillable, Invalid) as error:
            await self._failed(document, "not_made", str(error))
        else:
            WATCHES.labels(document["provider"], "renewed").inc()
            await self._write(document, change)

    async def _renewed(self, document: Document, integration: Document) -> dict[str, Any]:
        """Make it, or make it last; what to write. What is replaced is cancelled afterwards."""
        watch = _kind(document["provider"], document["watch"])
        connector = connectors()[document["provider"]]
        missing = connector.missing(watch.scopes, integration.get("scopes", []))
        if missing:
            raise Refused("missing_scope", f"the person did not grant {', '.join(missing)}")
        endpoint = await self._endpoint(document, integration, watch)
        ends = utcnow() + timedelta(seconds=watch.lifetime_s) if watch.lifetime_s else None
        values = self._values(document, endpoint, ends)
        if document["made"] and watch.renew is not None:
            try:
                found = await self._read(document, connector, watch.renew, values)
            except Refused:  # it is not there any more: another one is made
                found = None
            if found is not None:
                made = await self._kept(document, endpoint, watch, found)
                return self._change(watch, document["made"] | made, ends)
        first: dict[str, str] = {}
        if watch.before is not None:
            first = asked_first(
                watch.before, await self._read(document, connector, watch.before.request, values)
            )
        values |= new_watch(str(uuid4()), first)
        found = await self._read(document, connector, watch.create, values)
        made = {"asked_id": values["watch:id"], **await self._kept(document, endpoint, watch, found)}
        if document["made"]:
            access = await self._tokens.access(document["integration_id"])
            await self._cancel(access, document)
        return self._change(watch, made, ends)

    async def _read(
        self, document: Document, connector: Connector, request: Request, values: Mapping[str, str]
    ) -> Any:
        """What the platform answers. A 401 is about the account's token only where the request has it."""
        name = document["integration_id"]

        def made(access: Access) -> Call:
            return connector.request(request, {**access.values, **values})

        if request.token:
            return connector.read(await self._tokens.call(name, made))
        return connector.read(await self._tokens.ask(made(await self._tokens.access(name))))

    async def _kept(self, document: Document, endpoint: Endpoint, watch: Watch, found: Any) -> dict[str, str]:
        """What is kept of an answer; a secret in it goes to the endpoint, and nowhere else."""
        kept = kept_of(watch.made, found)
        if secret := kept.pop("secret", ""):
            await self._endpoints.set_secret(document["workspace"], endpoint.id, secret)
        return kept

    def _change(self, watch: Watch, made: Mapping[str, Any], ends: datetime | None) -> dict[str, Any]:
        ends = end_of(made) or ends
        due = None
        if ends is not None:
            left, ahead = ends - utcnow(), timedelta(seconds=watch.ahead_s)
            due = utcnow() + (left - ahead if left > ahead else left / 2)
        return {
            "status": "active",
            "made": dict(made),
            "expires_at": ends,
            "renewed_at": utcnow(),
            "open": due is not None,
            "due_at": due,
            "failures": 0,
            "last_error": None,
        }

    async def _endpoint(self, document: Document, integration: Document, watch: Watch) -> Endpoint:
        """The watch's own inbound endpoint, made at the first turn."""
        if not watch.own_endpoint:
            return Endpoint("", "", "")
        if document["endpoint_id"]:
            secret = document["endpoint_secret"]
            if secret:
                secret = self._vault.open(
                    secret, workspace=document["workspace"], record=document["_id"], field="endpoint_secret"
                )
            return Endpoint(document["endpoint_id"], document["endpoint_url"], secret or "")
        values = self._tokens.values(integration)
        values |= {f"watch:{name}": text for name, text in document["resource"].items()}
        values["watch:name"] = document["_id"]
        settings = {name: Fill(text).maybe(values) for name, text in watch.endpoint_settings.items()}
        endpoint = await self._endpoints.make(
            document["workspace"],
            f"{document['_id']} {rfc3339(document['created_at'])}",
            watch.endpoint or document["provider"],
            f"{watch.id} of {document['integration_id']}",
            {name: text for name, text in settings.items() if text},
            Fill(watch.endpoint_secret).maybe(values),
            document["channel_id"],
        )
        sealed = None
        if endpoint.secret:
            sealed = self._vault.seal(
                endpoint.secret,
                workspace=document["workspace"],
                record=document["_id"],
                field="endpoint_secret",
            )
        kept = {"endpoint_id": endpoint.id, "endpoint_url": endpoint.url, "endpoint_secret": sealed}
        await self._write(document, {**kept, "working": True})
        document |= kept
        return endpoint

    def _values(self, document: Document, endpoint: Endpoint, ends: datetime | None) -> dict[str, str]:
        return watch_values(
            document["_id"],
            document["resource"],
            url=endpoint.url,
            secret=endpoint.secret,
            made=document["made"] or {},
            ends=ends,
        )

    async def _cancel(self, access: Access, document: Document) -> None:
        """At the platform; what it answers changes nothing."""
        watch = _kind(document["provider"], document["watch"])
        if watch.cancel is None or not document["made"]:
            return
        endpoint = Endpoint(document["endpoint_id"] or "", document["endpoint_url"] or "", "")
        values = self._values(document, endpoint, None)
        connector = connectors()[document["provider"]]
        try:
            answer = await self._tokens.ask(connector.request(watch.cancel, {**access.values, **values}))
        except (PlatformBusy, Unfillable) as error:
            self._log.warning("watch not cancelled", watch_id=document["_id"], why=str(error)[:200])
            return
        if answer.status >= 400:
            self._log.warning(
                "watch not cancelled", watch_id=document["_id"], why=f"answered {answer.status}"
            )

    async def _failed(self, document: Document, code: str, detail: str) -> None:
        failures = document["failures"] + 1
        base = min(_FIRST_PAUSE_S * 2 ** min(failures - 1, 20), _LONGEST_PAUSE_S)
        pause = timedelta(seconds=base * random.uniform(0.8, 1.2))  # noqa: S311 -- only to spread
        WATCHES.labels(document["provider"], "failed").inc()
        change: dict[str, Any] = {
            "failures": failures,
            "due_at": utcnow() + pause,
            "last_error": {"at": utcnow(), "code": code, "detail": detail[:300]},
        }
        ends = document["expires_at"]
        if ends is None or ends <= utcnow():
            change["status"] = "failing"
        await self._write(document, change)

    async def _write(self, document: Document, change: Mapping[str, Any]) -> None:
        """Unless another process has taken it over."""
        with translated():
            await self.collection.update_one(
                {"_id": document["_id"], "fence": document["fence"]}, {"$set": {"working": False, **change}}
            )


def kinds(provider: str) -> Sequence[Watch]:
    """What can be watched with accounts of a provider."""
    return providers()[provider].manifest.watches if provider in providers() else ()


def _kind(provider: str, name: str) -> Watch:
    found = next((watch for watch in kinds(provider) if watch.id == name), None)
    if found is None:
        known = ", ".join(watch.id for watch in kinds(provider)) or "none"
        raise Invalid("no such kind of watch", errors=(FieldError("watch", f"there is {known}"),))
    return found

"""Outgoing webhooks in memory: which of them want an event, and how each is signed and sent.

What is sealed of a webhook (its signing secrets, header values, auth) may not open: its encryption key is not
there. Such a webhook wants events as before, so they wait in the log; nothing is sent until all of it opens.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, TypeVar

import orjson

from services.delivery.log.deliveries import QUEUES, WEBHOOKS
from services.delivery.model.flow_control import RateLimit
from services.delivery.model.retry_policy import RetryPolicy
from services.delivery.model.webhook_auth import WebhookAuth, webhook_auth
from shared.contracts.errors import DatabaseUnavailable, InterlinkError, Misconfigured
from shared.contracts.ids import WebhookId, WorkspaceId
from shared.runtime.configuration import Configuration
from shared.runtime.logs import Log
from shared.runtime.metrics import UNREADABLE_WEBHOOKS
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors, utcnow
from shared.runtime.record_secrets import (
    StoredSecret,
    decrypt_all,
    rotate_secret,
    store_secret,
    unexpired_keys,
)
from shared.runtime.secrets import Sealed, Vault
from shared.runtime.snapshot import Snapshot
from shared.webhooks.backoff import SCHEDULES
from shared.webhooks.filters import EventFilter
from shared.webhooks.formats import BodyFormat
from shared.webhooks.patterns import matches
from shared.webhooks.signatures import SigningProfile, signing_key
from shared.wire.expressions import MAX_TRANSFORM_STEPS, Expression

Ordering = Literal["none", "strict"]
EncryptedPart = Literal["secret", "headers", "auth"]
"""What of a webhook is sealed: the secrets it signs with, the values of its headers, its auth."""
SigningKeys = tuple[tuple[bytes, datetime | None], ...]
P = TypeVar("P")

MAX_RETRY_AFTER_S: Final = 900.0
"""Of a webhook that does not say otherwise."""
_MAX_CACHED_MATCHES: Final = 10_000
_DECRYPT_RETRY_INTERVAL_S: Final = 10.0
_DECRYPT_BATCH: Final = 100
_NO_AUTH: Final = {"type": "none"}


@dataclass(frozen=True, slots=True)
class OutgoingWebhook:
    """An outgoing webhook as fan-out and attempts need it."""

    id: WebhookId
    workspace: WorkspaceId
    name: str
    url: str
    patterns: tuple[str, ...]
    filter: EventFilter | None
    integration_id: str
    enabled: bool
    enabled_at: datetime
    paused: bool
    format: BodyFormat
    transform: Expression | None
    profile: SigningProfile
    keys: SigningKeys
    headers: Mapping[str, str]
    auth: WebhookAuth
    unreadable: Mapping[EncryptedPart, str]
    """What of it does not open, so is empty here, and why: nothing is sent while there is any."""
    policy: RetryPolicy
    rate_limit: RateLimit | None
    ordering: Ordering
    max_in_flight: int
    timeout_s: float
    disable_after: timedelta | None
    breaker: Mapping[str, Any] | None
    """What of the circuit breaker this webhook sets otherwise than the installation."""
    lifts: int
    """Grows whenever a person ends what holds deliveries back: enable, resume, another URL, other limits."""

    @property
    def strict(self) -> bool:
        return self.ordering == "strict"

    def valid_keys(self) -> list[bytes]:
        """The secrets to sign with now, the newest first; a rotated one until it ends."""
        return unexpired_keys(self.keys)


@dataclass(frozen=True, slots=True)
class _DecryptedParts:
    """What is sealed of a webhook, in clear; what is in `faults` did not open, and is empty."""

    keys: SigningKeys
    headers: Mapping[str, str]
    auth: WebhookAuth
    faults: Mapping[EncryptedPart, Exception]

    def reasons(self) -> dict[EncryptedPart, str]:
        """Why each part that did not open did not, without anything secret."""
        return {
            part: str(fault) if isinstance(fault, InterlinkError) else type(fault).__name__
            for part, fault in self.faults.items()
        }


class OutgoingWebhooks:
    """Every outgoing webhook in memory, by workspace and by id, and the workspaces that are paused."""

    def __init__(self, mongo: Mongo, configuration: Configuration, vault: Vault, log: Log) -> None:
        self._configuration = configuration
        self._vault = vault
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._by_workspace: dict[str, dict[str, OutgoingWebhook]] = {}
        self._matched: dict[str, dict[tuple[str, tuple[str, ...]], Sequence[OutgoingWebhook]]] = {}
        """By workspace, then by the type of an event and its triggers."""
        self._remembered = 0
        self._unreadable: set[str] = set()
        self.collection: Collection = mongo.collection(WEBHOOKS)
        self.snapshot: Snapshot[OutgoingWebhook] = Snapshot(
            configuration, self.collection, self._follow, log, on_change=self._index
        )
        self.queues: Snapshot[bool] = Snapshot(configuration, mongo.collection(QUEUES), _is_paused, log)

    async def start(self) -> None:
        await self.snapshot.start()
        await self.queues.start()
        self._task = asyncio.create_task(self._look_again())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.queues.stop()
        await self.snapshot.stop()

    def matching(
        self, workspace: str, event_type: str, triggers: tuple[str, ...] = ()
    ) -> Sequence[OutgoingWebhook]:
        """Return the enabled webhooks whose patterns cover the type or a trigger; filters come later.

        Each is there once, however many of its patterns do.
        """
        webhooks = self._by_workspace.get(workspace)
        if not webhooks:
            return ()
        found = self._matched.get(workspace, {}).get((event_type, triggers))
        if found is None:
            found = [
                webhook
                for webhook in webhooks.values()
                if webhook.enabled and matches(webhook.patterns, event_type, *triggers)
            ]
            if self._remembered >= _MAX_CACHED_MATCHES:
                self._matched.clear()
                self._remembered = 0
            self._matched.setdefault(workspace, {})[event_type, triggers] = found
            self._remembered += 1
        return found

    def unmatched_reason(
        self, workspace: str, event_type: str, triggers: tuple[str, ...] = ()
    ) -> Literal["no_webhook", "no_pattern", "disabled"]:
        """Return why `wanting` is empty for this type and these triggers."""
        webhooks = self._by_workspace.get(workspace)
        if not webhooks:
            return "no_webhook"
        covered = any(matches(webhook.patterns, event_type, *triggers) for webhook in webhooks.values())
        return "disabled" if covered else "no_pattern"

    def sends(self, webhook: OutgoingWebhook) -> bool:
        """Whether attempts may be made now: enabled, readable, and neither it nor its workspace is paused."""
        return (
            webhook.enabled
            and not webhook.unreadable
            and not webhook.paused
            and not self.queues.items.get(webhook.workspace, False)
        )

    async def current(self) -> None:
        """Bring webhooks, paused queues and erasure marks up to date. Raises `DatabaseUnavailable`.

        Deliveries wait until MongoDB answers: what is decided by old settings cannot be made good.
        """
        if not await self._configuration.current():
            raise DatabaseUnavailable("MongoDB does not say whether the webhooks in memory are up to date")

    async def find(self, webhook_id: str) -> OutgoingWebhook | None:
        """Return a webhook by id, as of the last `current`. Raises `DatabaseUnavailable`.

        One that is not known is read: its writer may have died before it said so.
        """
        if webhook_id not in self.snapshot.items:
            await self.snapshot.load((webhook_id,))
        return self.snapshot.items.get(webhook_id)

    def keep(self, workspace: str, webhook_id: str, secret: str) -> StoredSecret:
        """A new webhook's secret as it is stored."""
        return store_secret(self._vault, workspace, webhook_id, secret)

    def rotated(self, document: Document, secret: str, overlap: timedelta) -> list[StoredSecret]:
        """The webhook's secrets after a rotation."""
        return rotate_secret(self._vault, document, secret, overlap)

    async def is_gone(self, webhook_id: str) -> bool:
        """Whether the store has it no more, unlike one that cannot be read. Raises `DatabaseUnavailable`."""
        with translate_errors():
            found = await self.collection.find_one({"_id": webhook_id, "deleted_at": None}, {"_id": 1})
        return found is None

    def secrets(self, document: Document) -> tuple[tuple[str, datetime | None], ...]:
        """The webhook's secrets that have not ended, in clear, with their ends. Raises `Misconfigured`."""
        now = utcnow()
        valid = [
            each for each in document["secrets"] if each["expires_at"] is None or each["expires_at"] > now
        ]
        return decrypt_all(self._vault, {**document, "secrets": valid})

    def sealed(self, workspace: str, webhook_id: str, field: str, value: Mapping[str, Any]) -> Sealed:
        """Headers or auth as they are stored."""
        text = orjson.dumps(value).decode()
        return self._vault.seal(text, workspace=workspace, record=webhook_id, field=field)

    def parse(self, document: Document) -> OutgoingWebhook:
        """The webhook that a document means. Raises `Malformed`; `Misconfigured`: it does not open."""
        found = self._opened(document)
        for fault in found.faults.values():
            raise fault
        return self._webhook(document, found)

    def check(self, document: Document) -> None:
        """That it can be used, but for what does not open. Raises `Malformed`: a certificate that is none."""
        found = self._opened(document)
        for fault in found.faults.values():
            if not isinstance(fault, Misconfigured):
                raise fault
        self._webhook(document, found)

    def unreadable(self, webhook_id: str) -> Mapping[EncryptedPart, str]:
        """What of a webhook does not open with the keys of this process, and why."""
        webhook = self.snapshot.items.get(webhook_id)
        return webhook.unreadable if webhook else {}

    def _follow(self, document: Document) -> OutgoingWebhook:
        """The webhook as it is kept in memory; that it does not open is told once, and once that it does."""
        found = self._opened(document)
        webhook = self._webhook(document, found)
        before = self.snapshot.items.get(webhook.id)
        told = before is not None and before.unreadable
        if webhook.unreadable and not told:
            self._log.error(
                "an outgoing webhook's secrets do not open: its deliveries wait",
                webhook_id=webhook.id,
                parts=list(webhook.unreadable),
                error="; ".join(dict.fromkeys(webhook.unreadable.values())),
            )
        elif told and not webhook.unreadable:
            self._log.info("an outgoing webhook's secrets open again", webhook_id=webhook.id)
        return webhook

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_DECRYPT_RETRY_INTERVAL_S)
            try:
                await self._open_again()
            except Exception as error:  # noqa: BLE001 -- one bad look must not be the last
                told = str(error) if isinstance(error, InterlinkError) else type(error).__name__
                self._log.warning("secrets that do not open were not looked at", error=told)

    async def _open_again(self) -> None:
        """Take in webhooks that open by now. Raises `DatabaseUnavailable`.

        Their documents need not say so: the key came where keys are held, `interlink keys` put the values
        under another key, or a backup was played in. None of it sets `changed_at`.
        """
        left = iter([(name, webhook) for name, webhook in self.snapshot.items.items() if webhook.unreadable])
        while some := dict(islice(left, _DECRYPT_BATCH)):
            query = {"_id": {"$in": list(some)}, "deleted_at": None}
            with translate_errors():
                documents = await self.collection.find(query).to_list(len(some))
            for document in documents:
                name = document["_id"]
                # What was taken in meanwhile is newer than what was read here.
                if self.snapshot.items.get(name) is some[name] and not self._opened(document).faults:
                    await self.snapshot.load((name,), again=True)
                await asyncio.sleep(0)

    def _webhook(self, document: Document, found: _DecryptedParts) -> OutgoingWebhook:
        schedule, limit = document["schedule"], document.get("rate_limit")
        after_days = document.get("disable_after_days", 5)
        transform = document.get("transform")
        return OutgoingWebhook(
            id=document["_id"],
            workspace=document["workspace"],
            name=document["name"],
            url=document["url"],
            patterns=tuple(document["events"]),
            filter=EventFilter.of(document.get("filter") or {}),
            integration_id=document.get("integration_id") or "",
            enabled=document["enabled"],
            enabled_at=document.get("enabled_at") or document["created_at"],
            paused=document.get("paused", False),
            format=document.get("format", "envelope"),
            transform=Expression(transform, "transform", max_steps=MAX_TRANSFORM_STEPS)
            if transform
            else None,
            profile=document["profile"],
            keys=found.keys,
            headers=found.headers,
            auth=found.auth,
            unreadable=found.reasons(),
            policy=RetryPolicy(
                SCHEDULES[schedule] if isinstance(schedule, str) else tuple(schedule),
                document.get("jitter", 0.0),
                document.get("client_errors", "final"),
                document.get("max_retry_after_s", MAX_RETRY_AFTER_S),
            ),
            rate_limit=RateLimit(limit["requests"], limit["period_s"]) if limit else None,
            ordering=document["ordering"],
            max_in_flight=document["max_in_flight"],
            timeout_s=document["timeout_s"],
            disable_after=timedelta(days=after_days) if after_days else None,
            breaker=document.get("circuit_breaker"),
            lifts=document.get("lifts", 0),
        )

    def _opened(self, document: Document) -> _DecryptedParts:
        """What is sealed, each part on its own. What the webhook does not have needs no key."""
        faults: dict[EncryptedPart, Exception] = {}

        def read(part: EncryptedPart, of: Callable[[Document], P], otherwise: P) -> P:
            try:
                return of(document)
            except Exception as error:  # noqa: BLE001 -- whatever is wrong with it, no event is lost for it
                faults[part] = error
                return otherwise

        return _DecryptedParts(
            keys=read("secret", self._keys, ()),
            headers=read("headers", self._headers, {}),
            auth=read("auth", self._auth, WebhookAuth()),
            faults=faults,
        )

    def _keys(self, document: Document) -> SigningKeys:
        profile = document["profile"]
        return tuple((signing_key(profile, secret), ends) for secret, ends in self.secrets(document))

    def _headers(self, document: Document) -> Mapping[str, str]:
        return {} if document.get("header_names") == [] else self._open(document, "headers")

    def _auth(self, document: Document) -> WebhookAuth:
        return (
            WebhookAuth()
            if document.get("auth_shown") == _NO_AUTH
            else webhook_auth(self._open(document, "auth"))
        )

    def _open(self, document: Document, field: str) -> dict[str, Any]:
        sealed: Sealed | None = document.get(field)
        if sealed is None:
            return {}
        text = self._vault.open(sealed, workspace=document["workspace"], record=document["_id"], field=field)
        value: dict[str, Any] = orjson.loads(text)
        return value

    def _index(self, before: OutgoingWebhook | None, after: OutgoingWebhook | None) -> None:
        """Follow one change; the cost must not grow with the webhooks of others."""
        for webhook in (before, after):
            if webhook:
                self._remembered -= len(self._matched.pop(webhook.workspace, ()))
        if before:
            own = self._by_workspace[before.workspace]
            del own[before.id]
            if not own:
                del self._by_workspace[before.workspace]
            self._unreadable.discard(before.id)
        if after:
            self._by_workspace.setdefault(after.workspace, {})[after.id] = after
            if after.unreadable:
                self._unreadable.add(after.id)
        UNREADABLE_WEBHOOKS.set(len(self._unreadable))


def _is_paused(document: Document) -> bool:
    return bool(document["paused"])

"""A hub that bridges Slack and Telegram: its accounts, connected by its API, and its mappings and backlog.

Mappings, links and waiting changes are inserted as sync stores them: its API would take hours for a million.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from time import monotonic, sleep
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
from pymongo import InsertOne

from bench.conversations import HOSTS, Conversations, channel, group, telegram_token
from bench.remote import Failed, Remote
from bench.stages import Bench
from bench.system import System
from bench.waiting import database_at
from services.sync.model.lane_record import LANES, LaneRecord
from services.sync.model.mapping import CHAT, Leg, account_key, lane_of, link_id
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.synced_message import (
    LINKS,
    MESSAGES,
    QUEUE,
    MessageLink,
    QueuedChange,
    SyncedMessage,
    Target,
    TraceEntry,
    synced_id_for,
)
from services.sync.store.mappings import COLLECTION as MAPPINGS
from services.sync.store.messages import expiry
from services.sync.store.queue import POSITION_BITS
from shared.contracts.chat import ChatAuthor
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import provider_message_id_for
from shared.contracts.sync import SourceRef, SyncRequested
from shared.contracts.topics import SYNC_REQUESTED
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import partition_of
from shared.runtime.mongo import Document
from tests.support.provider_hosts import NAMES, PUBLIC

SECRET: Final = "the-signing-secret-of-the-app"  # noqa: S105 -- signs the requests of this bench
_CLIENT: Final = {"client_id": "A00000001.client", "client_secret": "bench", "signing_secret": SECRET}
_HUB: Final = "https://hub.example.com"
_BATCH: Final = 1_000
_PER_WORKSPACE: Final = 100
_APART_MS: Final = 10
"""Between two changes that wait."""
_HOOKS_TIMEOUT_S: Final = 60.0
_TEXT: Final = "Morning, the **deploy of 4.2** is done. " * 5


class Bridge:
    """A hub with accounts of both providers and mappings between them, and the providers' process."""

    def __init__(self, hub: System, providers: Remote, conversations: Conversations) -> None:
        self.hub = hub
        self.providers = providers
        self.conversations = conversations
        self._endpoints: dict[str, str] = {}

    def set_up(self) -> None:
        """Connect all accounts, and create the mappings."""
        credentials = {**_CLIENT, "verified": True}
        self.hub.call("PUT", "/api/platform-credentials/slack", credentials)
        headers = {"authorization": f"Bearer {self.hub.admin_key}"}
        with httpx.Client(base_url=self.hub.url("oauth"), headers=headers, timeout=30) as client:
            for number in range(self.conversations.accounts):
                team, bot = self.conversations.team(number), self.conversations.bot(number)
                self._endpoints[team] = _connect_slack(client, team)
                _connect_telegram(client, bot)
        self._endpoints |= self._bot_endpoints()
        self.hub.stop_service("sync")
        mappings = range(self.conversations.mappings)
        insert(self.hub.store_uri, MAPPINGS, self._mappings(self.hub.workspace, mappings))
        self.start_sync()

    def connect(self, *, gateway: bool) -> None:
        """Connect the providers' process to this hub."""
        self.providers.call(
            "connect",
            bootstrap=self.hub.bootstrap,
            workspace=self.hub.workspace,
            endpoints=self._endpoints,
            secret=SECRET,
            gateway=self.hub.ports["gateway"] if gateway else 0,
        )

    def baseline(self) -> dict[str, Any]:
        """Return what `bench.bridge_bare` needs: where it finds everything, and what it writes."""
        message = next(self._waiting_messages(range(1), 1, self.hub.workspace)).document()
        return {
            "bootstrap": self.hub.bootstrap,
            "uri": self.hub.store_uri,
            "proxy": self.hub.env["INTERLINK_EGRESS_PROXY"],
            "ca_file": self.hub.env["INTERLINK_EGRESS_CA_FILE"],
            "message": _jsonable(message),
            "link": _jsonable(next(self._links(1))),
        }

    def start_sync(self) -> None:
        self.hub.start_service("sync")
        self.hub.wait_ready("sync")

    def insert_workspaces(self, mappings: int, waiting: int) -> None:
        """Insert mappings of other workspaces, and changes that wait for them."""
        workspaces = max(1, mappings // _PER_WORKSPACE)
        for number in range(workspaces):
            first = self.conversations.mappings + number * _PER_WORKSPACE
            numbers, workspace = range(first, first + _PER_WORKSPACE), f"bench-{number}"
            insert(self.hub.store_uri, MAPPINGS, self._mappings(workspace, numbers))
            self.insert_waiting(numbers, waiting // workspaces, workspace)

    def insert_links(self, count: int) -> None:
        """Insert links of old messages."""
        insert(self.hub.store_uri, LINKS, self._links(count))

    def insert_waiting(self, mappings: range, count: int, workspace: str) -> None:
        """Insert waiting changes for the channels of Slack of these mappings in turn, and their messages."""
        messages = (message.document() for message in self._waiting_messages(mappings, count, workspace))
        insert(self.hub.store_uri, MESSAGES, messages)
        records: dict[str, Document] = {}
        insert(self.hub.store_uri, QUEUE, self._queued(mappings, count, workspace, records))
        insert(self.hub.store_uri, LANES, iter(records.values()))

    def count_waiting(self) -> int:
        """Return the number of changes that wait."""

        async def count() -> int:
            async with database_at(self.hub.store_uri) as mongo:
                return int(await mongo.collection(QUEUE).count_documents({"state": "waiting"}))

        return asyncio.run(count())

    def _bot_endpoints(self) -> dict[str, str]:
        """Wait until each bot has a webhook; return their endpoints."""
        deadline = monotonic() + _HOOKS_TIMEOUT_S
        while True:
            hooks: Mapping[str, str] = self.providers.call("hooks")
            if len(hooks) == self.conversations.accounts:
                break
            if monotonic() > deadline:
                raise Failed(f"{len(hooks)} of {self.conversations.accounts} bots have a webhook")
            sleep(0.1)
        return {bot: url.rsplit("/", 1)[1] for bot, url in hooks.items()}

    def _mappings(self, workspace: str, numbers: range) -> Iterator[Document]:
        now = utcnow()
        for number in numbers:
            mapping = SyncMapping(
                id=f"map_bench{number}",
                workspace=workspace,
                changed_at=now,
                created_at=now,
                name=f"bench {number}",
                legs=(
                    self._leg("slack", number),
                    self._leg("telegram", number),
                    Leg(id="chat", provider=CHAT, account=workspace, conversation=f"ch_bench_{number}"),
                ),
            )
            yield mapping.document()

    def _leg(self, provider: str, number: int) -> Leg:
        places = self.conversations
        slack = provider == "slack"
        return Leg(
            id=provider,
            provider=provider,
            account=places.team(number) if slack else places.bot(number),
            conversation=channel(number) if slack else str(group(number)),
            name=f"bench-{number}",
        )

    def _links(self, count: int) -> Iterator[Document]:
        expires_at = expiry()
        for number in range(count):
            leg = self._leg("slack", number % self.conversations.mappings)
            external_id = f"1600000000.{number:06d}"
            yield MessageLink(
                id=link_id("slack", leg.account, leg.conversation, external_id),
                workspace=self.hub.workspace,
                mapping_id=f"map_bench{number % self.conversations.mappings}",
                synced_id=f"syn_{number:032x}",
                leg=leg.id,
                external_id=external_id,
                expires_at=expires_at,
            ).document()

    def _waiting_messages(self, mappings: range, count: int, workspace: str) -> Iterator[SyncedMessage]:
        now, expires_at = utcnow(), expiry()
        for number in range(count):
            mapping = mappings[number % len(mappings)]
            source, target = self._leg("telegram", mapping), self._leg("slack", mapping)
            external_id = str(number + 1)
            message_id = provider_message_id_for("telegram", source.account, source.conversation, external_id)
            yield SyncedMessage(
                id=synced_id_for(f"map_bench{mapping}", message_id),
                workspace=workspace,
                mapping_id=f"map_bench{mapping}",
                leg=source.id,
                message_id=message_id,
                provider=source.provider,
                account=source.account,
                conversation=source.conversation,
                external_id=external_id,
                author_id="900000001",
                author_name="Ada Example",
                excerpt=_TEXT[:80],
                parsed_as="message",
                received_at=now,
                expires_at=expires_at,
                targets={
                    target.id: Target(
                        leg=target.id,
                        provider=target.provider,
                        account=target.account,
                        conversation=target.conversation,
                        trace=(TraceEntry(at=now, step="waiting"),),
                    )
                },
            )

    def _queued(
        self, mappings: range, count: int, workspace: str, records: dict[str, Document]
    ) -> Iterator[Document]:
        """Yield changes, and add the records of their lanes."""
        now, give_up_at = utcnow(), utcnow() + timedelta(days=1)
        first_ms = int(now.timestamp() * 1000) - count * _APART_MS
        for number, message in enumerate(self._waiting_messages(mappings, count, workspace)):
            target = message.targets["slack"]
            key = account_key(target.provider, target.account)
            request = SyncRequested(
                request_id=f"req_{message.id}",
                mapping_id=message.mapping_id,
                leg_id=target.leg,
                kind="message",
                synced_id=message.id,
                source=SourceRef(
                    provider=message.provider,
                    account=message.account,
                    conversation=message.conversation,
                    external_id=message.external_id,
                ),
                author=ChatAuthor(id=message.author_id, name=message.author_name),
                text=_TEXT,
                occurred_at=rfc3339(now),
                received_at=rfc3339(now),
            )
            change = QueuedChange(
                id=request.request_id,
                workspace=workspace,
                mapping_id=message.mapping_id,
                lane=lane_of(message.mapping_id, key, target.conversation),
                account_key=key,
                partition=partition_of(key.encode(), SYNC_REQUESTED.partitions),
                position=first_ms + number * _APART_MS << POSITION_BITS,
                state="waiting",
                due_at=now,
                synced_id=message.id,
                leg_id=target.leg,
                request=request.model_dump(),
                give_up_at=give_up_at,
                created_at=now,
                expires_at=give_up_at,
            )
            if change.lane not in records:
                first = LaneRecord.of(workspace, change.lane, key, change.partition, change.position)
                records[change.lane] = first.document()
            yield change.document()


@contextmanager
def bridged(bench: Bench, stage: str, accounts: int, mappings: int) -> Iterator[Bridge]:
    """Run a hub with all that it needs for these mappings, and the providers."""
    providers = bench.helper("bench.providers")
    folder = bench.folder / f"{stage}-providers"
    folder.mkdir()
    listening = providers.call("listen", folder=str(folder), accounts=accounts, mappings=mappings)
    env = {
        "INTERLINK_PUBLIC_URL": _HUB,
        "INTERLINK_EGRESS_PROXY": f"http://127.0.0.1:{listening['port']}",
        "INTERLINK_EGRESS_CA_FILE": listening["ca_file"],
        "INTERLINK_UPKEEP_EVERY_S": "0.3",
        NAMES: json.dumps(dict.fromkeys(HOSTS, PUBLIC)),
    }
    modules = {name: ("tests.support.provider_hosts", name) for name in ("oauth", "sync")}
    with bench.hub(stage, "gateway", "oauth", "sync", modules=modules, env=env) as hub:
        bridge = Bridge(hub, providers, Conversations(accounts, mappings))
        bridge.set_up()
        try:
            yield bridge
        finally:
            providers.call("disconnect")  # the broker ends before the process


def insert(uri: str, collection: str, documents: Iterator[Document]) -> None:
    """Insert documents into a collection of the hub's database."""

    async def insert_all() -> None:
        async with database_at(uri) as mongo:
            while batch := list(islice(documents, _BATCH)):
                await mongo.collection(collection).bulk_write(
                    [InsertOne(document) for document in batch], ordered=False
                )

    asyncio.run(insert_all())


def _connect_slack(client: httpx.Client, team: str) -> str:
    """Connect a workspace of Slack as a browser does; return the integration's id."""
    started = client.post("/api/auth/oauth/connect", json={"provider": "slack", "purpose": "sync"})
    asked: dict[str, Any] = _json(started)
    query = parse_qs(urlsplit(asked["authorization_url"]).query)
    cookies = "; ".join(cookie.split(";")[0] for cookie in started.headers.get_list("set-cookie"))
    code = {"code": f"{team}:{query['scope'][0]}", "state": query["state"][0]}
    page = client.get("/api/auth/oauth/callback", params=code, headers={"cookie": cookies})
    if page.status_code >= 400:
        raise Failed(f"{team} could not be connected: {page.status_code} {page.text[:500]}")
    return str(asked["integration_id"])


def _connect_telegram(client: httpx.Client, bot: str) -> None:
    """Connect a bot, and let the hub set its webhook."""
    fields = {"access_token": telegram_token(bot)}
    body = {"provider": "telegram", "kind": "bot_token", "fields": fields}
    made = _json(client.post("/api/integrations", json=body))
    _json(client.post(f"/api/integrations/{made['id']}/watches", json={"watch": "webhook"}))


def _json(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise Failed(f"{response.request.url.path}: {response.status_code} {response.text}")
    return dict(response.json())


def _jsonable(document: Document) -> Any:
    """Return a document as it can be sent to a helper: its times as texts."""
    return json.loads(json.dumps(document, default=str))

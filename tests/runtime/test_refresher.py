"""One refresher, stopped between two lines: no rotated token is lost, no old one given for a new one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, cast

import orjson
import pytest
import structlog
from pydantic import SecretStr
from pymongo import MongoClient

from services.oauth.authorization.disconnect import Disconnector
from services.oauth.credentials.maintenance import Maintenance
from shared.connections.app_check import AppChecker
from shared.connections.apps import Apps
from shared.connections.integration_record import COLLECTION, Integration
from shared.connections.integrations import IntegrationRepository
from shared.connections.provider_app import App
from shared.connections.refresh_outcome import NotConnected
from shared.connections.refresh_types import Timing
from shared.connections.refresher import Refresher
from shared.connections.tokens import TokenSource
from shared.manifests.provider_response import ProviderUnavailable
from shared.manifests.registry import registry
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer, Record
from shared.runtime.mongo import Document, Mongo
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.settings import MongoSettings
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from tests.support.backends import Store

HASTY = Timing(call_s=0.2, silent_s=0.3, settle_s=0.1, heartbeat_interval_s=0.05)
USER = {"access_token": "user-1", "refresh_token": "of-user-1"}


class Nobody:
    """Kafka, for a test that reads no events. `types` are those of the events that it got."""

    def __init__(self) -> None:
        self.types: list[str] = []

    async def publish(self, record: Record, *, timeout_s: float) -> None:
        assert timeout_s
        self.types.append(dict(record.headers)["ce_type"].decode().rpartition("integration.")[2])


class StoredGrant:
    """One integration in a database of its own, and the repository that a refresh uses."""

    def __init__(self, uri: str, provider: str, secrets: dict[str, Any], **fields: Any) -> None:
        log, self.kafka = structlog.get_logger(), Nobody()
        nobody = cast("Producer", self.kafka)
        self.mongo = Mongo(MongoSettings(uri=SecretStr(uri)), app="test")
        self.integrations = IntegrationRepository(
            self.mongo, Vault(LocalKeyProvider([b"k" * 32])), nobody, log
        )
        self._client: MongoClient[Document] = MongoClient(uri, tz_aware=True)
        self._collection = self._client.get_default_database()[COLLECTION]
        now = utcnow()
        document: Document = {
            "_id": "int_1",
            "workspace": "ws_1",
            "provider": provider,
            "kind": "oauth2",
            "name": "",
            "status": "connected",
            "reason": "",
            "created_at": now,
            "changed_at": now,
            "version": 1,
            "fence": 0,
            "settled_fence": 0,
            "deleted_at": None,
            "lease": None,
            "retry_at": None,
            "expires_at": now - timedelta(seconds=5),
            "refreshable": True,
            "params": {},
            "account": {"id": "a", "label": "Ada Example", "grant": {}},
            "open": False,
            "due_at": None,
            "refresh_expires_at": None,
            **fields,
        }
        sealed = self.integrations.seal(Integration.from_document(document), secrets)
        self._collection.insert_one(document | {"credential": sealed})

    def close(self) -> None:
        self.mongo.close()
        self._client.close()

    @property
    def stored(self) -> Integration:
        return Integration.from_document(self._collection.find_one({"_id": "int_1"}) or {})

    def copy(self, *ids: str, **fields: Any) -> None:
        """Store the same integration under other ids, as accounts of their own."""
        document = self._collection.find_one({"_id": "int_1"}) or {}
        self._collection.insert_many([{**document, **fields, "_id": item_id} for item_id in ids])

    def set(self, **fields: Any) -> None:
        """As another process does it."""
        self._collection.update_one({"_id": "int_1"}, {"$set": fields})

    def secrets(self, integration: Integration) -> dict[str, Any]:
        return self.integrations.open(integration)


Keep = Callable[..., StoredGrant]


@pytest.fixture
def keep(store: Store) -> Iterator[Keep]:
    with ExitStack() as stack:

        def grant(provider: str, secrets: dict[str, Any], **fields: Any) -> StoredGrant:
            made = StoredGrant(store.uri(), provider, secrets, **fields)
            stack.callback(made.close)
            return made

        yield grant


class OneApp:
    """The app of every provider."""

    async def current(self) -> None:
        """It never changes."""

    def find(self, provider: str, workspace: str, _registered: object = None) -> App:
        return App(provider, workspace, "app", {"client_secret": "the-secret-of-it"}, verified=True)


def refresher(
    grant: StoredGrant, ask: Callable[[ProviderRequest, str], Awaitable[ProviderResponse]]
) -> Refresher:
    apps, log, back = cast("Apps", OneApp()), structlog.get_logger(), "https://hub.example.com/back"
    return Refresher(
        grant.integrations,
        apps,
        registry().connectors,
        AppChecker(apps, log, ask, redirect_uri=back),
        log,
        ask,
        redirect_uri=back,
        timing=HASTY,
    )


def given(**fields: Any) -> ProviderResponse:
    body = orjson.dumps({"ok": True, "expires_in": 43200, **fields})
    return ProviderResponse(200, {"content-type": "application/json"}, body)


async def test_a_waiting_reader_gets_no_token_of_a_grant_that_is_not_refreshed_yet(keep: Keep) -> None:
    """Slack has two grants, refreshed one after the other: the first write is not the end."""
    grant = keep("slack", {"access_token": "bot-1", "refresh_token": "of-bot-1", "others": {"user": USER}})
    halfway, goes_on = asyncio.Event(), asyncio.Event()

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        if b"of-bot" in call.body:
            return given(access_token="bot-2", refresh_token="of-bot-2", token_type="bot")
        halfway.set()
        await goes_on.wait()
        return given(access_token="user-2", refresh_token="of-user-2", token_type="user")

    async with asyncio.TaskGroup() as group:
        holder = group.create_task(refresher(grant, ask).ensure_newer("int_1", 1))
        await halfway.wait()
        other = group.create_task(refresher(grant, ask).ensure_newer("int_1", 1))
        await asyncio.sleep(0.3)
        assert not other.done(), "the person's token is the old one"
        goes_on.set()
    for done in (holder.result(), other.result()):
        assert grant.secrets(done)["others"]["user"]["access_token"] == "user-2"
        assert done.expires_at
        assert done.expires_at > utcnow()


def abandoned(keep: Keep, provider: str, *, committed: bool) -> StoredGrant:
    """An integration whose refresher is gone."""
    lease = {"holder": "gone", "beat": 7, "committed": committed}
    return keep(provider, {"access_token": "a-1", "refresh_token": "r-1"}, fence=1, lease=lease)


@pytest.mark.parametrize(
    ("provider", "committed"),
    [("slack", False), ("google", False), ("google", True)],
    ids=["single-use-not-asked", "reusable-not-asked", "reusable-maybe-asked"],
)
async def test_a_token_is_refreshed_after_its_refresher_died(
    keep: Keep, provider: str, committed: bool
) -> None:
    grant, asked = abandoned(keep, provider, committed=committed), []

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        asked.append(call)
        return given(access_token="a-2", refresh_token="r-2")

    done = await refresher(grant, ask).ensure_newer("int_1", 1)
    assert (len(asked), grant.secrets(done)["refresh_token"], done.lease) == (1, "r-2", None)
    assert (done.fence, done.settled_fence) == (2, 2)


async def test_a_token_that_works_once_is_not_sent_after_its_refresher_may_have_sent_it(keep: Keep) -> None:
    grant = abandoned(keep, "slack", committed=True)

    async def ask(_call: ProviderRequest, _workspace: str) -> ProviderResponse:
        raise AssertionError("it may have been used")

    with pytest.raises(NotConnected):
        await refresher(grant, ask).ensure_newer("int_1", 1)
    stored = grant.stored
    assert (stored.status, stored.reason) == ("reauth_required", "refresh_interrupted")


@pytest.mark.parametrize(
    ("provider", "reason"), [("slack", "refresh_interrupted"), ("google", "invalid_grant")]
)
async def test_only_a_token_that_works_once_is_lost_by_an_error_of_the_provider(
    keep: Keep, provider: str, reason: str
) -> None:
    grant = keep(provider, {"access_token": "a-1", "refresh_token": "r-1"})
    answers = [
        ProviderResponse(500, {}, b""),
        ProviderResponse(429, {}, b""),
        ProviderResponse(400, {"content-type": "application/json"}, b'{"error":"invalid_grant"}'),
    ]

    async def ask(_call: ProviderRequest, _workspace: str) -> ProviderResponse:
        return answers.pop(0)

    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await refresher(grant, ask).ensure_newer("int_1", 1)
        grant.set(retry_at=None)
    with pytest.raises(NotConnected):
        await refresher(grant, ask).ensure_newer("int_1", 1)
    assert (grant.stored.status, grant.stored.reason) == ("reauth_required", reason)


async def test_a_live_refresher_is_waited_for_however_slow_the_provider_is(keep: Keep) -> None:
    """Its beat is seen, so its lease does not end."""
    grant, goes_on, asked = (
        keep("google", {"access_token": "a-1", "refresh_token": "r-1"}),
        asyncio.Event(),
        [],
    )

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        asked.append(call)
        await goes_on.wait()
        return given(access_token="a-2", refresh_token="r-2")

    async with asyncio.TaskGroup() as group:
        holder = group.create_task(refresher(grant, ask).ensure_newer("int_1", 1))
        other = group.create_task(refresher(grant, ask).ensure_newer("int_1", 1))
        await asyncio.sleep(3 * (HASTY.call_s + HASTY.settle_s))
        assert (len(asked), grant.stored.fence) == (1, 1)
        goes_on.set()
    assert holder.result().version == other.result().version == 2


async def test_a_lost_lease_sends_no_request(keep: Keep) -> None:
    """It stood still between the claim and the request; another one has refreshed meanwhile."""
    grant = keep("slack", {"access_token": "a-1", "refresh_token": "r-1"})
    asked: list[bytes] = []

    async def ask(call: ProviderRequest, _workspace: str) -> ProviderResponse:
        asked.append(call.body)
        return given(access_token="a-2", refresh_token="r-2")

    first = refresher(grant, ask)
    plain = first.outcomes.decrypt_credential

    def opened(integration: Integration) -> dict[str, Any]:
        if integration.fence == 1:  # as another holder leaves it
            grant.set(fence=2, lease={"holder": "another", "beat": 0, "committed": False})
        return plain(integration)

    vars(first.outcomes)["decrypt_credential"] = opened
    done = await first.ensure_newer("int_1", 1)
    assert [b"refresh_token=r-1" in body for body in asked] == [True], "once, with the third claim"
    assert done.fence == 3


async def test_accounts_whose_server_hangs_hold_up_those_of_no_other_workspace(keep: Keep) -> None:
    """A server that a workspace chose answers none of its refreshes; the others' are due later."""
    due = utcnow() - timedelta(minutes=1)
    grant = keep("jira", {"access_token": "a-1", "refresh_token": "r-1"}, open=True, due_at=due)
    grant.copy(*(f"int_of_1_{number}" for number in range(30)))
    grant.copy("int_of_2", workspace="ws_2", due_at=utcnow())
    hanging, refreshed, let_go = set[str](), asyncio.Event(), asyncio.Event()

    class Tokens:
        """The server of one workspace answers, that of the other one does not."""

        async def refresh(self, integration_id: str, *, than: int) -> None:
            assert than
            if integration_id == "int_of_2":
                refreshed.set()
                return
            hanging.add(integration_id)
            await let_go.wait()

    tokens, nobody = cast("TokenSource", Tokens()), cast("Disconnector", None)
    maintenance = Maintenance(
        grant.integrations, registry().connectors, tokens, nobody, structlog.get_logger(), interval_s=0.05
    )
    await maintenance.start()
    try:
        async with asyncio.timeout(30):
            await refreshed.wait()
        assert 1 < len(hanging) <= 10
    finally:
        let_go.set()
        await maintenance.stop()


async def test_of_two_processes_one_warns_that_a_grant_ends(keep: Keep) -> None:
    now = utcnow()
    ends = {"connected_at": now - timedelta(days=355), "grant_ends_at": now + timedelta(days=10)}
    fields = {**ends, "open": True, "due_at": now, "expires_at": now + timedelta(hours=1)}
    grant = keep("jira", {"access_token": "a-1", "refresh_token": "r-1"}, **fields)
    asked: list[str] = []

    class Tokens:
        """The refresh that follows is another test's."""

        async def refresh(self, integration_id: str, *, than: int) -> None:
            asked.append(f"{integration_id} {than}")

        def forget(self, _integration_id: str) -> None:
            """It remembers nothing."""

    tokens, nobody = cast("TokenSource", Tokens()), cast("Disconnector", None)
    processes = [
        Maintenance(
            grant.integrations, registry().connectors, tokens, nobody, structlog.get_logger(), interval_s=60
        )
        for _ in range(3)
    ]
    await asyncio.gather(*(process.run_due() for process in processes))
    assert (grant.kafka.types, grant.stored.warned_at is not None) == (["expiring"], True)
    await processes[0].run_due()
    assert asked[-1] == "int_1 1", "what keeps the tokens alive goes on"
    assert grant.kafka.types == ["expiring"]

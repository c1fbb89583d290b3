"""MongoDB's primary steps down, and connections end: writes are repeated once, and 503s end by themselves.

Not on a real replica set: see `tests/support/replica_set.py`.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from secrets import token_hex
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from shared.contracts.errors import DatabaseUnavailable
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.console.person import Answer, Person
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import SERVICES, Hub
from tests.support.outgoing import new_type, path_of, publish
from tests.support.replica_set import ReplicaSet
from tests.support.subscriber import Subscriber

WRITES = ("insert", "update", "delete", "findAndModify")
WRITE_RAN = {"code": 6, "errmsg": "the connection was lost", "codeName": "HostUnreachable"}
"""An error after the write: the answer was lost, not the write."""


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path_factory.mktemp("replica-set")) as started:
        yield started


@pytest.fixture(scope="module")
def store(replica_set: ReplicaSet) -> Store:
    return Store("a replica set of one", replica_set.base_uri)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "uploads")}
    with Hub(folder, bus, store, env=env) as started:
        yield started


async def test_a_retryable_write_happens_once(replica_set: ReplicaSet) -> None:
    """The driver repeats it with the same number, and the database answers what it did the first time."""
    name = f"test_{token_hex(4)}"
    uri = replica_set.base_uri.replace("/?", f"/{name}?")
    mongo = Mongo(MongoSettings(uri=SecretStr(uri)), app="test")
    collection = mongo.collection("x")
    try:
        failures: list[dict[str, Any]] = [
            {"closeConnection": True},
            {"writeConcernError": WRITE_RAN, "errorLabels": ["RetryableWriteError"]},
        ]
        for number, how in enumerate(failures):
            replica_set.fail(WRITES, 1, "test", **how)
            await collection.insert_one({"_id": number, "n": 0})
            replica_set.fail(WRITES, 1, "test", **how)
            await collection.update_one({"_id": number}, {"$inc": {"n": 1}})
            replica_set.fail(WRITES, 1, "test", **how)
            found = await collection.find_one_and_update(
                {"_id": number}, {"$inc": {"n": 1}}, return_document=True
            )
            assert found == {"_id": number, "n": 2}
    finally:
        mongo.close()


def _write(hub: Hub, service: str) -> httpx.Response | Answer:
    """A call of a service that writes, each time another one."""
    unique = token_hex(6)
    if service == "console":
        return Person(hub.url("console")).sign_in(hub.admin_key)
    method, path, body = {
        "gateway": ("POST", "/api/inbound-endpoints", {"provider": "github", "name": unique}),
        "delivery": (
            "POST",
            "/api/outgoing-webhooks",
            {"name": unique, "url": f"https://example.com/{unique}", "events": ["a.b"]},
        ),
        # No such account: its entry in the audit log is written all the same.
        "sync": (
            "PUT",
            "/api/people-links",
            {"provider": "slack", "account": "T1", "person_id": unique, "user_id": "usr_ada"},
        ),
        "oauth": (
            "PUT",
            "/api/platform-credentials/slack",
            {"client_id": unique, "client_secret": "the-secret-of-the-app", "verified": True},
        ),
        "importer": ("POST", "/api/uploads", None),
    }[service]
    upload = {"Upload-Length": "9", "Upload-Metadata": "filename ZXhwb3J0LnppcA=="}
    with hub.client(service) as client:
        return client.request(method, path, json=body, headers=upload if service == "importer" else None)


def _succeeds(hub: Hub, service: str) -> bool:
    """A call that writes is answered again."""
    return _status(_write(hub, service)) < 500


def _status(answer: httpx.Response | Answer) -> int:
    return answer.status_code if isinstance(answer, httpx.Response) else answer.status


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_repeats_a_write_whose_connection_ended(
    hub: Hub, replica_set: ReplicaSet, service: str
) -> None:
    replica_set.fail(WRITES, 1, f"interlink-{service}", closeConnection=True)
    assert _status(_write(hub, service)) < 500


def test_without_a_primary_every_service_answers_503(hub: Hub, replica_set: ReplicaSet) -> None:
    replica_set.step_down(9)
    with ThreadPoolExecutor(len(SERVICES)) as together:
        answers = dict(
            zip(SERVICES, together.map(lambda service: _write(hub, service), SERVICES), strict=True)
        )
    assert {name: _status(answer) for name, answer in answers.items()} == dict.fromkeys(SERVICES, 503)
    for service in SERVICES:
        eventually(partial(_succeeds, hub, service))


def test_calls_answer_503_without_a_primary_and_succeed_when_there_is_one(
    hub: Hub, replica_set: ReplicaSet
) -> None:
    """Webhooks in need no database: they are accepted all the time, and each is delivered."""
    kind, names = new_type(), list[str]()
    endpoint = hub.github_endpoint()
    body = b'{"zen": "Design for failure.", "hook_id": 1}'
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind, "github.ping"])
        hub.call("GET", "/api/outgoing-webhooks")
        replica_set.step_down(9)
        statuses, accepted = set[int](), 0

        def call() -> bool:
            """A call that writes succeeds again."""
            nonlocal accepted
            name = token_hex(6)
            answer = hub.client("gateway").post(
                "/api/inbound-endpoints", json={"provider": "github", "name": name}
            )
            assert answer.status_code in (201, 503), answer.text
            statuses.add(answer.status_code)
            if answer.status_code == 201:
                names.append(name)
            else:
                assert answer.headers["retry-after"]
            headers = signed(endpoint["secret"], "ping", body)
            accepted += (
                httpx.post(endpoint["url"], content=body, headers=headers, timeout=30).status_code == 202
            )
            return answer.status_code == 201

        eventually(call, 90)
        assert statuses == {201, 503}
        for service in SERVICES:
            hub.wait_ready(service)
            assert hub.ended(service) is None
        publish(hub, kind, {"n": 1})
        subscriber.wait_for(accepted + 1)
    listed = [item["name"] for item in hub.call("GET", "/api/inbound-endpoints?limit=100")["items"]]
    assert [name for name in names if listed.count(name) != 1] == []
    hub.call("DELETE", path_of(webhook))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("tls=true", "certificate is not accepted .*: set tlsCAFile to the authority"),
        ("", "closed the connection .*: check whether it requires tls=true"),
        (
            "tls=true&tlsCAFile={ca}&replicaSet=other",
            'replica set name "other": wait .*, or check replicaSet',
        ),
    ],
)
def test_a_connection_that_fails_says_why(replica_set: ReplicaSet, options: str, problem: str) -> None:
    uri = f"mongodb://127.0.0.1:{replica_set.port}/x?{options.format(ca=replica_set.ca_file)}"

    async def ping() -> None:
        mongo = Mongo(MongoSettings(uri=SecretStr(uri), timeout_ms=500), app="test")
        try:
            await mongo.ping()
        finally:
            mongo.close()

    with pytest.raises(DatabaseUnavailable, match=problem):
        asyncio.run(ping())

"""Three brokers of Apache Kafka with TLS, logins and ACLs: what each service may do, and brokers that fail.

Each service has a user of its own, with exactly the ACLs of `shared/contracts/kafka_acls.py`: `sync` by its
certificate, the others by SCRAM.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from pydantic import SecretStr

from services.console.live.events import TOPICS as LIVE_EVENTS
from shared.contracts.errors import BrokerUnavailable, Misconfigured
from shared.contracts.kafka_acls import INIT, OPERATOR, SERVICES, USERS, Acl, acls_of
from shared.contracts.topics import CHAT_EVENTS, CHAT_INBOUND, DEAD_LETTERS, WEBHOOKS_RECEIVED
from shared.runtime import prerequisites
from shared.runtime.kafka.admin import absent_topics
from shared.runtime.kafka.connection import connection
from shared.runtime.kafka.consumer import Consumer
from shared.runtime.kafka.producer import Producer
from shared.runtime.kafka.tail import tail
from shared.runtime.logs import configure
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.importer.history_chat import HistoryChat
from tests.importer.test_imports import export, imported
from tests.support.apache_kafka import available
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually, until
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.kafka_cluster import KafkaCluster, kafka_cluster
from tests.support.outgoing import new_type, path_of, publish
from tests.support.services import completed
from tests.support.subscriber import Subscriber
from tests.support.tap import RawRecord, Tap, put
from tests.sync.three_legs import World, connected

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))

STRANGER = "stranger"
"""A user without ACLs."""
PAYLOAD = b'{"zen": "Keep it logically awesome.", "hook_id": 1}'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with kafka_cluster(tmp_path_factory.mktemp("cluster"), [*USERS, STRANGER]) as started:
        started.allow({user: acls_of(user) for user in USERS})
        yield started


@pytest.fixture(scope="module")
def bus(cluster: KafkaCluster) -> Bus:
    certificate = cluster.certificate_env("sync")

    def of_service(name: str) -> dict[str, str]:
        if name == "sync":
            return certificate
        return cluster.env(name, "SCRAM-SHA-256" if name == "gateway" else "SCRAM-SHA-512")

    env = {"KAFKA_BOOTSTRAP_SERVERS": cluster.plain_bootstrap, "KAFKA_SESSION_TIMEOUT_MS": "6000"}
    return Bus("three brokers of Apache Kafka", env, service_env=of_service)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    uploads = str(folder / "uploads")
    with connected(folder, bus, store, services=SERVICES, INTERLINK_UPLOAD_FOLDER=uploads) as found:
        yield found


@dataclass
class GitHub:
    """An endpoint of the hub, and GitHub, which sends it webhooks."""

    endpoint: dict[str, Any]

    def post(self) -> httpx.Response:
        headers = signed(self.endpoint["secret"], "ping", PAYLOAD)
        return httpx.post(self.endpoint["url"], content=PAYLOAD, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def github(world: World) -> GitHub:
    endpoint = world.hub.github_endpoint()
    path = endpoint["url"].partition("/api/")[2]
    return GitHub(endpoint | {"url": f"{world.hub.url('gateway')}/api/{path}"})


def test_the_whole_flow_needs_no_other_acl(
    world: World, cluster: KafkaCluster, bus: Bus, github: GitHub
) -> None:
    hub = world.hub
    hub.init(hub.workspace)  # repeated, as after an upgrade
    legs = world.mapped()
    dead = Tap(bus, DEAD_LETTERS.name)
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=["*", "inbound.*"], format="envelope")
        legs.slack.write("from Slack")
        legs.telegram.write("from Telegram")
        legs.chat.write("from the chat")
        legs.agree("from Slack", "from Telegram", "from the chat", within_s=60)
        assert github.post().status_code == 202
        kinds = {"github.ping", "slack.message", "inbound.message.created", "message.created"}
        hub.call("POST", f"{path_of(webhook)}/rotate-secret", {})
        hub.call("POST", f"/api/inbound-endpoints/{github.endpoint['id']}/rotate-secret", {})

        def seen() -> set[str]:
            return {
                request.body.decode().partition('"type":"')[2].partition('"')[0] for request in subscriber.got
            }

        eventually(lambda: kinds <= seen(), 60)
    hub.call("DELETE", path_of(webhook))

    # Dead letters of every group that reads the topic, and an operator who publishes them again.
    put(bus, CHAT_EVENTS.name, [RawRecord(b"k", b"{", [])])
    groups = {"delivery-fanout", "sync-translate", "importer-confirmations"}
    eventually(lambda: {record.attributes["dl_group"] for record in dead.look()} == groups)
    for command in (("dead-letters", "list"), ("dead-letters", "replay", "--all"), ("doctor",)):
        env = hub.env | cluster.env(OPERATOR)
        done = completed(("interlink", *command), env, within_s=60)
        assert done.returncode == 0, done.stdout + done.stderr

    # An execution's record, events that a person watches, and the import of history.
    path = f"/api/inbound-endpoints/{github.endpoint['id']}/events"
    [execution, *_] = eventually(lambda: hub.call("GET", path)["items"])
    hub.call("POST", f"{path}/{execution['id']}/replay", {})
    asyncio.run(_console(cluster))
    with HistoryChat(cluster.plain_bootstrap, hub.workspace) as chat:
        assert imported(hub, export())["status"] == "completed"
        eventually(lambda: chat.texts("old") == ["archived"])
    asyncio.run(_chat(cluster))
    assert cluster.denied() == []


async def _console(cluster: KafkaCluster) -> None:
    """Read live events as the console does for a person who watches them."""
    log = configure("test", "error")
    batches = tail(cluster.settings("console"), LIVE_EVENTS, log, name="test", past=50)
    topics = set[str]()
    async with asyncio.timeout(60), aclosing(batches):
        async for batch in batches:
            topics |= {record.topic for record in batch.records}
            if topics == {topic.name for topic in LIVE_EVENTS}:
                return


async def _chat(cluster: KafkaCluster) -> None:
    """Publish and consume as a service of the chat does, with its own user."""
    arguments = connection(cluster.settings("chat"))
    producer = AIOKafkaProducer(enable_idempotence=True, **arguments)
    consumer = AIOKafkaConsumer(
        CHAT_INBOUND.name, group_id="chat-page", auto_offset_reset="earliest", **arguments
    )
    async with asyncio.timeout(60), producer, consumer:
        await producer.send_and_wait(CHAT_EVENTS.name, b"{}")
        await consumer.getone()
        await consumer.commit()


def test_topics_have_three_replicas_and_two_must_have_a_record(world: World, cluster: KafkaCluster) -> None:
    async def ask() -> tuple[set[int], Any]:
        admin = AIOKafkaAdminClient(**connection(cluster.settings()))
        await admin.start()
        try:
            topics = await admin.describe_topics()
            resource = ConfigResource(ConfigResourceType.TOPIC, WEBHOOKS_RECEIVED.name)
            [response] = await admin.describe_configs([resource])
        finally:
            await admin.close()
        own = [topic for topic in topics if not topic["topic"].startswith("__")]
        replicas = {len(part["replicas"]) for topic in own for part in topic["partitions"]}
        return replicas, {entry[0]: entry[1] for entry in response.resources[0][4]}

    replicas, config = asyncio.run(ask())
    assert replicas == {3}
    assert config["min.insync.replicas"] == "2"


def test_a_missing_acl_is_named_and_its_end_needs_no_restart(
    world: World, cluster: KafkaCluster, github: GitHub
) -> None:
    hub = world.hub
    write = Acl("Write", "topic", WEBHOOKS_RECEIVED.name)
    cluster.disallow("gateway", write)
    eventually(lambda: github.post().status_code == 503)
    refused = github.post()
    assert refused.headers["retry-after"]
    assert "Kafka is not available" in refused.text
    assert "gateway" not in refused.text, "the sender learns nothing of users"
    assert _logged(hub, "gateway", "producer.not_authorized") == (
        "the Kafka user 'gateway' lacks the right Write on topic webhooks.received: add the ACLs that "
        "docs/reference/kafka-acls.md lists for it"
    )
    cluster.allow({"gateway": [write]})
    eventually(lambda: github.post().status_code == 202)

    read = Acl("Read", "group", "delivery-", is_prefix=True)
    cluster.disallow("delivery", read)
    line = eventually(lambda: _logged(hub, "delivery", "consumer.not_authorized"))
    assert "'delivery' lacks the right Read on group delivery-" in line
    cluster.allow({"delivery": [read]})
    kind = new_type()
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        publish(hub, kind, {"n": 1})
        subscriber.wait_for(1)
    hub.call("DELETE", path_of(webhook))

    for command, code, text in (
        (("init",), 2, "was not created: the Kafka user 'stranger' lacks the right Create on topic"),
        (("doctor",), 0, "this Kafka user may not see webhooks.received"),
    ):
        done = completed(("interlink", *command), hub.env | cluster.env(STRANGER), within_s=60)
        assert text in " ".join((done.stdout + done.stderr).decode().split())
        assert done.returncode == code


def test_a_service_does_not_start_without_its_topics(
    cluster: KafkaCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a tenth of a second instead of half a minute."""
    monkeypatch.setattr(prerequisites, "WAIT_S", 0.1)
    mongo = Mongo(MongoSettings(uri=SecretStr(world.hub.env["MONGODB_URI"])), app="test")
    log = configure("test", "error")

    def wait(user: str) -> None:
        needs = prerequisites.wait_for_topics_and_indexes("delivery", cluster.settings(user), mongo, [], log)
        asyncio.run(needs)

    wait("delivery")
    with pytest.raises(Misconfigured, match=r"the Kafka user may not see topics .*: add the ACLs that docs/"):
        wait(STRANGER)
    mongo.close()


def _logged(hub: Hub, service: str, event: str) -> str:
    """The text of the last such line in a log; empty if there is none."""
    found = [line["error"] for line in hub.log_lines(service) if line["event"] == event]
    return found[-1] if found else ""


NO_LOGIN = {"sasl_username": None, "sasl_password": None}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"sasl_password": "wrong"},
            "refuses the login of 'init' by SCRAM-SHA-512: check KAFKA_SASL_USERNAME",
        ),
        ({"sasl_mechanism": "PLAIN"}, "does not support PLAIN: set KAFKA_SASL_MECHANISM"),
        ({"ssl_cafile": None}, "certificate is not accepted .* set KAFKA_SSL_CAFILE to the authority"),
        (
            {"security_protocol": "SASL_PLAINTEXT", "ssl_cafile": None},
            "closed the connection: check that KAFKA_S",
        ),
        ({"security_protocol": "SSL", **NO_LOGIN}, "KAFKA_SECURITY_PROTOCOL=SSL is what this port has"),
        (
            {"bootstrap_servers": "127.0.0.1:1"},
            "no Kafka broker at 127.0.0.1:1: .*: check KAFKA_BOOTSTRAP_SERVERS",
        ),
    ],
)
def test_a_connection_that_fails_says_why(
    cluster: KafkaCluster, changed: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BrokerUnavailable, match=problem):
        asyncio.run(absent_topics(cluster.settings(INIT, **changed)))


@pytest.mark.parametrize("rack", [None, "zone-3"])
def test_a_consumer_fetches_from_its_rack(
    world: World, cluster: KafkaCluster, github: GitHub, rack: str | None
) -> None:
    """Else from the leaders, which are on all brokers."""

    async def nodes() -> set[int]:
        settings = cluster.settings("delivery", client_rack=rack)
        log = configure("test", "error")
        producer = Producer(settings, log, client_id="test")
        seen: list[str] = []

        async def handle(batch: Any) -> None:
            seen.extend(consumed.event.type for consumed in batch)

        consumer = Consumer(
            settings,
            producer,
            log,
            group=f"delivery-{token_hex(4)}",
            topics=[WEBHOOKS_RECEIVED],
            handler=handle,
        )
        consumer.start()
        try:
            await until(lambda: seen)

            def read_from() -> set[int]:
                fetcher = consumer._client._fetcher  # type: ignore[union-attr]
                return {fetcher._select_read_replica(partition) for partition in consumer.assigned}

            with suppress(TimeoutError):
                await until(lambda: read_from() == ({3} if rack else {1, 2, 3}), within_s=30)
            return read_from()
        finally:
            await consumer.stop(timeout_s=10)
            await producer.stop()

    assert asyncio.run(nodes()) == ({3} if rack else {1, 2, 3})


def test_no_webhook_is_lost_when_brokers_fail(world: World, cluster: KafkaCluster, github: GitHub) -> None:
    """A broker that leads a third of the partitions; then too few for two in-sync replicas."""
    hub, kind = world.hub, new_type()
    _, second, third = cluster.brokers
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=["github.ping"])
        accepted = 0

        def post_until(wanted: Callable[[httpx.Response], bool]) -> httpx.Response:
            """Send webhooks until an answer is wanted; the sender repeats what is not accepted."""
            nonlocal accepted

            def answered() -> httpx.Response | None:
                nonlocal accepted
                answer = github.post()
                assert answer.status_code in (202, 503), answer.text
                accepted += answer.status_code == 202
                return answer if wanted(answer) else None

            found = eventually(answered, 90)
            assert found
            return found

        post_until(lambda answer: answer.status_code == 202)
        second.kill()
        for _ in range(20):  # to partitions of all brokers: the others lead those of the dead one by now
            post_until(lambda answer: answer.status_code == 202)
        third.kill()
        refused = post_until(
            lambda answer: answer.status_code == 503 and "NotEnoughReplicas" in hub.log_text("gateway")
        )
        assert refused.headers["retry-after"]
        assert httpx.get(hub.url("gateway") + "/healthz", timeout=10).status_code == 200
        second.start()  # two are enough
        post_until(lambda answer: answer.status_code == 202)
        for service in SERVICES:
            hub.wait_ready(service)
        publish(hub, kind, {"n": 1})
        subscriber.wait_for(accepted, within_s=90)
        for service in SERVICES:
            assert hub.ended(service) is None
    hub.call("DELETE", path_of(webhook))

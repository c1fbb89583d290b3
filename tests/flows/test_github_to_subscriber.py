"""The flow that the hub is there for: GitHub's webhooks in, signed webhooks and chat messages out.

Every example payload that can be had is posted over HTTP by a client outside the hub, several at a time
but in order within a repository, and looked for where a subscriber and the chat see it.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
import pytest
import svix

from shared.contracts.topics import CHAT_INBOUND, DEAD_LETTERS
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.github_payloads import (
    Example,
    octokit_examples,
    repository_of,
    shared_examples,
)
from tests.support.hub import Hub
from tests.support.npm import Unavailable
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tap import Tap, TopicRecord

CHANNEL = f"c-{token_hex(6)}"
"""Of this module alone: the bus may be one that others use."""
AT_A_TIME = 8


@dataclass(frozen=True)
class Posted:
    """A webhook that the gateway accepted; `trace_id` is the one that the client began."""

    example: Example
    delivery_id: str
    repository: str
    event_id: str
    trace_id: str


@dataclass(frozen=True)
class Flow:
    """What went in and what came out."""

    hub: Hub
    endpoint_id: str
    strict_id: str
    loose_id: str
    secret: str
    posted: list[Posted]
    strict: list[WebhookRequest]
    loose: list[WebhookRequest]
    chat: list[TopicRecord]
    dead: list[TopicRecord]
    refused: list[WebhookRequest]


@pytest.fixture(scope="module")
def examples(note: Callable[[str], None]) -> list[Example]:
    """GitHub's own examples, and those of the shared folder where it is."""
    try:
        results = octokit_examples()
    except Unavailable as error:
        pytest.skip(str(error))
    beside = shared_examples()
    note(f"payloads: {len(results)} of @octokit/webhooks-examples, {len(beside) or 'none (skipped)'} beside")
    assert len(results) > 300
    return results + beside


@pytest.fixture(scope="module")
def flow(
    tmp_path_factory: pytest.TempPathFactory,
    kafka: Bus,
    store: Store,
    examples: list[Example],
    note: Callable[[str], None],
) -> Iterator[Flow]:
    """Everything posted and, as far as it comes, received."""
    folder = tmp_path_factory.mktemp("flow")
    hub = Hub(folder, kafka, store, services=("gateway", "delivery", "sync"))
    with Subscriber() as strict, Subscriber() as loose:
        try:
            hub.start()
            endpoint = hub.github_endpoint(channel_id=CHANNEL)
            to_strict = hub.outgoing_webhook(strict.url, events=["github.*"], ordering="strict")
            to_loose = hub.outgoing_webhook(loose.url, events=["github.*"], secret=to_strict["secret"])
            strict.secret = loose.secret = to_strict["secret"]
            inbound, dead = Tap(kafka, CHAT_INBOUND.name), Tap(kafka, DEAD_LETTERS.name)
            started = monotonic()
            posted = asyncio.run(_post(endpoint, examples))
            elapsed = monotonic() - started
            strict.wait_for(len(posted), within_s=60)
            loose.wait_for(len(posted), within_s=60)
            note(
                f"flow: {len(posted)} webhooks accepted in {elapsed:.1f} s,"
                f" all at both subscribers {monotonic() - started - elapsed:.1f} s later"
            )
            _settled(hub, len(posted))
            handled = sum(one.example.is_shown for one in posted)
            eventually(lambda: len(_of_channel(inbound)) >= handled)
            ours = {endpoint["id"], to_strict["id"], to_loose["id"]}
            yield Flow(
                hub,
                endpoint["id"],
                to_strict["id"],
                to_loose["id"],
                to_strict["secret"],
                posted,
                strict.got,
                loose.got,
                _of_channel(inbound),
                [letter for letter in dead.look() if ours & set(letter.attributes.values())],
                strict.refused + loose.refused,
            )
        finally:
            hub.stop()


async def _post(endpoint: dict[str, Any], examples: list[Example]) -> list[Posted]:
    """Post every example: those of one repository in turn, of several at a time. In the order of answers."""
    by_repository: dict[str, list[Example]] = {}
    for example in examples:
        by_repository.setdefault(repository_of(example.body) or "", []).append(example)
    posted: list[Posted] = []
    room = asyncio.Semaphore(AT_A_TIME)

    async def work(client: httpx.AsyncClient, repository: str, mine: list[Example]) -> None:
        async with room:
            for example in mine:
                trace_id = uuid4().hex
                headers = signed(
                    endpoint["secret"],
                    example.event,
                    example.body,
                    traceparent=f"00-{trace_id}-00f067aa0ba902b7-01",
                )
                answer = await client.post(endpoint["url"], content=example.body, headers=headers)
                assert answer.is_success, f"{example.name}: {answer.status_code} {answer.text}"
                delivery_id, event_id = headers["x-github-delivery"], answer.json()["event_id"]
                posted.append(Posted(example, delivery_id, repository, event_id, trace_id))

    async with httpx.AsyncClient(timeout=10) as client:
        await asyncio.gather(*(work(client, repository, mine) for repository, mine in by_repository.items()))
    return posted


def _settled(hub: Hub, count: int) -> None:
    """Wait until the log has every delivery as finished: the subscriber answers before it is written."""
    eventually(lambda: hub.call("GET", "/api/queue/stats")["completed"] == 2 * count, within_s=30)


def _of_channel(inbound: Tap) -> list[TopicRecord]:
    return [message for message in inbound.look() if message.key == CHANNEL.encode()]


def ids(received: list[WebhookRequest]) -> list[str]:
    """GitHub's delivery ids, in the order in which a subscriber got them."""
    return [json.loads(got.body)["data"]["delivery_id"] for got in received]


@pytest.mark.parametrize("which", ["strict", "loose"])
def test_every_payload_arrives_exactly_once_and_verifies(flow: Flow, which: str) -> None:
    """The subscriber answers 401 to what the `standardwebhooks` library refuses, and keeps it apart."""
    received = flow.strict if which == "strict" else flow.loose
    assert sorted(ids(received)) == sorted(one.delivery_id for one in flow.posted)
    assert len({got.headers["webhook-id"] for got in received}) == len(flow.posted)
    assert flow.refused == []


def test_the_library_of_svix_verifies_the_same_requests(flow: Flow) -> None:
    verifier = svix.Webhook(flow.secret)
    for got in flow.strict + flow.loose:
        verifier.verify(got.body, got.headers)
    with pytest.raises(svix.WebhookVerificationError):
        verifier.verify(flow.strict[0].body + b" ", flow.strict[0].headers)


def test_what_arrives_is_what_github_sent(flow: Flow) -> None:
    by_id = {one.delivery_id: one for one in flow.posted}
    for got in flow.strict + flow.loose:
        body = json.loads(got.body)
        data = body["data"]
        sent = by_id[data["delivery_id"]]
        assert data["payload"] == json.loads(sent.example.body)
        assert data == {
            "provider": "github",
            "endpoint_id": flow.endpoint_id,
            "event": sent.example.event,
            "delivery_id": sent.delivery_id,
            "triggers": data["triggers"],
            "account": data["payload"].get("repository", {}).get("owner", {}).get("login"),
            "received_at": data["received_at"],
            "test": False,
            "replay_of": None,
            "payload": data["payload"],
        }
        assert (body["id"], body["type"]) == (sent.event_id, f"github.{sent.example.event}")
        assert body["workspace"] == flow.hub.workspace


def test_the_order_within_a_repository_is_preserved(flow: Flow) -> None:
    def by_repository(delivery_ids: list[str]) -> dict[str, list[str]]:
        orders: dict[str, list[str]] = {}
        for delivery_id in delivery_ids:
            orders.setdefault(repositories[delivery_id], []).append(delivery_id)
        return orders

    repositories = {one.delivery_id: one.repository for one in flow.posted}
    posted = [one.delivery_id for one in flow.posted]
    assert by_repository(ids(flow.strict)) == by_repository(posted)
    assert len(set(repositories.values())) > 10


def test_the_log_has_each_as_delivered_with_one_attempt(flow: Flow) -> None:
    for webhook_id in (flow.strict_id, flow.loose_id):
        log = flow.hub.deliveries(webhook_id=webhook_id)
        assert sorted(one["event_id"] for one in log) == sorted(one.event_id for one in flow.posted)
        assert {(one["status"], one["attempt_count"]) for one in log} == {("delivered", 1)}
    [attempt] = flow.hub.call("GET", f"/api/deliveries/{log[0]['id']}")["attempts"]
    assert (attempt["number"], attempt["status_code"]) == (1, 204)


def test_one_trace_id_leads_from_the_request_to_the_delivery(flow: Flow) -> None:
    expected = {one.event_id: one.trace_id for one in flow.posted}
    at_the_gateway = {
        line["event_id"]: line["trace_id"]
        for line in flow.hub.log_lines("gateway")
        if line["event"] == "webhook.accepted"
    }
    assert at_the_gateway == expected
    log = flow.hub.deliveries()
    assert len(log) == 2 * len(flow.posted)
    attempted = {
        line["delivery_id"]: line["trace_id"]
        for line in flow.hub.log_lines("delivery")
        if line["event"] == "delivery.attempted"
    }
    for one in log:
        assert one["trace_id"] == attempted[one["id"]] == expected[one["event_id"]]
    for got in flow.strict:
        assert got.headers["traceparent"].split("-")[1] == expected[json.loads(got.body)["id"]]
    for message in flow.chat:
        sent = next(one for one in flow.posted if one.delivery_id == message.data["origin"]["delivery_id"])
        assert message.attributes["traceparent"].split("-")[1] == sent.trace_id


def test_the_chat_gets_a_message_for_each_handled_event_in_order(flow: Flow) -> None:
    """One endpoint is one partition, so the chat's order is that of the strict subscriber."""
    shown = {one.delivery_id for one in flow.posted if one.example.is_shown}
    expected = [name for name in ids(flow.strict) if name in shown]
    assert len(expected) >= 99  # so many are among those that everybody has
    assert [message.data["origin"]["delivery_id"] for message in flow.chat] == expected
    for message in flow.chat:
        assert message.attributes["ce_type"] == "inbound.message.created"
        assert message.attributes["workspace"] == flow.hub.workspace
        assert message.key == CHANNEL.encode()
        assert message.data["channel_id"] == CHANNEL
        assert message.data["text"].strip()
    assert len({message.data["message_id"] for message in flow.chat}) == len(flow.chat)


def test_nothing_was_dead_lettered(flow: Flow) -> None:
    assert [record.attributes for record in flow.dead] == []

"""Several workers of one service: what they promise, they promise together, and none of them is missed."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from secrets import token_hex
from time import monotonic
from typing import Any

import httpx
import psutil
import pytest

from shared.contracts.topics import WEBHOOKS_RECEIVED
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.subscriber import Subscriber
from tests.support.tap import Tap

BODY = b'{"zen":"Keep it logically awesome.","repository":{"full_name":"a/b"}}'
CALLERS = 16
MAX_IN_FLIGHT = 4


class WorkersHub(Hub):
    """A hub of services with two workers each."""

    def start_service(self, name: str, *, module: Sequence[str] = (), **env: str) -> None:
        super().start_service(name, module=module or ("interlink", "serve", name, "--workers", "2"), **env)

    def workers(self, service: str) -> dict[int, int]:
        """The process id of each worker that runs, by its number."""
        forked = (line for line in self.log_lines(service) if line["event"] == "worker.forked")
        return {line["worker"]: line["pid"] for line in forked if _runs(line["pid"])}

    def kill_worker(self, service: str, number: int) -> int:
        """SIGKILL a worker; its process id."""
        pid = self.workers(service)[number]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not _runs(pid))
        return pid

    def served(self, event: str) -> Counter[int]:
        """How often each worker has logged an event."""
        return Counter(line["worker"] for line in self.log_lines("gateway") if line["event"] == event)

    def counted(self, **labels: str) -> float:
        """The webhooks that the gateway has counted."""
        return self.metric("gateway", "interlink_requests_total", route="webhook", **labels)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(endpoint: dict[str, Any], delivery: str | None = None, secret: str = "") -> httpx.Response:
    """Send a webhook over a connection of its own: the kernel chooses the worker."""
    headers = signed(secret or endpoint["secret"], "ping", BODY, delivery=delivery)
    return httpx.post(endpoint["url"], content=BODY, headers=headers, timeout=30)


def send_many(endpoint: dict[str, Any], deliveries: Sequence[str | None], secret: str = "") -> list[Any]:
    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(lambda delivery: send(endpoint, delivery, secret), deliveries))


@pytest.fixture(scope="module", name="hub")
def _hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    with WorkersHub(tmp_path_factory.mktemp("hub"), bus, store, services=("gateway",)) as hub:
        yield hub


def test_connections_are_spread_and_counted_once(hub: WorkersHub) -> None:
    endpoint, before = hub.github_endpoint(), hub.counted()
    assert {answer.status_code for answer in send_many(endpoint, [None] * 60)} == {202}
    served = hub.served("webhook.accepted")
    assert set(served) == {0, 1}, served
    for _ in range(8):  # whichever worker is asked
        assert hub.counted() - before == 60


def test_the_rate_limit_of_an_endpoint_is_that_of_all_workers(hub: WorkersHub) -> None:
    endpoint = hub.github_endpoint(rate_limit=30)
    started = monotonic()
    statuses = Counter(answer.status_code for answer in send_many(endpoint, [None] * 90))
    refilled = int((monotonic() - started) * 30 / 60) + 1
    assert set(statuses) == {202, 429}
    assert 30 <= statuses[202] <= 30 + refilled


def test_a_changed_rate_limit_counts_at_once_at_all_workers(hub: WorkersHub) -> None:
    endpoint = hub.github_endpoint(rate_limit=1)
    assert Counter(answer.status_code for answer in send_many(endpoint, [None] * 10))[202] == 1
    hub.call("PATCH", f"/api/inbound-endpoints/{endpoint['id']}", {"rate_limit": 20})
    assert Counter(answer.status_code for answer in send_many(endpoint, [None] * 40))[202] in (20, 21)


def test_repeats_at_all_workers_are_published_once(hub: WorkersHub, bus: Bus) -> None:
    endpoint, tap = hub.github_endpoint(), Tap(bus, WEBHOOKS_RECEIVED.name)
    deliveries = [token_hex(8) for _ in range(8)]
    answers = send_many(endpoint, [delivery for delivery in deliveries for _ in range(10)])
    assert {answer.status_code for answer in answers} == {202}
    assert sum(not answer.json().get("duplicate") for answer in answers) == len(deliveries)
    assert {answer.json()["duplicate"] for answer in send_many(endpoint, deliveries)} == {True}
    own = [record for record in tap.look() if record.key == endpoint["id"].encode()]
    assert sorted(record.attributes["delivery_id"] for record in own) == sorted(deliveries)


def test_rejections_of_a_caller_count_at_all_workers(hub: WorkersHub) -> None:
    endpoint = hub.github_endpoint()
    started = monotonic()

    def call(_: int) -> Counter[int]:
        headers = signed("wrong", "ping", BODY)
        with httpx.Client(timeout=30) as client:
            answers = (client.post(endpoint["url"], content=BODY, headers=headers) for _ in range(60))
            return Counter(answer.status_code for answer in answers)

    with ThreadPoolExecutor(CALLERS) as callers:
        statuses = sum(callers.map(call, range(CALLERS)), Counter())
    refilled = int((monotonic() - started) * 10) + 1
    assert set(statuses) == {401, 429}
    # Requests that are verified at the same time are all rejected with 401.
    assert 600 <= statuses[401] <= 600 + refilled + CALLERS


def test_a_killed_worker_comes_back_and_no_counter_goes_back(hub: WorkersHub) -> None:
    endpoint = hub.github_endpoint()
    deliveries = [token_hex(8) for _ in range(40)]
    send_many(endpoint, deliveries)
    before = hub.counted()
    killed = hub.kill_worker("gateway", 1)
    while hub.workers("gateway").get(1) in (None, killed):
        with suppress(httpx.TransportError):  # it was a connection of the killed worker
            assert hub.counted() >= before
    hub.wait_ready("gateway")
    assert hub.counted() == before
    answers = send_many(endpoint, deliveries)
    assert {answer.json()["duplicate"] for answer in answers} == {True}, "the window outlives a worker"
    assert hub.counted() == before + 40
    [ended] = [line for line in hub.log_lines("gateway") if line["event"] == "worker.ended"]
    assert (ended["worker"], ended["status"]) == (1, -signal.SIGKILL)


def test_neither_ready_nor_alive_while_a_worker_does_not_answer(hub: WorkersHub) -> None:
    def failed(number: int) -> list[str] | None:
        try:
            answer = httpx.get(hub.url("gateway") + ("/readyz", "/healthz")[number % 2], timeout=5)
        except httpx.TimeoutException:  # it was a connection of the stopped worker
            return None
        assert answer.status_code == 503
        return [name for name, ok in answer.json()["checks"].items() if not ok]

    hub.wait_ready("gateway")
    pid = hub.workers("gateway")[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(CALLERS) as callers:
            answers = [answer for answer in callers.map(failed, range(CALLERS)) if answer is not None]
        assert answers == [["worker_0_answers"]] * len(answers)
        assert answers
    finally:
        os.kill(pid, signal.SIGCONT)
    hub.wait_ready("gateway")


def test_the_parent_only_waits(hub: WorkersHub) -> None:
    parent = psutil.Process(hub.pid("gateway"))
    assert parent.num_threads() == 1
    assert parent.net_connections("inet") == []
    switches = parent.num_ctx_switches().voluntary
    send_many(hub.github_endpoint(), [None] * 20)
    assert parent.num_ctx_switches().voluntary == switches


@pytest.mark.parametrize("killed", [False, True])
def test_workers_end_with_their_parent(
    killed: bool, hub: WorkersHub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SIGTERM drains them; when the parent is killed, they drain by themselves."""
    folder = tmp_path_factory.mktemp("parent")
    other = WorkersHub(folder, bus, store, services=("gateway",), env=hub.env, workspace=hub.workspace)
    other.start_service("gateway")
    try:
        other.wait_ready("gateway")
        pids = other.workers("gateway").values()
        if killed:
            other.kill("gateway")
        else:
            assert other.stop_service("gateway") == 0
        eventually(lambda: not any(map(_runs, pids)))
        stopped = [
            line["worker"] for line in other.log_lines("gateway") if line["event"] == "service.stopped"
        ]
        assert sorted(stopped) == [0, 1]
        other.start_service("gateway")  # the port is free
        other.wait_ready("gateway")
    finally:
        other.stop()


@pytest.mark.parametrize("setting", ["INTERLINK_PORT", "MONGODB_URI"])
def test_what_prevents_the_start_ends_all_workers(setting: str, hub: WorkersHub) -> None:
    port = hub.ports["gateway"] if setting == "INTERLINK_PORT" else free_port()
    env = hub.env | {"INTERLINK_PORT": str(port)}
    if setting == "MONGODB_URI":
        del env["MONGODB_URI"]
    command = [sys.executable, "-m", "interlink", "serve", "gateway", "--workers", "2"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert setting in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_killed_delivery_worker_loses_nothing_and_limits_hold(
    tmp_path_factory: pytest.TempPathFactory, kafka: Bus, store: Store
) -> None:
    folder, services = tmp_path_factory.mktemp("delivery"), ("gateway", "delivery")
    env = {"INTERLINK_MOST_IN_FLIGHT": str(MAX_IN_FLIGHT)}
    hub = WorkersHub(folder, kafka, store, services=services, env=env)
    with Subscriber(delay_s=0.01) as subscriber, hub:
        webhooks = [hub.outgoing_webhook(subscriber.url, events=["test.happened"]) for _ in range(8)]

        def publish() -> list[str]:
            event = {"specversion": "1.0", "type": "test.happened", "source": "/test", "data": {}}
            events = [{**event, "id": token_hex(8), "subject": token_hex(4)} for _ in range(20)]
            accepted: list[str] = hub.call("POST", "/api/events", events, expect=202)["accepted"]
            return accepted

        wanted = publish()
        killed = hub.kill_worker("delivery", 0)
        wanted += publish()
        eventually(lambda: hub.workers("delivery").get(0) not in (None, killed))
        wanted += publish()

        def delivered() -> set[tuple[str, str]]:
            return {(item["webhook_id"], item["event_id"]) for item in hub.deliveries(status="delivered")}

        expected = {(webhook["id"], event) for webhook in webhooks for event in wanted}
        subscriber.wait_for(len(expected))  # to read the whole log again and again costs more than the rest
        eventually(lambda: delivered() == expected, 60, every_s=0.5)
        attempted = [line for line in hub.log_lines("delivery") if line["event"] == "delivery.attempted"]
        assert {line["worker"] for line in attempted} == {0, 1}
        assert hub.metric("delivery", "interlink_consumer_lag") == 0
        for worker in ("0", "1"):
            assert (
                hub.metric("delivery", "interlink_workspace_usage_total", kind="attempt", worker=worker) >= 1
            )
        assert subscriber.max_concurrent <= MAX_IN_FLIGHT // 2, "half of all are for other workspaces"

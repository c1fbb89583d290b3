"""kill -9 under load: what the gateway acknowledged arrives, whatever dies on the way.

A client posts GitHub's examples without pause and, as a careful sender does, repeats under the same
delivery id what was not acknowledged. Afterwards every acknowledged id is at the subscriber, in the log
as delivered, and in the chat when its event is one that the chat shows. Repeats are counted.
"""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from time import monotonic, sleep
from typing import Self
from uuid import uuid4

import httpx
import pytest

from shared.contracts.topics import CHAT_INBOUND, DEAD_LETTERS
from tests.support.apache_kafka import ApacheKafka
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
from tests.support.subscriber import Subscriber
from tests.support.tap import Tap, TopicRecord

CLIENTS = 4
PAUSE_S = 0.05
SLOWER_S = 0.12
"""Of the clients while one service after another dies: that takes long enough for hundreds of webhooks."""
ANSWER_S = 2.0
"""The gateway's promise while Kafka does not answer."""


@dataclass(frozen=True)
class Acknowledged:
    """A webhook that was answered with 2xx."""

    delivery_id: str
    event_id: str
    is_shown: bool
    repository: str


@dataclass(frozen=True)
class Answer:
    """One answer of the gateway, or none (status 0)."""

    began: float
    seconds: float
    status: int
    retry_after: str | None


class Load:
    """Clients that post all examples over and over; a repository's come from one client, in order."""

    def __init__(self, endpoint: dict[str, str], examples: list[Example], pause_s: float) -> None:
        self._endpoint = endpoint
        self._pause_s = pause_s
        self._over = threading.Event()
        self.acknowledged: list[Acknowledged] = []
        self.answers: list[Answer] = []
        shares: list[list[tuple[str, Example]]] = [[] for _ in range(CLIENTS)]
        repositories: dict[str, int] = {}
        for example in examples:
            repository = repository_of(example.body) or ""
            share = repositories.setdefault(repository, len(repositories) % CLIENTS)
            shares[share].append((repository, example))
        self._clients = [threading.Thread(target=self._client, args=(share,)) for share in shares]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client get its last acknowledgement."""
        self._over.set()
        for client in self._clients:
            client.join(90)
            assert not client.is_alive(), "a client never got its acknowledgement"

    def answers_between(self, began: float, ended: float) -> list[Answer]:
        """The answers to what was asked after `began` and answered before `ended`."""
        return [one for one in self.answers if began <= one.began and one.began + one.seconds <= ended]

    def _client(self, share: list[tuple[str, Example]]) -> None:
        with httpx.Client(timeout=20) as http:
            for repository, example in cycle(share):
                delivery_id = str(uuid4())
                while (event_id := self._post(http, example, delivery_id)) is None:
                    sleep(0.1)
                self.acknowledged.append(Acknowledged(delivery_id, event_id, example.is_shown, repository))
                if self._over.wait(self._pause_s):
                    return

    def _post(self, http: httpx.Client, example: Example, delivery_id: str) -> str | None:
        headers = signed(self._endpoint["secret"], example.event, example.body, delivery=delivery_id)
        began = monotonic()
        try:
            answer = http.post(self._endpoint["url"], content=example.body, headers=headers)
        except httpx.HTTPError:
            self.answers.append(Answer(began, monotonic() - began, 0, None))
            return None
        self.answers.append(
            Answer(began, monotonic() - began, answer.status_code, answer.headers.get("retry-after"))
        )
        assert answer.status_code in (200, 202, 503), f"{answer.status_code} {answer.text}"
        return str(answer.json()["event_id"]) if answer.is_success else None


class Arrivals:
    """GitHub's delivery ids in the order in which a subscriber got them; each body is parsed once."""

    def __init__(self, subscriber: Subscriber, webhook_id: str) -> None:
        self.webhook_id = webhook_id
        self._subscriber = subscriber
        self._ids: list[str] = []

    def ids(self) -> list[str]:
        for got in self._subscriber.got[len(self._ids) :]:
            self._ids.append(json.loads(got.body)["data"]["delivery_id"])
        return self._ids


@dataclass(frozen=True)
class Rig:
    """A hub under test with its subscribers: one that takes any order, one that wants it kept."""

    hub: Hub
    bus: Bus
    endpoint: dict[str, str]
    loose: Arrivals
    strict: Arrivals
    examples: list[Example]
    note: Callable[[str], None]

    def load(self, pause_s: float = PAUSE_S) -> Load:
        """Load until it is stopped, each client with this pause between two webhooks."""
        return Load(self.endpoint, self.examples, pause_s)


@pytest.fixture(scope="module")
def rig(
    tmp_path_factory: pytest.TempPathFactory, kafka: Bus, store: Store, note: Callable[[str], None]
) -> Iterator[Rig]:
    try:
        examples = octokit_examples() + shared_examples()
    except Unavailable as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("kill")
    hub = Hub(folder, kafka, store, services=("gateway", "delivery", "sync"))
    # A subscriber that takes its time keeps delivery in the middle of a batch: that is when it is killed.
    with Subscriber(delay_s=0.03) as loose, Subscriber() as strict:
        try:
            hub.start()
            endpoint = hub.github_endpoint(channel_id="general")
            to_loose = hub.outgoing_webhook(loose.url, events=["github.*"], timeout_s=5)["id"]
            strictly = {"timeout_s": 5, "ordering": "strict"}
            to_strict = hub.outgoing_webhook(strict.url, events=["github.*"], **strictly)["id"]
            arrivals = Arrivals(loose, to_loose), Arrivals(strict, to_strict)
            yield Rig(hub, kafka, endpoint, *arrivals, examples, note)
        finally:
            hub.stop()


@pytest.fixture
def broker(rig: Rig) -> ApacheKafka:
    """A broker that keeps its data and is ours to kill."""
    if not isinstance(rig.bus.broker, ApacheKafka):
        pytest.skip(f"{rig.bus.name} cannot be killed here, or does not keep its data")
    return rig.bus.broker


@pytest.fixture
def chat(rig: Rig) -> Tap:
    return Tap(rig.bus, CHAT_INBOUND.name)


@pytest.fixture
def dead(rig: Rig) -> Tap:
    return Tap(rig.bus, DEAD_LETTERS.name)


def nothing_is_lost(rig: Rig, load: Load, chat: Tap, dead: Tap, what: str) -> None:
    """Every acknowledged webhook arrives everywhere; the repeats are noted."""
    acknowledged = {one.delivery_id: one for one in load.acknowledged}
    assert len(acknowledged) == len(load.acknowledged) > 100
    shown = {one.delivery_id for one in load.acknowledged if one.is_shown}
    started = monotonic()

    for arrivals in (rig.loose, rig.strict):
        eventually(lambda: set(acknowledged) <= set(arrivals.ids()), within_s=60)  # noqa: B023
    eventually(lambda: shown <= set(_shown(chat.look())), within_s=60, every_s=0.3)

    def all_logged() -> bool:
        """The log has every acknowledged webhook as delivered to both."""
        wanted = {one.event_id for one in load.acknowledged}
        for webhook_id in (rig.loose.webhook_id, rig.strict.webhook_id):
            log = rig.hub.deliveries(webhook_id=webhook_id, status="delivered")
            if wanted - {one["event_id"] for one in log}:
                return False
        return True

    eventually(all_logged, within_s=30, every_s=0.5)
    took = monotonic() - started
    mine = [name for name in rig.strict.ids() if name in acknowledged]
    order = list(dict.fromkeys(mine))
    for repository in {one.repository for one in load.acknowledged}:
        assert [name for name in order if acknowledged[name].repository == repository] == [
            one.delivery_id for one in load.acknowledged if one.repository == repository
        ], f"the order of {repository or 'what has no repository'} was not kept"
    ours = {rig.endpoint["id"], rig.loose.webhook_id, rig.strict.webhook_id}
    assert [letter.attributes for letter in dead.look() if ours & set(letter.attributes.values())] == []
    repeats = {
        "subscriber": _repeats([name for name in rig.loose.ids() if name in acknowledged]),
        "strict subscriber": _repeats(mine),
        "chat.inbound": _repeats([name for name in _shown(chat.look()) if name in acknowledged]),
    }
    statuses = Counter(one.status for one in load.answers)
    rig.note(
        f"{what}: {len(acknowledged)} acknowledged, 0 lost, repeats"
        f" {', '.join(f'{count} at the {where}' for where, count in repeats.items())};"
        f" answers {dict(sorted(statuses.items()))}; all there {took:.1f} s after the last post"
    )


def _stands_still(pid: int) -> bool:
    """Whether every thread has stopped: the signal is sent before the last of them has."""
    states = [
        task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


def _shown(records: list[TopicRecord]) -> list[str]:
    return [record.data["origin"]["delivery_id"] for record in records]


def _repeats(names: list[str]) -> int:
    return len(names) - len(set(names))


def _all_refused_in_time(load: Load, began: float, ended: float) -> list[float]:
    """What was asked in this time was answered 503, soon, with when to come again; how long each took."""
    answers = load.answers_between(began, ended)
    assert len(answers) >= 8
    assert {one.status for one in answers} == {503}
    assert all(one.retry_after and int(one.retry_after) >= 1 for one in answers)
    assert max(one.seconds for one in answers) < ANSWER_S
    return [one.seconds for one in answers]


def _recovery(load: Load, since: float) -> float:
    """Seconds until the gateway accepts again."""

    def accepted() -> Answer | None:
        """An answer 2xx."""
        return next((one for one in load.answers if one.began >= since and 200 <= one.status < 300), None)

    first = eventually(accepted, within_s=30)
    assert first is not None
    return first.began + first.seconds - since


def test_killing_each_service_and_all_at_once_loses_nothing(rig: Rig, chat: Tap, dead: Tap) -> None:
    def kill(*names: str) -> None:
        for name in names:
            rig.hub.kill(name)
        sleep(0.5)
        for name in names:
            rig.hub.start_service(name)
        for name in names:
            rig.hub.wait_ready(name)
        sleep(1)

    with rig.load(SLOWER_S) as load:
        sleep(2)
        for name in rig.hub.services:
            kill(name)
        kill(*rig.hub.services)
        load.stop()
        nothing_is_lost(rig, load, chat, dead, "kill -9 of gateway, delivery, sync, then of all three")
    # Nothing came while the gateway was away, 503 while a new one was still looking for Kafka.
    assert {one.status for one in load.answers} <= {0, 202, 503}


def test_killing_the_broker_loses_nothing_and_the_gateway_says_so_in_time(
    rig: Rig, broker: ApacheKafka, chat: Tap, dead: Tap
) -> None:
    pids = {name: rig.hub.pid(name) for name in rig.hub.services}
    with rig.load() as load:
        sleep(2)
        broker.kill()
        down = monotonic()
        sleep(5)
        up = monotonic()
        broker.start()
        back = monotonic()
        recovered = _recovery(load, back)
        sleep(3)
        load.stop()
        took = _all_refused_in_time(load, down, up)
        rig.note(
            f"broker killed: {len(took)} answers 503 while it was down, {max(took):.2f} s at most;"
            f" accepting again {recovered:.1f} s after the broker"
        )
        nothing_is_lost(rig, load, chat, dead, "kill -9 of the broker")
    for name, pid in pids.items():
        assert rig.hub.pid(name) == pid
        rig.hub.wait_ready(name, 10)


def test_a_broker_that_stands_still_is_refused_in_time_and_loses_nothing(
    rig: Rig, broker: ApacheKafka, chat: Tap, dead: Tap
) -> None:
    assert broker.pid is not None
    with rig.load() as load:
        sleep(2)
        os.kill(broker.pid, signal.SIGSTOP)
        pid = broker.pid
        eventually(lambda: _stands_still(pid), every_s=0.01)
        stopped = monotonic()
        sleep(7)
        going = monotonic()
        os.kill(broker.pid, signal.SIGCONT)
        recovered = _recovery(load, going)
        sleep(3)
        load.stop()
        took = _all_refused_in_time(load, stopped, going)
        rig.note(
            f"broker stood still: {len(took)} answers 503, {max(took):.2f} s at most;"
            f" accepting again {recovered:.1f} s later"
        )
        nothing_is_lost(rig, load, chat, dead, "SIGSTOP of the broker")
    for name in rig.hub.services:
        rig.hub.wait_ready(name, 10)

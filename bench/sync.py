"""Sync: messages of the chat to many channels of Slack, beside a bare loop and beside one that refuses."""

import json
from collections.abc import Sequence
from statistics import median
from time import monotonic, sleep
from typing import Any, Final

from pymongo import MongoClient

from bench.machine import cpu_seconds, resident_mb
from bench.remote import Failed, Remote
from bench.stages import Bench
from bench.system import System
from tests.support.provider_hosts import NAMES, PUBLIC

_ON_HOSTS: Final = ("tests.support.provider_hosts",)
_SERVICES: Final = ("gateway", "oauth", "sync")
_STEADY_PER_S: Final = 50
_TIMEOUT_S: Final = 120.0


def sync(bench: Bench) -> dict[str, Any]:
    """Return latency at 50 messages a second, rate and CPU of one process, and the neighbours' latency."""
    slack, chat = bench.helper("bench.slack"), bench.helper("bench.slack")
    folder = bench.folder / "sync-hosts"
    folder.mkdir()
    place = slack.call("listen", folder=str(folder))
    env = {
        "INTERLINK_EGRESS_PROXY": place["proxy"],
        "INTERLINK_EGRESS_CA_FILE": place["ca_file"],
        NAMES: json.dumps({"slack.com": PUBLIC}),
    }
    modules = {name: (*_ON_HOSTS, name) for name in ("oauth", "sync")}
    with bench.hub("sync", *_SERVICES, modules=modules, env=env) as hub:
        empty_mb = resident_mb(hub.pid("sync"))
        channels = _map(hub, bench.plan.sync_accounts, bench.plan.sync_channels)
        run = _Run(bench, hub, slack, chat, place)
        run.write(channels, 0)  # warm up
        return {
            "empty_mb": empty_mb,
            "mappings": len(channels),
            "mapped_mb": resident_mb(hub.pid("sync")),
            "steady": run.steady(channels),
            "burst": run.bursts(channels),
            "beside": run.beside(channels),
        }


def _map(hub: System, accounts: int, per_account: int) -> list[str]:
    """Connect accounts of Slack, map channels of each to channels of the chat, and return the latter."""
    channels: list[str] = []
    for account in range(1, accounts + 1):
        fields = {"access_token": f"xoxb-example-{account:010}"}
        body = {"provider": "slack", "kind": "bot_token", "fields": fields}
        integration = hub.call("POST", "/api/integrations", body, expect=201)["id"]
        for number in range(per_account):
            name = f"ch{account}x{number}"
            slack = {
                "provider": "slack",
                "integration_id": integration,
                "conversation": f"C{account}X{number}",
            }
            legs = [{"provider": "chat", "conversation": name}, slack]
            hub.call("POST", "/api/mappings", {"name": name, "legs": legs}, expect=201)
            channels.append(name)
    return channels


class _Run:
    """Writes messages in the chat, and waits until Slack has them."""

    def __init__(self, bench: Bench, hub: System, slack: Remote, chat: Remote, place: dict[str, str]) -> None:
        self._bench = bench
        self._hub = hub
        self._slack = slack
        self._chat = chat
        self._place = place
        self._written = 0

    def write(
        self, channels: Sequence[str], rate: float, rounds: int = 1, refusing: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Write to the channels, and return what Slack saw; `cpu_s` is that of sync."""
        self._slack.call("reset", refusing=list(refusing))
        pid = self._hub.pid("sync")
        used = cpu_seconds(pid)
        wrote = self._chat.call(
            "write",
            bootstrap=self._hub.bootstrap,
            workspace=self._hub.workspace,
            channels=list(channels),
            rate=rate,
            rounds=rounds,
            embedded=self._bench.plan.bus == "embedded",
        )
        total, deadline = wrote["written"], monotonic() + _TIMEOUT_S
        self._written += total
        while (seen := self._slack.call("seen"))["count"] < total:
            if monotonic() > deadline:
                raise Failed(f"sync: {seen['count']} of {total} messages came")
            sleep(0.05)
        seconds = (seen["last_at"] - wrote["started_at"]) / 1e9
        sleep(0.3)  # what is written of them
        seen = self._slack.call("seen")
        if seen["count"] != total:
            raise Failed(f"sync: {seen['count']} messages for {total}")
        return {**seen, "per_s": total / seconds, "cpu_us": (cpu_seconds(pid) - used) / total * 1e6}

    def steady(self, channels: Sequence[str]) -> dict[str, Any]:
        """Return the latency at 50 messages a second."""
        count = min(len(channels), int(self._bench.plan.sync_s * _STEADY_PER_S))
        seen = self.write(channels[:count], _STEADY_PER_S)
        self._bench.say(f"sync, {_STEADY_PER_S}/s: p50 {seen['p50_ms']:.0f} ms, p99 {seen['p99_ms']:.0f} ms")
        return seen

    def bursts(self, channels: Sequence[str]) -> dict[str, Any]:
        """Return rate and CPU of messages that come at once, and of the bare loop."""
        rounds = []
        for number in range(self._bench.plan.rounds):
            sleep(1.1)  # a channel of Slack takes a message a second
            rounds.append(self.write(channels, 0))
            self._bench.say(
                f"sync, burst {number + 1}: {rounds[-1]['per_s']:.0f}/s, {rounds[-1]['cpu_us']:.0f} us each"
            )
        least = self._slack_least()
        cpu_us = median(item["cpu_us"] for item in rounds)
        self._bench.say(f"sync: bare loop {least:.0f} us each, sync {cpu_us / least:.1f} times as much")
        return {
            "per_s": median(item["per_s"] for item in rounds),
            "cpu_us": cpu_us,
            "least_us": least,
            "times": cpu_us / least,
            "rounds": rounds,
        }

    def _slack_least(self) -> float:
        """Return the CPU of the bare loop for each message, in microseconds."""
        self._slack.call("reset")
        result = self._chat.call(
            "least",
            bootstrap=self._hub.bootstrap,
            uri=self._hub.store_uri,
            proxy=self._place["proxy"],
            ca_file=self._place["ca_file"],
            topic="chat.events",
            total=self._written,
        )
        return float(result["cpu_us"])

    def beside(self, channels: Sequence[str]) -> dict[str, Any]:
        """Return the latency of others while a channel has many messages that its team refuses."""
        refused, others = channels[0], channels[len(channels) // 2 :]
        count = min(len(others), int(self._bench.plan.sync_s * _STEADY_PER_S))
        rounds: dict[str, list[dict[str, Any]]] = {"alone": [], "beside": []}
        sleep(1.1)
        rounds["alone"].append(self.write(others[:count], _STEADY_PER_S))
        team = "T0000000001"
        waiting = self._bench.plan.sync_waiting
        self._slack.call("reset", refusing=[team])
        self._chat.call(
            "write",
            bootstrap=self._hub.bootstrap,
            workspace=self._hub.workspace,
            channels=[refused],
            rate=0,
            rounds=waiting,
            embedded=self._bench.plan.bus == "embedded",
        )
        stored_at = monotonic() + _TIMEOUT_S
        while self._stored() < waiting - 1:
            if monotonic() > stored_at:
                raise Failed(f"sync: {self._stored()} of {waiting} messages wait")
            sleep(1)
        for _ in range(self._bench.plan.beside_rounds):
            sleep(1.1)
            rounds["beside"].append(self.write(others[:count], _STEADY_PER_S, refusing=[team]))
        p99 = {name: median(item["p99_ms"] for item in found) for name, found in rounds.items()}
        waiting_mb = resident_mb(self._hub.pid("sync"))
        self._bench.say(
            f"sync: p99 of others {p99['alone']:.0f} ms, beside {waiting} that wait {p99['beside']:.0f} ms"
        )
        return {"p99_ms": p99, "times": p99["beside"] / p99["alone"], "waiting_mb": waiting_mb}

    def _stored(self) -> int:
        with MongoClient[dict[str, Any]](self._hub.store_uri) as client:
            return client.get_default_database()["sync_queue"].count_documents({"state": "waiting"})

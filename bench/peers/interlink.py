"""Interlink as `interlink up` runs it, on the embedded pair or on Apache Kafka and the embedded database."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.peers.engine import CONNECTIONS, SECRET, Engine, Started, Stopwatch, event, template
from bench.peers.processes import Api, Processes
from bench.remote import Failed
from bench.system import BusName
from shared.runtime.version import VERSION
from tests.support.apache_kafka import ApacheKafka
from tests.support.apache_kafka import available as missing_kafka
from tests.support.ports import free_port

_READY_TIMEOUT_S: Final = 120.0
_READY: Final = "Interlink is ready"
_SETTINGS: Final = {
    "INTERLINK_EGRESS_PORTS": "any",
    "INTERLINK_ALLOW_HTTP": "true",
    "INTERLINK_ALLOW_PRIVATE_NETWORKS": "loopback",
}


class Interlink(Engine):
    """All services of the hub, without the example chat page."""

    version = VERSION
    store_words: Collection[str] = ("tansu", "secantus")

    def __init__(self, bus: BusName) -> None:
        self._bus = bus
        on_kafka = bus == "kafka"
        self.name = "Interlink, Apache Kafka" if on_kafka else "Interlink, embedded"
        self.durability = (
            "Apache Kafka (acks=all, page cache), embedded database"
            if on_kafka
            else "embedded broker (memory only: its end loses events), embedded database"
        )

    def missing(self) -> str | None:
        return missing_kafka() if self._bus == "kafka" else None

    def start(self, processes: Processes, sink: str) -> Started:
        env = dict(_SETTINGS)
        if self._bus == "kafka":
            kafka = ApacheKafka(processes.folder / "kafka", load=True)
            processes.at_stop(kafka.stop)
            try:
                kafka.start()
            except RuntimeError as error:
                raise Failed(str(error)) from None
            processes.add_store(kafka.pid or 0)
            env["KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap
        port = free_port()
        data = processes.folder / "data"
        interlink = str(Path(sys.executable).with_name("interlink"))
        command = [interlink, "up", "--no-minichat", "--port", str(port), "--data-dir", str(data)]
        stopwatch = Stopwatch()
        processes.start("interlink", command, env, cwd=processes.folder)
        log = processes.folder / "interlink.log"
        # The entrance is ready before the services behind it: the hub is when it says so.
        processes.wait(self.name, _READY_TIMEOUT_S, lambda: _READY in log.read_text(encoding="utf-8"))
        ready_s = stopwatch.seconds
        key = (data / "admin.key").read_text(encoding="utf-8").strip()
        api = Api(f"http://127.0.0.1:{port}", key)
        for name in ("message.created", "github.*"):
            webhook = {"name": name, "url": sink, "events": [name], "max_in_flight": CONNECTIONS}
            api.call("POST", "/api/outgoing-webhooks?force=true", webhook)
        endpoint = {"provider": "github", "name": "bench", "secret": SECRET, "rate_limit": 100_000_000}
        url = api.call("POST", "/api/inbound-endpoints", endpoint)["url"]
        push = event()
        message = {
            "specversion": "1.0",
            "id": "@ID@",
            "source": "/bench",
            "type": "message.created",
            "subject": "channel@KEY@",
            "data": {
                "messageId": "@ID@",
                "channelId": "channel@KEY@",
                "content": push["commits"][0]["message"],
                "author": {"id": "u1", "username": "octocat"},
                "delivery_id": "@ID@",
                "push": {name: value for name, value in push.items() if name != "commits"},
            },
        }
        return Started(
            ready_s,
            template(port, "/api/events", message, {"Authorization": f"Bearer {key}"}),
            template(
                port,
                urlsplit(url).path,
                push,
                {"X-GitHub-Event": "push", "X-GitHub-Delivery": "@ID@"},
                {"header": "X-Hub-Signature-256", "prefix": "sha256=", "secret": SECRET},
            ),
        )

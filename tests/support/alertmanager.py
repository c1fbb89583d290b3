"""A real Prometheus Alertmanager on loopback, if the machine has one (Debian: `prometheus-alertmanager`)."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.eventually import eventually
from tests.support.ports import free_port

PROGRAM: Final = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


class Alertmanager:
    """A running Alertmanager."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def fire(self, name: str, **annotations: str) -> None:
        """Send an alert, as Prometheus does."""
        alert = {"labels": {"alertname": name, "severity": "critical"}, "annotations": annotations}
        httpx.post(f"{self.url}/api/v2/alerts", json=[alert], timeout=10).raise_for_status()

    def failed(self) -> float:
        """Return how many notifications have failed, of all receivers."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        prefix = "alertmanager_notifications_failed_total{"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(prefix))

    def sent(self, integration: str) -> float:
        """Return how many notifications were sent through an integration."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        prefix = f'alertmanager_notifications_total{{integration="{integration}"'
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(prefix))


@contextmanager
def alertmanager(folder: Path, receiver: dict[str, Any]) -> Iterator[Alertmanager]:
    """Start an Alertmanager that sends every alert to one receiver at once."""
    assert PROGRAM
    port = free_port()
    configuration = {
        "route": {"receiver": "chat", "group_wait": "0s", "group_interval": "1s", "group_by": ["alertname"]},
        "receivers": [{"name": "chat", **receiver}],
    }
    file, log = folder / "alertmanager.json", folder / "alertmanager.log"
    file.write_text(json.dumps(configuration), "utf-8")  # JSON is YAML
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={file}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        started = Alertmanager(port, log)
        eventually(lambda: _is_ready(started))
        yield started
    finally:
        process.terminate()
        process.wait(timeout=10)


def _is_ready(started: Alertmanager) -> bool:
    try:
        return httpx.get(f"{started.url}/-/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False

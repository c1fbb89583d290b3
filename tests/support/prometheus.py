"""A real Prometheus on loopback, if the machine has one (Debian: `prometheus`)."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.eventually import eventually
from tests.support.ports import free_port

PROGRAM: Final = shutil.which("prometheus")


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=10)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query. Fails if Prometheus refuses it."""
        answer = self._client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    def true(self, name: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return for which labels, these among them, the expression of an alert is true now."""
        groups = self._client.get("/api/v1/rules", params={"type": "alert"}).json()["data"]["groups"]
        return [
            alert["labels"]
            for group in groups
            for rule in group["rules"]
            if rule["name"] == name
            for alert in rule["alerts"]
            if labels.items() <= alert["labels"].items()
        ]

    def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False


@contextmanager
def prometheus(folder: Path, targets: list[str], rules: Path) -> Iterator[Prometheus]:
    """Start a Prometheus that scrapes the targets (`host:port`) and evaluates the rules once a second."""
    assert PROGRAM
    address = f"127.0.0.1:{free_port()}"
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "interlink", "static_configs": [{"targets": targets}]}],
    }
    file = folder / "prometheus.json"
    file.write_text(json.dumps(configuration), "utf-8")  # JSON is YAML
    with (folder / "prometheus.log").open("w") as output:
        process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        started = Prometheus(f"http://{address}")
        eventually(started.is_ready)
        yield started
    finally:
        process.terminate()
        process.wait(timeout=30)

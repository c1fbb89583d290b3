"""The example chat as a process of its own, as `interlink up` starts it."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.cli.commands import clean_env
from tests.support.eventually import eventually
from tests.support.ports import free_port


@contextmanager
def minichat(folder: Path, kafka: Mapping[str, str], workspace: str, port: int = 0) -> Iterator[str]:
    """Run the page of a workspace: its address. `kafka` are the settings of Kafka, `folder` gets its log."""
    port = port or free_port()
    env = clean_env(**kafka, MINICHAT_PORT=str(port), MINICHAT_WORKSPACE=workspace)
    with (folder / "minichat.log").open("wb") as log:
        command = [sys.executable, "-P", "-m", "interlink.examples.minichat"]
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _answers(f"{address}/healthz"))
        yield address
    finally:
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False

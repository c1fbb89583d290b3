"""Define how the bench starts an engine, and the requests that make it deliver."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol

from bench.peers.processes import Processes
from bench.webhook import SIZE, body

SECRET: Final = "s3cret-s3cret"  # noqa: S105 -- of a webhook that exists for seconds
CONNECTIONS: Final = 32


@dataclass(frozen=True)
class Template:
    """A request of which the load generator makes many: see `bench.load.post`."""

    port: int
    head: str
    body: str
    sign: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Started:
    """An engine that is ready, with one subscriber. `inbound` is None if it takes no signed webhooks."""

    ready_s: float
    """Seconds from the start of its program; brokers and stores that it does not start itself ran already."""
    publish: Template
    inbound: Template | None


class Engine(Protocol):
    """An engine to measure."""

    name: str
    version: str
    durability: str
    """Its brokers and stores, and how they store what they acknowledge."""
    store_words: Collection[str]

    def missing(self) -> str | None:
        """Return why it cannot be measured here; None if it can."""
        ...

    def start(self, processes: Processes, sink: str) -> Started:
        """Start it on its stores and subscribe the sink's URL to its events. Raises `Failed`."""
        ...


class Stopwatch:
    """The seconds since it was made."""

    def __init__(self) -> None:
        self._started = monotonic()

    @property
    def seconds(self) -> float:
        return monotonic() - self._started


def event() -> dict[str, Any]:
    """Return the event that every engine delivers: a push of 1.5 KB with a delivery id of its own."""
    push: dict[str, Any] = {"delivery_id": "@ID@", **json.loads(body())}
    push["repository"]["full_name"] = "octo/hello@KEY@"
    excess = len(json.dumps(push)) + len("0123456789abcdef-0000") - len("@ID@") - SIZE
    commit = push["commits"][0]
    commit["message"] = commit["message"][:-excess]
    return push


def template(
    port: int,
    path: str,
    content: Any,
    headers: Mapping[str, str] | None = None,
    sign: Mapping[str, str] | None = None,
) -> Template:
    """Return the template of a POST of a JSON document."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Accept: */*",
        "Content-Type: application/json",
        "User-Agent: GitHub-Hookshot/9c1f5b2",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return Template(port, "\r\n".join(lines), json.dumps(content), sign)

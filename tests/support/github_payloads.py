"""Webhook bodies as GitHub sends them, from two public collections, to try the gateway and the provider on.

Neither collection is part of the repository: one is an npm package that `octokit/package-lock.json` pins and
that is installed once into `.cache/octokit`, the other is a folder beside the repository.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent / "octokit"
_REPOSITORY = Path(__file__).parents[2]
_CACHE = _REPOSITORY / ".cache" / "octokit"
_EXAMPLES = Path("node_modules", "@octokit", "webhooks-examples", "api.github.com", "index.json")
_SHARED = _REPOSITORY.parent / "shared" / "data" / "webhooks" / "github"
_INSTALL_SECONDS = 300.0

# What the first part of a shared file's name says, up to "__": most name the event itself ...
_NAMED_AS_THE_EVENT = frozenset(
    {
        "check_run",
        "create",
        "delete",
        "deployment_status",
        "discussion_comment",
        "gollum",
        "issue_comment",
        "issues",
        "membership",
        "page_build",
        "ping",
        "public",
        "pull_request",
        "pull_request_review",
        "pull_request_review_comment",
        "push",
        "release",
        "repository_vulnerability_alert",
        "status",
        "team",
        "team_add",
        "watch",
    }
)
# ... and some the action of an event that the body tells (here by its `sponsorship`).
_NAMED_AS_THE_ACTION = {
    "cancelled": "sponsorship",
    "edited": "sponsorship",
    "pending_cancellation": "sponsorship",
}


class Unavailable(Exception):
    """The examples cannot be had on this machine; the message says why in one line."""


@dataclass(frozen=True)
class Example:
    """One webhook: `name` is unique (fit for a test id), `event` is the value of X-GitHub-Event."""

    name: str
    event: str
    body: bytes


def octokit_examples() -> list[Example]:
    """Return GitHub's own examples from the npm package `@octokit/webhooks-examples`, as compact UTF-8.

    A few bodies occur twice. The package is installed on first use, by one process at a time. Raises
    Unavailable when npm is not there, RuntimeError when npm fails.
    """
    definitions = json.loads((_installed() / _EXAMPLES).read_bytes())
    return [
        Example(f"octokit/{definition['name']}-{number}", definition["name"], _compact(payload))
        for definition in definitions
        for number, payload in enumerate(definition["examples"])
    ]


def shared_examples() -> list[Example]:
    """Return the payloads of the shared data folder beside the repository, unchanged; [] without the folder.

    Raises ValueError for a file whose event is not known yet: it belongs in one of the two tables above.
    """
    return [
        Example(f"shared/{file.stem}", _event_of(file), file.read_bytes())
        for file in sorted(_SHARED.glob("*.json"))
    ]


def repository_of(body: bytes) -> str | None:
    """Return the body's `repository.full_name`; None when it has none (organisation and app events)."""
    payload = json.loads(body)
    repository = payload.get("repository") if isinstance(payload, dict) else None
    name = repository.get("full_name") if isinstance(repository, dict) else None
    return name if isinstance(name, str) else None


def _event_of(file: Path) -> str:
    first = file.stem.split("__")[0]
    if first in _NAMED_AS_THE_EVENT:
        return first
    if first in _NAMED_AS_THE_ACTION:
        return _NAMED_AS_THE_ACTION[first]
    raise ValueError(
        f"which X-GitHub-Event is {file.name}? Add {first!r} to tests/support/github_payloads.py"
    )


def _compact(payload: Any) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _installed() -> Path:
    """Return the folder with `node_modules`, one per content of the lock file."""
    lock = (_PACKAGE / "package-lock.json").read_bytes()
    folder = _CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        with _locked(_CACHE):
            if not folder.exists():  # another process may have been faster
                _install(folder)
    return folder


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("GitHub's example payloads come from an npm package, and npm is not on the PATH")
    staging = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(_PACKAGE, staging, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=staging,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"npm did not install GitHub's example payloads:\n{done.stdout[-3000:]}")
    staging.rename(folder)

"""Webhook bodies as GitHub sends them, from two public collections, to try the gateway and the provider on.

Neither collection is part of the repository: one is an npm package that `octokit/package-lock.json` pins and
that is installed once into `.cache/octokit`, the other is a folder beside the repository.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.manifests.registry import registry
from tests.support.npm import installed

_PACKAGE = Path(__file__).parent / "octokit"
_REPOSITORY = Path(__file__).parents[2]
_EXAMPLES = Path("node_modules", "@octokit", "webhooks-examples", "api.github.com", "index.json")
_SHARED = _REPOSITORY.parent / "shared" / "data" / "webhooks" / "github"

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


@dataclass(frozen=True)
class Example:
    """One webhook: `name` is unique (fit for a test id), `event` is the value of X-GitHub-Event."""

    name: str
    event: str
    body: bytes

    @property
    def is_shown(self) -> bool:
        """Whether an endpoint that names no events makes a message of it."""
        github = registry().providers["github"]
        if self.event in github.quiet or self.event not in github.messages:
            return False
        return github.messages[self.event].applies(json.loads(self.body))


def octokit_examples() -> list[Example]:
    """Return GitHub's own examples from the npm package `@octokit/webhooks-examples`, as compact UTF-8.

    A few bodies occur twice. The package is installed on first use, by one process at a time. Raises
    Unavailable when npm is not there, RuntimeError when npm fails.
    """
    definitions = json.loads((installed(_PACKAGE) / _EXAMPLES).read_bytes())
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

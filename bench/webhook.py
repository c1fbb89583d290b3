"""The webhook of all measurements: 1.5 KB as GitHub sends it, signed, with an id of its own.

The delivery id is `<due time as 16 hex digits of monotonic nanoseconds>-<number>`. The sink reads the due
time from the received body, so that no list of sent webhooks is needed.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from typing import Any, Final

EVENTS: Final = ("push", "issues", "release", "pull_request")
SIZE: Final = 1500
_DELIVERY_ID: Final = re.compile(rb'"delivery_id": ?"(([0-9a-f]{16})-[0-9a-f]+)"')


def body() -> bytes:
    """Return a push event of `SIZE` bytes, padded with the commit message."""
    person = {"login": "octocat", "id": 583231, "type": "User", "site_admin": False}
    push: dict[str, Any] = {
        "ref": "refs/heads/main",
        "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246",
        "after": "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c",
        "created": False,
        "deleted": False,
        "forced": False,
        "compare": "https://github.com/octo/hello/compare/6113728f27ae...0d1a26e67d8f",
        "repository": {
            "id": 186853002,
            "name": "hello",
            "full_name": "octo/hello",
            "private": False,
            "html_url": "https://github.com/octo/hello",
            "owner": person,
            "default_branch": "main",
        },
        "pusher": {"name": "octocat", "email": "octocat@github.com"},
        "sender": person,
        "commits": [
            {
                "id": "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c",
                "distinct": True,
                "message": "",
                "timestamp": "2026-05-04T10:20:30+02:00",
                "url": "https://github.com/octo/hello/commit/0d1a26e67d8f",
                "author": {"name": "Octo Cat", "email": "octocat@github.com"},
                "added": ["docs/start.md"],
                "removed": [],
                "modified": ["README.md", "src/hello.py"],
            }
        ],
    }
    missing = SIZE - len(json.dumps(push))
    push["commits"][0]["message"] = ("Say hello to everybody who comes by. " * 40)[:missing]
    return json.dumps(push).encode()


def request_head(path: str, host: str, secret: str, event: str, payload: bytes) -> str:
    """Return a request up to the value of its last header, the delivery id."""
    signature = hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest()
    lines: Sequence[str] = (
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Accept: */*",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
        "User-Agent: GitHub-Hookshot/9c1f5b2",
        f"X-GitHub-Event: {event}",
        "X-GitHub-Hook-ID: 292430182",
        "X-GitHub-Hook-Installation-Target-ID: 79929171",
        "X-GitHub-Hook-Installation-Target-Type: repository",
        f"X-Hub-Signature-256: sha256={signature}",
        "X-GitHub-Delivery: ",
    )
    return "\r\n".join(lines)


def event_head(host: str, key: str) -> str:
    """Return the head of a `POST /api/events` up to the value of its last header, which the hub ignores."""
    lines: Sequence[str] = (
        "POST /api/events HTTP/1.1",
        f"Host: {host}",
        "Accept: */*",
        "Content-Type: application/cloudevents+json",
        f"Content-Length: {len(event_body())}",
        "User-Agent: bench",
        f"Authorization: Bearer {key}",
        "X-Request-Id: ",
    )
    return "\r\n".join(lines)


def event_body() -> bytes:
    """Return a CloudEvent with the payload of `body` as its data."""
    fields = {
        "specversion": "1.0",
        "id": "evt-1",
        "type": "order.created",
        "source": "/bench",
        "subject": "order-1",
        "time": "2026-05-04T10:20:30Z",
        "data": json.loads(body()),
    }
    return json.dumps(fields).encode()


def delivery_id(due_ns: int, number: int) -> bytes:
    """Return the delivery id of a webhook."""
    return b"%016x-%x" % (due_ns, number)


def sent_event(delivered: bytes) -> tuple[bytes, int] | None:
    """Return the delivery id in a delivered body and its due time in monotonic nanoseconds, or None."""
    found = _DELIVERY_ID.search(delivered)
    return None if found is None else (found[1], int(found[2], 16))

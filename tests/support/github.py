"""A GitHub for the tests: signs as GitHub documents it, by hand, without the hub's own code."""

import hashlib
import hmac
from uuid import uuid4


def signed(
    secret: str, event: str, body: bytes, *, delivery: str | None = None, **changed: str
) -> dict[str, str]:
    """The headers of a delivery; `changed` overrides (underscores for dashes)."""
    headers = {
        "content-type": "application/json",
        "user-agent": "GitHub-Hookshot/test",
        "x-github-event": event,
        "x-github-delivery": delivery or str(uuid4()),
        "x-hub-signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    return headers | {name.replace("_", "-"): value for name, value in changed.items()}

"""Rate limits of Discord: a bucket for each route and each channel or server in it, and one for all calls."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import md5
from math import ceil
from typing import Final

from tests.support.provider_hosts import Reply

GLOBAL: Final = (50, 1.0)
DEFAULT: Final = (50, 1.0)


def json_reply(value: object, status: int = 200) -> Reply:
    """Return JSON with the type that Discord gives it, which its clients compare."""
    return Reply(status, json.dumps(value).encode(), {"content-type": "application/json"})


@dataclass
class Bucket:
    """`limit` calls in `window` seconds, which begin with the first one."""

    limit: int
    window: float
    until: float = 0.0
    used: int = 0

    def take(self, now: float) -> float:
        """Count a call. Return 0, or the seconds to wait if it is one too many."""
        if now >= self.until:
            self.until, self.used = now + self.window, 0
        self.used += 1
        return self.until - now if self.used > self.limit else 0.0


@dataclass
class Limits:
    """The limits of a bot. `routes` have calls and seconds by the name of the route.

    `refused` counts the calls that were answered with 429.
    """

    routes: dict[str, tuple[int, float]] = field(default_factory=dict)
    overall: Bucket = field(default_factory=lambda: Bucket(*GLOBAL))
    refused: int = 0
    _buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def take(self, route: str, resource: str) -> tuple[Reply | None, Mapping[str, str]]:
        """Count a call. Return the response of one too many, and the headers of each response."""
        now = time.monotonic()
        bucket = self._buckets.get((route, resource))
        if bucket is None:
            bucket = self._buckets[route, resource] = Bucket(*self.routes.get(route, DEFAULT))
        wait = self.overall.take(now)
        if wait:
            self.refused += 1
            return _refusal(wait, {"x-ratelimit-scope": "global", "x-ratelimit-global": "true"}), {}
        wait = bucket.take(now)
        headers = {
            "x-ratelimit-limit": str(bucket.limit),
            "x-ratelimit-remaining": str(max(0, bucket.limit - bucket.used)),
            "x-ratelimit-reset": f"{time.time() + bucket.until - now:.3f}",
            "x-ratelimit-reset-after": f"{bucket.until - now:.3f}",
            "x-ratelimit-bucket": md5(route.encode(), usedforsecurity=False).hexdigest(),
        }
        if not wait:
            return None, headers
        self.refused += 1
        return _refusal(wait, headers | {"x-ratelimit-scope": "user"}), headers


def _refusal(wait: float, headers: Mapping[str, str]) -> Reply:
    is_global = headers["x-ratelimit-scope"] == "global"
    body = {"message": "You are being rate limited.", "retry_after": round(wait, 3), "global": is_global}
    reply = json_reply(body, 429)
    # Its own client takes a 429 without `via` for one of the network in front of Discord.
    more = [("retry-after", str(max(1, ceil(wait)))), ("via", "1.1 google")]
    return Reply(429, reply.body, [*reply.fields, *headers.items(), *more])

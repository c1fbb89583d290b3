"""A person with a browser of his own, without the browser: cookies, redirects and forms, over HTTP.

What a page looks like is for the tests with a real browser; this is for those that go the way often.
"""

import html
import re
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import httpx

from tests.support.hub import Hub
from tests.support.provider_hosts import ProviderHosts

_FORM = re.compile(r'<form method="post" action="([^"]+)">(.*?)</form>', re.DOTALL)
_FIELD = re.compile(r'<input id="[^"]*" name="([^"]+)"')
_MAX_STEPS = 12
_CALLBACK = "/api/auth/oauth/callback"


class Person:
    """Somebody with a name at the platform; his browser makes the calls of the hub's API."""

    def __init__(
        self,
        hub: Hub,
        name: str,
        *,
        entrance: str = "oauth",
        key: str | None = None,
        client: httpx.Client | None = None,
    ) -> None:
        """`key` is the API key of his page, where it is not the hub's first; `client` his browser."""
        self.hub = hub
        self.name = name
        self.entrance = entrance
        self.key = key or hub.admin_key
        self.client = client or httpx.Client(timeout=20, follow_redirects=False)
        self.visited: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def connect(self, provider: str, *, expect: int = 201, **fields: Any) -> dict[str, Any]:
        """Begin to connect an account."""
        return self._call("/api/auth/oauth/connect", {"provider": provider, **fields}, expect)

    def reconnect(self, integration: str, *, expect: int = 200, **fields: Any) -> dict[str, Any]:
        """Begin to connect an integration anew."""
        return self._call(f"/api/integrations/{integration}/reconnect", fields, expect)

    def _call(self, path: str, body: dict[str, Any], expect: int) -> dict[str, Any]:
        answer = self.client.post(
            self.hub.url(self.entrance) + path,
            json=body,
            headers={"authorization": f"Bearer {self.key}"},
        )
        assert answer.status_code == expect, f"{answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    def go(self, url: str, *, deny: bool = False) -> httpx.Response:
        """Go there, sign in and allow it (or not), until a page has no form: that page."""
        return self._walk(url, deny=deny, stop_at="")

    def consent(self, url: str, *, deny: bool = False, stop_at: str = _CALLBACK) -> str:
        """The same, but he does not come back: the address at the hub that the platform sends him to."""
        answer = self._walk(url, deny=deny, stop_at=stop_at)
        return urljoin(str(answer.url), answer.headers["location"])

    def _walk(self, url: str, *, deny: bool, stop_at: str) -> httpx.Response:
        answer = self.client.get(url)
        for _ in range(_MAX_STEPS):
            self.visited.append(str(answer.url))
            if answer.is_redirect:
                there = urljoin(str(answer.url), answer.headers["location"])
                if stop_at and stop_at in there.partition("?")[0]:
                    return answer
                answer = self.client.get(there)
                continue
            forms = _FORM.findall(answer.text)
            if not forms:
                return answer
            wanted = [form for form in forms if form[0].endswith("/deny")] if deny else forms
            action, inside = wanted[0]
            data = dict.fromkeys(_FIELD.findall(inside), self.name)
            answer = self.client.post(urljoin(str(answer.url), html.unescape(action)), data=data)
        raise AssertionError(f"no end after {self.visited}")

    def through(self, platforms: ProviderHosts, url: str) -> httpx.Response:
        """The same where the platform has no page and sends people back at once: what the hub answers."""
        with httpx.Client(proxy=platforms.proxy, verify=False, timeout=20) as outside:  # noqa: S501 -- the test's
            answer = outside.get(url)
        assert answer.is_redirect, answer.text
        return self.client.get(answer.headers["location"])

    def connected(self, provider: str, **fields: Any) -> str:
        """Connect an account, all the way; the integration's id."""
        started = self.connect(provider, **fields)
        page = self.go(started["authorization_url"])
        assert page.status_code == 200, page.text
        return str(started["integration_id"])

"""Calls of the services' management APIs with service keys: a member can do what their own key allows."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast
from urllib.parse import urlencode

import orjson

from shared.contracts.errors import Malformed
from shared.contracts.routes import CONSOLE, service_for_path
from shared.runtime.http_client import ApiClient, HeaderPairs, Unreachable
from shared.runtime.secrets import Vault
from shared.runtime.tracing import continue_trace
from shared.runtime.web.access import ApiKey
from shared.runtime.web.api_keys import Scope
from shared.runtime.web.service_keys import Actor, service_key

_TIMEOUT_S: Final = 4.0
"""For all calls of one request together, from the first one."""
_PAGE_TIMEOUT_S: Final = 4.8
_MAX_ERRORS: Final = 5

Parameters = Mapping[str, str | Sequence[str]]
"""Query parameters of a call; several values of one are a sequence."""


@dataclass(slots=True)
class Member:
    """The member who makes a request: the key of their session, their address, and the session's id.

    `traceparent` is the context of the request's span; without one, the first call begins a trace.
    """

    key: ApiKey
    address: str
    session: str = ""
    traceparent: str = ""
    _deadline: float = 0.0

    def deadline(self) -> float:
        """Return until when (time of the event loop) the calls of this request may take, from the first."""
        self._deadline = self._deadline or asyncio.get_running_loop().time() + _TIMEOUT_S
        return self._deadline

    def context(self) -> str:
        """Return the `traceparent` of the calls of this request, which are in one trace."""
        self.traceparent = continue_trace(self.traceparent)
        return self.traceparent


@dataclass(eq=False)
class Refusal(Exception):
    """A service refused a call, or did not answer in time (status 503)."""

    status: int
    title: str
    detail: str
    errors: Sequence[tuple[str, str]] = ()
    """Validation errors: the path of a field in the request body, and the message."""

    @property
    def is_outage(self) -> bool:
        """True if the service is away, so that the same call can succeed later."""
        return self.status >= 500

    @property
    def page_status(self) -> int:
        """The status of a page with a part that was refused: while a service is away, the page is there."""
        return 200 if self.is_outage else self.status


def page_timeout() -> asyncio.Timeout:
    """Return the context of a page: with its session and own reads, it takes 5 s whatever the services do.

    Raises `TimeoutError`.
    """
    return asyncio.timeout(_PAGE_TIMEOUT_S)


class HubApi:
    """The management APIs of all services, for the members of the console."""

    def __init__(self, vault: Vault, gateway: str, peers: Mapping[str, str]) -> None:
        """`peers` are base URLs by service; paths of a service that is not among them go to `gateway`."""
        self._vault = vault
        self._gateway = gateway.rstrip("/")
        self._peers = {name: url.rstrip("/") for name, url in peers.items() if name != CONSOLE}
        self._client = ApiClient(timeout_s=_TIMEOUT_S)

    async def stop(self) -> None:
        await self._client.close()

    async def call(
        self,
        member: Member,
        method: str,
        path: str,
        *,
        params: Parameters | None = None,
        body: Any = None,
        once: str = "",
        version: int | None = None,
    ) -> Any:
        """Return the response's JSON; None if it has no body. Raises `Refusal`.

        The call has the scopes of the member's key, and names the member as its actor. A repeat with
        the same `once` gets the first response. With a `version`, the status is 412 if the object has another
        one.
        """
        content = b"" if body is None else orjson.dumps(body)
        headers = _json_headers(path, content, f"{once} {version}" if once and version is not None else once)
        if version is not None:
            headers["if-match"] = f'"{version}"'
        _, answer = await self.send(member, method, path, content, headers, params or {})
        return _json(answer)

    async def call_with_cookies(
        self, member: Member, method: str, path: str, *, body: Any, once: str = ""
    ) -> tuple[Any, list[str]]:
        """Return the response's JSON, and the cookies for the member's browser. Raises `Refusal`."""
        content = orjson.dumps(body)
        headers, answer = await self.send(member, method, path, content, _json_headers(path, content, once))
        cookies = [value.decode("latin-1") for name, value in headers if name.lower() == b"set-cookie"]
        return _json(answer), cookies

    async def text(self, member: Member, path: str, params: Mapping[str, str]) -> bytes:
        """Return the body of the response to a GET request, whatever its type. Raises `Refusal`."""
        _, answer = await self.send(member, "GET", path, b"", {}, params)
        return answer

    async def readiness(self) -> dict[str, bool]:
        """Return which services are ready to work."""
        checks = await self.readiness_checks()
        return {service: bool(found) and all(found.values()) for service, found in checks.items()}

    async def readiness_checks(self) -> dict[str, Mapping[str, bool]]:
        """Return the checks of each service; none of one that does not answer."""
        bases = {"gateway": self._gateway, **self._peers}
        checks = await asyncio.gather(*(self._checks(base) for base in bases.values()))
        return dict(zip(bases, checks, strict=True))

    async def _checks(self, base: str) -> Mapping[str, bool]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, _, answer = await self._client.call("GET", f"{base}/readyz", [], b"")
            return {str(name): bool(ok) for name, ok in orjson.loads(answer)["checks"].items()}
        except (Unreachable, TimeoutError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    async def status_of(self, path: str) -> int | None:
        """Return the status of a GET request without a key, as browsers send it; None without an answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, _, _ = await self._client.call("GET", self._gateway + path, [], b"")
        except (Unreachable, TimeoutError):
            return None
        return status

    async def send(
        self,
        member: Member,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        params: Parameters = MappingProxyType({}),
    ) -> tuple[HeaderPairs, bytes]:
        """Send a call with these headers; return headers and body of the response. Raises `Refusal`."""
        key = member.key
        # The services limit a customer's key by itself; its scopes only say what pages offer.
        scopes = [] if key.customer else cast("list[Scope]", sorted(key.scopes))
        acting = key.acting or Actor(key.id, key.name, role=key.role, session=member.session)
        token = service_key(self._vault, CONSOLE, key.workspace, scopes, acting, customer=key.customer)
        headers = {**headers, "traceparent": member.context()}
        return await self._send(
            token, member.address, member.deadline(), method, path, content, headers, params
        )

    async def call_for_itself(
        self, workspace: str, scopes: Sequence[Scope], method: str, path: str, body: Any, address: str
    ) -> Any:
        """Return the JSON of a call that the console makes by itself. Raises `Refusal`.

        `address` is that of the browser that caused it.
        """
        token = service_key(self._vault, CONSOLE, workspace, scopes, None)
        content = orjson.dumps(body)
        deadline = asyncio.get_running_loop().time() + _TIMEOUT_S
        headers = {**_json_headers(path, content, ""), "traceparent": continue_trace("")}
        _, answer = await self._send(token, address, deadline, method, path, content, headers, {})
        return _json(answer)

    async def _send(
        self,
        token: str,
        address: str,
        deadline: float,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        params: Parameters,
    ) -> tuple[HeaderPairs, bytes]:
        sent = [(b"authorization", f"Bearer {token}".encode())]
        sent += [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        if address:
            sent.append((b"x-forwarded-for", address.encode("latin-1", "replace")))
        service = service_for_path(path)
        url = (
            self._peers.get(service, self._gateway)
            + path
            + (f"?{urlencode(params, doseq=True)}" if params else "")
        )
        try:
            async with asyncio.timeout_at(deadline):
                status, received, answer = await self._client.call(method, url, sent, content)
        except (Unreachable, TimeoutError):
            detail = f"The service {service} does not answer. This part is back when it does: try again."
            raise Refusal(503, "Not available", detail) from None
        except Malformed as error:
            raise Refusal(error.status, "Bad Request", str(error)) from None
        if status >= 400:
            raise _refusal(status, answer)
        return received, answer


def _json_headers(path: str, content: bytes, once: str) -> dict[str, str]:
    """Return the headers of a call with JSON. A form that is changed and sent again is another call."""
    headers = {"content-type": "application/json"} if content else {}
    if not once:
        return headers
    parts = once.encode("utf-8", "replace"), path.encode(), content
    return headers | {"idempotency-key": hashlib.sha256(b"\0".join(parts)).hexdigest()}


def _json(answer: bytes) -> Any:
    try:
        return orjson.loads(answer) if answer else None
    except ValueError:
        raise Refusal(
            502,
            "Bad Gateway",
            "the service answered with something else than JSON: try again; its log says why",
        ) from None


def _refusal(status: int, answer: bytes) -> Refusal:
    """Return the refusal of a problem document, with the fields that were wrong."""
    try:
        problem = orjson.loads(answer)
        title, detail = str(problem["title"]), str(problem.get("detail") or problem["title"])
        errors = [
            (str(item.get("field", ""))[:200], str(item.get("message", ""))[:500])
            for item in (problem.get("errors") or ())[:_MAX_ERRORS]
        ]
        if errors:
            detail = "; ".join(f"{field}: {message}" for field, message in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refusal(
            status, "Error", f"the service answered with status {status}: try again; its log says why"
        )
    return Refusal(status, title[:200], detail[:2000], errors)

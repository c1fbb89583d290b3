"""A provider that sends to a running gateway: one persistent connection, and endpoints over the API."""

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Self

from shared.verification.request import InboundRequest
from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.provider_keys import ProviderKeys

INTERNAL: Final = "keys.internal.example"
"""A host whose name resolves to an internal address."""
_OF_THE_CONNECTION = (b"content-length", b"connection", b"transfer-encoding", b"host")


@dataclass(frozen=True)
class Answer:
    """The gateway's response; of a repeated header, the last value."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as the API created it."""

    id: str
    url: str
    secret: str
    settings: Mapping[str, str] = field(default_factory=dict)


class Caller:
    """Calls a gateway, as a provider and as a user with endpoints."""

    def __init__(self, hub: Hub) -> None:
        self._key = hub.admin_key
        self._connection = http.client.HTTPConnection("127.0.0.1", hub.ports["gateway"], timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, request: InboundRequest) -> Answer:
        """One request exactly as it is: with every header as often as it is there."""
        path = "/" + request.url.split("/", 3)[3]
        headers = [
            (name.decode("latin-1"), value)
            for name, values in request.headers.items()
            if name not in _OF_THE_CONNECTION
            for value in values
        ]
        return self._ask(request.method, path, headers, request.body)

    def call(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        """A management call; the JSON of the answer."""
        headers = [("authorization", f"Bearer {self._key}"), ("content-type", "application/json")]
        raw = b"" if body is None else json.dumps(body).encode()
        answer = self._ask(method, "/api" + path, headers, raw)
        assert answer.status == expect, f"{method} {path} {body}: {answer.status} {answer.body.decode()}"
        return answer.json if answer.body else None

    def endpoint(
        self,
        provider: str,
        *,
        secret: str = "",
        settings: Mapping[str, str] | None = None,
        require_signature: bool = True,
    ) -> Endpoint:
        """Create an endpoint with this secret, or with a generated one."""
        body: dict[str, Any] = {"provider": provider, "name": "test", "settings": dict(settings or {})}
        if secret:
            body["secret"] = secret
        if not require_signature:
            body |= {"require_signature": False, "unsigned_reason": "a test of what is not signed"}
        endpoint = self.call("POST", "/inbound-endpoints", body, expect=201)
        return Endpoint(endpoint["id"], endpoint["url"], endpoint["secret"] or "", settings or {})

    def _ask(self, method: str, path: str, headers: list[tuple[str, Any]], body: bytes) -> Answer:
        connection = self._connection
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, content)


@contextmanager
def gateway_with_platforms(
    folder: Path, bus: Bus, store: Store, hosts: Sequence[str]
) -> Iterator[tuple[Hub, ProviderKeys]]:
    """Start only a gateway, which calls no internal address, and all others through the providers' proxy.

    Afterwards nothing may have gone wrong in it that nobody expected.
    """
    with ProviderKeys(hosts) as platforms:
        env = {
            "INTERLINK_ALLOW_PRIVATE_NETWORKS": "none",
            "INTERLINK_EGRESS_PORTS": "443",
            **platforms.env(folder, {INTERNAL: "10.0.0.1"}),
        }
        workspace = f"platforms-{token_hex(4)}"
        hub = Hub(folder, bus, store, services=("gateway",), env=env, workspace=workspace)
        try:
            hub.init(workspace)
            hub.start_service("gateway", module=("tests.support.provider_hosts", "gateway"))
            hub.wait_ready("gateway")
            yield hub, platforms
            log = hub.log_text("gateway")
            assert "Traceback" not in log, log[-5000:]
        finally:
            hub.stop()

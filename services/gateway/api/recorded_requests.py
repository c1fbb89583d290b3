"""Recorded webhooks of a provider as requests to an endpoint, signed with the endpoint's secret."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.types import Receive

from services.gateway.api.fields import invalid_field
from shared.contracts.errors import Conflict, Rejected
from shared.manifests.fixtures import FIXTURES, Fixture, read_fixtures
from shared.manifests.registry import Provider, Registry
from shared.runtime.clock import utcnow
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier


def find_fixture(registry: Registry, provider: Provider, event: str | None) -> Fixture:
    """Return the first recorded webhook that has this event; without one, the first that is not quiet.

    Raises `Invalid` if there is none.
    """
    for fixture in read_fixtures(Path(str(registry.folder(provider.id)))):
        names = [str(item.get("event")) for item in fixture.expected.get("events", ())]
        if event in names or (event is None and not provider.quiet.issuperset(names)):
            return fixture
    raise invalid_field(
        "event",
        f"no recorded webhook of {provider.manifest.name} has this event: see {FIXTURES} in its folder",
    )


def sign_request(
    schemes: Sequence[SchemeVerifier], unsigned: InboundRequest, keys: list[bytes]
) -> InboundRequest:
    """Sign a request with the first scheme and key that can. Raises `Conflict` if none can."""
    for scheme in schemes:
        for key in keys:
            try:
                signed = scheme.sign(unsigned, key, utcnow().timestamp())
            except (
                Rejected,
                ValueError,
                TypeError,
            ):  # not a key of this scheme, or a scheme without a secret
                continue
            if scheme.applies(signed):
                return signed
    raise Conflict(
        "the hub cannot sign this webhook: only the provider has the key, or the endpoint has no secret yet"
    )


def asgi_scope(request: InboundRequest) -> dict[str, Any]:
    """Return a request as an ASGI scope."""
    headers = [(name, value) for name, values in request.headers.items() for value in values]
    path = urlsplit(request.address).path
    return {
        "type": "http",
        "method": request.method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": request.query_string,
        "headers": headers,
        "client": None,
    }


def asgi_receive(request: InboundRequest) -> Receive:
    """Return an ASGI `receive` that gives the request's body in one message."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.body, "more_body": False}

    return receive

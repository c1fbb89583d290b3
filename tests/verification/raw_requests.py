"""Requests with raw headers and bodies, for the tests of sources, templates and matches."""

from collections.abc import Mapping

from shared.verification.request import Headers, InboundRequest
from shared.verification.sources import compile_source
from shared.wire.bodies import parse_json

ADDRESS = "https://hub.example.com/api/webhooks/x/ep_1"
BODY = b'{"a":{"b":[10,{"c":"deep"}]},"n":1.50,"t":true,"f":false,"z":null,"e":"","list":[],"k":"v"}'


def request(
    *,
    method: str = "POST",
    address: str = ADDRESS,
    query: bytes = b"",
    headers: Headers | None = None,
    body: bytes = BODY,
    settings: Mapping[str, str] | None = None,
) -> InboundRequest:
    return InboundRequest(
        method, address, query, headers or {}, body, settings or {}, lambda inbound: parse_json(inbound.body)
    )


def read(source: str, inbound: InboundRequest) -> str | None:
    return compile_source(source)(inbound)

"""HTTP requests to a provider and its responses, as values: building a body, reading a form. No I/O."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, quote_plus, urlencode

import orjson
from authlib.common.urls import add_params_to_uri

from shared.wire.bodies import FORM_CONTENT_TYPE, JSON_CONTENT_TYPE

Pairs = Sequence[tuple[str, str]]
BodyEncoding = Literal["form", "json"]


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """A request to a provider."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class ProviderResponse:
    """A provider's response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def build_request(
    method: str, url: str, headers: Mapping[str, str], pairs: Pairs, encoding: BodyEncoding
) -> ProviderRequest:
    """Return a request with these fields in its body, or in the query of its URL for a GET."""
    if method == "GET":
        return ProviderRequest(method, str(add_params_to_uri(url, list(pairs))) if pairs else url, headers)
    if encoding == "json":
        return ProviderRequest(
            method, url, {**headers, "Content-Type": JSON_CONTENT_TYPE}, orjson.dumps(dict(pairs))
        )
    return ProviderRequest(
        method, url, {**headers, "Content-Type": FORM_CONTENT_TYPE}, urlencode(pairs).encode()
    )


def basic_authorization(name: str, password: str, *, form_encoded: bool = False) -> str:
    """Return the value of an `Authorization` header for HTTP Basic (RFC 7617).

    `form_encoded` URL-encodes both first, as OAuth 2.0 requires for client credentials (RFC 6749, 2.3.1).
    """
    if form_encoded:
        name, password = quote_plus(name), quote_plus(password)
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def parse_form(body: bytes) -> dict[str, str]:
    """Parse a form-encoded response. The last of repeated fields counts; over 200 fields give none."""
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        return {}

"""Compares a request with its sample."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote

from interlink.provider.samples import SampleRequest
from shared.contracts.errors import InterlinkError
from shared.wire.provider_http import ProviderRequest

_PER_REQUEST_PARAMETERS: Final = frozenset({"oauth_nonce", "oauth_timestamp", "oauth_signature"})
"""Parameters of OAuth 1.0a that differ for each request."""


def request_faults(
    location: str, expected: SampleRequest | None, make: Callable[[], ProviderRequest | None]
) -> Iterator[str]:
    """Yield the parts of a request that differ from the sample."""
    try:
        actual = make()
    except InterlinkError as error:
        yield f"{location}: cannot be made: {error}"
        return
    if actual is None or expected is None:
        if actual:
            yield f"{location}: missing: {actual.method} {actual.url}"
        elif expected:
            yield f"{location}: the manifest has no such request"
        return
    headers, signed = _split_oauth1_header(actual.headers) if expected.signed else (actual.headers, {})
    parts = {
        "method": (expected.method, actual.method),
        "url": (expected.url, actual.url),
        "headers": (_lowercase_names(expected.headers), _lowercase_names(headers)),
        "signed": (expected.signed, signed),
        "body": (expected.body, actual.body.decode()),
    }
    for part, (expected_part, actual_part) in parts.items():
        if expected_part != actual_part:
            yield f"{location}.{part}: is {actual_part!r}"


def _split_oauth1_header(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the other headers, and the constant parameters of `Authorization: OAuth`."""
    others = dict(headers)
    scheme, _, items = others.pop("Authorization", "").partition(" ")
    pairs = (item.partition("=") for item in items.split(", ")) if scheme == "OAuth" else ()
    parameters = {unquote(name): unquote(value.strip('"')) for name, _, value in pairs}
    return others, {name: value for name, value in parameters.items() if name not in _PER_REQUEST_PARAMETERS}


def _lowercase_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}

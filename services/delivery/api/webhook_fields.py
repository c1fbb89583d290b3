"""The field types of outgoing webhooks in the API, with their validation."""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from shared.runtime.egress.urls import with_ascii_host
from shared.webhooks.backoff import MAX_ATTEMPTS, MAX_WAIT_S, SCHEDULES
from shared.webhooks.patterns import parse_pattern
from shared.wire.expressions import Expression, ExpressionError

_MAX_HOST_LENGTH: Final = 253
_MAX_HEADERS: Final = 20
MAX_METADATA_BYTES: Final = 4096
METADATA_NAME: Final = r"[A-Za-z0-9_-]{1,40}"
MAX_METADATA_VALUE: Final = 500
_HOST_NAME: Final = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?"
)
_HEADER_NAME: Final = re.compile(r"(?!\$)[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
"""No `$` comes first: the log has the names as keys, and a document with `$ref` and `$id` is a reference."""
_RESERVED_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
    | {"keep-alive", "proxy-authorization", "proxy-connection", "expect", "traceparent", "user-agent"}
)
_RESERVED_PREFIXES: Final = ("webhook-", "x-webhook-", "x-chatwoot-", "x-interlink-")


def _validate_url(text: str) -> str:
    try:
        # Checked and stored as it is looked up: what a name in Unicode looks like proves nothing.
        text = with_ascii_host(text)
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("must be a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must start with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user name or password: use 'auth'")
    if parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be an encoded URL without a fragment")
    # IPv6 literals have colons and are checked by the egress rules.
    if ":" not in host and (len(host) > _MAX_HOST_LENGTH or not _HOST_NAME.fullmatch(host)):
        raise ValueError("must have a valid host name")
    return text


def _validate_waits(waits: list[float]) -> list[float]:
    if any(not 0 <= wait <= MAX_WAIT_S for wait in waits):
        raise ValueError(f"waits must be from 0 to {MAX_WAIT_S:.0f} seconds")
    return waits


def _validate_schedule_name(name: str) -> str:
    if name not in SCHEDULES:
        raise ValueError(f"must be one of {', '.join(SCHEDULES)}, or a list of seconds")
    return name


def _validate_header_name(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("must be the name of an HTTP header")
    if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError(f"{name} is set by the hub: choose another name")
    return name


def validate_header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("must be printable ASCII without a space at either end")
    return value


def _validate_headers(headers: dict[str, str]) -> dict[str, str]:
    # Header names are case-insensitive.
    if len({name.lower() for name in headers}) != len(headers):
        raise ValueError("must name each header once")
    if "authorization" in {name.lower() for name in headers}:
        raise ValueError("must not contain Authorization: use 'auth'")
    return headers


def validate_no_colon(text: str) -> str:
    if ":" in text:
        raise ValueError("must not contain a colon")
    return text


def _validate_transform(text: str) -> str:
    try:
        Expression(text, "transform")
    except ExpressionError as error:
        raise ValueError(str(error)) from None
    return text


def _validate_metadata(metadata: dict[str, str]) -> dict[str, str]:
    size = sum(len(name) + len(value.encode("utf-8", "replace")) for name, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"must have at most {MAX_METADATA_BYTES} bytes in all")
    return metadata


HeaderValue = Annotated[str, Field(max_length=2000), AfterValidator(validate_header_value)]
HeaderName = Annotated[str, AfterValidator(_validate_header_name)]
Headers = Annotated[
    dict[HeaderName, HeaderValue], Field(max_length=_MAX_HEADERS), AfterValidator(_validate_headers)
]
Metadata = Annotated[
    dict[
        Annotated[str, Field(pattern=f"^{METADATA_NAME}$")],
        Annotated[str, Field(max_length=MAX_METADATA_VALUE)],
    ],
    Field(max_length=50, description="Your own texts by name, at most 4 KiB. They can be searched by."),
    AfterValidator(_validate_metadata),
]
Description = Annotated[str, Field(max_length=2000)]
Url = Annotated[str, Field(max_length=2000), AfterValidator(_validate_url)]
Events = Annotated[list[Annotated[str, AfterValidator(parse_pattern)]], Field(min_length=1, max_length=100)]
Secret = Annotated[str, Field(min_length=8, max_length=500)]
"""At least 24 bytes for the profile `standard`: see `signing_key`."""
InFlight = Annotated[int, Field(ge=1, le=500)]
Timeout = Annotated[float, Field(ge=1, le=60)]
Transform = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_validate_transform)]
IntegrationId = Annotated[str, Field(min_length=1, max_length=100)]
DisableAfter = Annotated[float, Field(ge=0, le=365)]
ScheduleName = Annotated[str, AfterValidator(_validate_schedule_name)]
ScheduleWaits = Annotated[
    list[float], Field(min_length=1, max_length=MAX_ATTEMPTS), AfterValidator(_validate_waits)
]

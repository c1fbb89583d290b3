"""An inbound request as verification and mapping see it: parts decoded once, work counted. Pure."""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from shared.contracts.errors import Malformed
from shared.verification.work_counter import WorkCounter
from shared.wire.bodies import dump_json, parse_urlencoded

Headers = Mapping[bytes, Sequence[bytes]]
"""Lower-case header names, each with its values in order, as ASGI has them."""

SECRET_SETTING: Final = "secret"  # noqa: S105 -- a name
"""The name, among a request's settings, of the endpoint's newest secret as text. Handshakes sign with it."""

_UNSET: Final = object()


class InboundRequest:
    """One request of a provider.

    `address` is the URL without its query that the provider knows; behind a proxy the server sees another.
    `settings` are the endpoint's own. `timestamp` is the signed time as the request writes it, set by the
    verification. `item` is the current event of a batch, else the payload. `reader` turns the body into
    the payload. `work` counts the cost of reading and verifying.

    Whatever is derived from the body or the query is computed at most once.
    """

    __slots__ = (
        "_derived",
        "_item",
        "_item_digest",
        "_payload",
        "_reader",
        "address",
        "body",
        "headers",
        "method",
        "query_string",
        "settings",
        "timestamp",
        "work",
    )

    def __init__(
        self,
        method: str,
        address: str,
        query_string: bytes,
        headers: Headers,
        body: bytes,
        settings: Mapping[str, str],
        reader: "Callable[[InboundRequest], Any]",
    ) -> None:
        self.method = method
        self.address = address
        self.query_string = query_string
        self.headers = headers
        self.body = body
        self.settings = settings
        self.timestamp = ""
        self._reader = reader
        self._payload: Any = _UNSET
        self._item: Any = _UNSET
        self._item_digest = ""
        self._derived: dict[str, Any] = {}
        self.work = WorkCounter()

    @property
    def url(self) -> str:
        """The address with the query string as it was received."""
        query = self.query_string.decode("latin-1")
        return f"{self.address}?{query}" if query else self.address

    @property
    def payload(self) -> Any:
        """The body as the provider's reader decodes it. Raises `Malformed`."""
        if self._payload is _UNSET:
            self._payload = self._memoize("payload", self._read)
        return self._payload

    def _read(self) -> Any:
        self.work.parsed_bytes += len(self.body)
        return self._reader(self)

    def _memoize(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a value derived from the body or the query; a `Malformed` error is remembered as well.

        The memory is shared by all events of a batch, so a hostile body is parsed once, not once per event.
        """
        value = self._derived.get(name, _UNSET)
        if value is _UNSET:
            try:
                value = compute()
            except Malformed as error:
                value = error
            self._derived[name] = value
        if isinstance(value, Malformed):
            raise Malformed(value.detail)
        return value

    def payload_or_none(self) -> Any:
        """Return the payload, or None if the provider's reader cannot decode the body."""
        try:
            return self.payload
        except Malformed:
            return None

    @property
    def item(self) -> Any:
        """The current event: an element of a batch, or the payload."""
        return self.payload if self._item is _UNSET else self._item

    def for_event(self, payload: Any, item: Any) -> "InboundRequest":
        """Return a copy of the request that carries only one event of a batch.

        `payload` is the document of this event, `item` its element. The copy shares the decoded parts and
        the work counter.
        """
        # Shared on purpose: what one event made is not made again, and the work of all is counted together.
        copy = self.replace()
        copy._payload, copy._item = payload, item
        copy._derived, copy.work = self._derived, self.work
        return copy

    def with_header(self, name: bytes, value: bytes) -> "InboundRequest":
        """Return a copy in which the header has only this value."""
        return self.replace(headers={**self.headers, name: [value]})

    def with_body(self, body: bytes) -> "InboundRequest":
        """Return a copy with another body."""
        return self.replace(body=body)

    def replace(
        self,
        *,
        headers: Headers | None = None,
        query_string: bytes | None = None,
        body: bytes | None = None,
    ) -> "InboundRequest":
        """Return a copy with other headers, query string or body. Nothing that was derived is taken over."""
        copy = InboundRequest(
            self.method,
            self.address,
            self.query_string if query_string is None else query_string,
            self.headers if headers is None else headers,
            self.body if body is None else body,
            self.settings,
            self._reader,
        )
        copy.timestamp = self.timestamp
        return copy

    @property
    def query(self) -> list[tuple[str, str]]:
        """The parameters of the query string, in order. Raises `Malformed`."""
        pairs: list[tuple[str, str]] = self._memoize(
            "query", lambda: self._pairs(self.query_string, "query string")
        )
        return pairs

    @property
    def form(self) -> list[tuple[str, str]]:
        """The fields of a URL-encoded body, in order. Raises `Malformed`."""
        pairs: list[tuple[str, str]] = self._memoize("form", lambda: self._pairs(self.body, "body"))
        return pairs

    def _pairs(self, raw: bytes, what: str) -> list[tuple[str, str]]:
        self.work.parsed_bytes += len(raw)
        return parse_urlencoded(raw, what)

    def parameter(self, name: str) -> str | None:
        """Return a query parameter; None if it is missing or repeated. Raises `Malformed`."""
        values: dict[str, str | None] = self._memoize("parameters", lambda: _unique_values(self.query))
        return values.get(name)

    def field(self, name: str) -> str | None:
        """Return a form field; None if it is missing or repeated. Raises `Malformed`."""
        values: dict[str, str | None] = self._memoize("fields", lambda: _unique_values(self.form))
        return values.get(name)

    @property
    def sorted_form(self) -> str:
        """The form fields sorted, each name followed by its value. Raises `Malformed`.

        A repeated name contributes each of its different values once, sorted.
        """
        text: str = self._memoize(
            "sorted_form", lambda: "".join(name + value for name, value in sorted(set(self.form)))
        )
        return text

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of the body, in hex. Raises `TooCostly`."""
        digest: str = self._memoize(
            "sha256", lambda: hashlib.sha256(self._count_hashed(self.body)).hexdigest()
        )
        return digest

    @property
    def crc32(self) -> str:
        """The CRC-32 checksum of the body, as a decimal number. Raises `TooCostly`."""
        checksum: str = self._memoize("crc32", lambda: str(zlib.crc32(self._count_hashed(self.body))))
        return checksum

    @property
    def item_sha256(self) -> str:
        """The SHA-256 digest of the current event with sorted keys. Raises `Malformed`, `TooCostly`."""
        if not self._item_digest:
            text = dump_json(self.item, orjson.OPT_SORT_KEYS)
            self.work.parsed_bytes += len(text)
            self._item_digest = hashlib.sha256(self._count_hashed(text)).hexdigest()
        return self._item_digest

    def _count_hashed(self, raw: bytes) -> bytes:
        self.work.count_hash(len(raw))
        return raw

    def header(self, name: bytes) -> str | None:
        """Return a header's value without outer blanks; None if it is missing or repeated.

        Bytes beyond ASCII are decoded as latin-1, so that every byte can be restored.
        """
        values = self.headers.get(name)
        return values[0].decode("latin-1").strip() if values and len(values) == 1 else None


def _unique_values(pairs: Sequence[tuple[str, str]]) -> dict[str, str | None]:
    """Map each name to its value, or to None if it is repeated.

    Of a repeated name, a proxy in front of the hub might read another value than the hub.
    """
    values: dict[str, str | None] = {}
    for name, value in pairs:
        values[name] = None if name in values else value
    return values

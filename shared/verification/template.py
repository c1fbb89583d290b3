"""Templates over an inbound request: texts, and the bytes that a provider signs. Pure.

The grammar is that of `shared/wire/template.py`. A `SourceTemplate` makes a text of a request; a
`SignedContent` makes the bytes that a provider signs, and may have `{body}` and `{secret}` as well. Both are
compiled once.
"""

from collections.abc import Callable, Mapping
from typing import Final

from shared.verification.request import InboundRequest
from shared.verification.sources import TextGetter, compile_source
from shared.wire.template import MAX_QUOTED_CHARACTERS, Template, TemplateError

BytesGetter = Callable[[InboundRequest], bytes | None]
"""Like `TextGetter`, for signed content: returns the bytes as they were received."""

MAX_TEXT_CHARACTERS: Final = 16 * 1024
"""Characters of a rendered template; a longer text counts as missing."""


class SourceTemplate:
    """A compiled text with sources in braces. `constant` is true if it has no source."""

    __slots__ = ("_parts", "constant", "source")

    def __init__(self, source: str) -> None:
        """Raise `TemplateError` for an unbalanced brace or an unknown source."""
        self.source = source
        self._parts: list[str | TextGetter] = Template(source, compile_source).parts()
        self.constant = not any(callable(part) for part in self._parts)

    def text(self, request: InboundRequest) -> str | None:
        """Return the text for a request; None if a source is missing or empty, or the text is too long.

        The limit is `MAX_TEXT_CHARACTERS`. Raises `Malformed` if a source's part cannot be decoded.
        """
        if len(self._parts) == 1:  # the usual template is one source: no list, no join
            part = self._parts[0]
            text = part if isinstance(part, str) else part(request)
            return text if text and len(text) <= MAX_TEXT_CHARACTERS else None
        texts: list[str] = []
        size = 0
        for part in self._parts:
            text = part if isinstance(part, str) else part(request)
            if not text:
                return None
            size += len(text)
            if size > MAX_TEXT_CHARACTERS:
                return None
            texts.append(text)
        return "".join(texts)


class SignedContent:
    """A compiled template of bytes: what a provider signs. `{body}` is the body as received."""

    __slots__ = ("_parts", "only_body", "source")

    def __init__(self, source: str) -> None:
        """Raise `TemplateError` as `SourceTemplate` does, and for a source that is repeated.

        A repeated source would be hashed twice, so that a small body could cost more than a large one.
        """
        self.source = source
        template = Template(source, _compile_bytes_source)
        if len(set(template.names)) < len(template.names):
            raise TemplateError(
                f"a source is in the text twice: name each one once in {source[:MAX_QUOTED_CHARACTERS]!r}"
            )
        self._parts: list[bytes | BytesGetter] = [
            part.encode() if isinstance(part, str) else part for part in template.parts()
        ]
        self.only_body = source == "{body}"

    def content(self, request: InboundRequest, secret: bytes = b"") -> bytes | None:
        """Return the signed bytes; None if a part is missing. `secret` is inserted for `{secret}`."""
        if self.only_body:
            return request.body
        pieces: list[bytes] = []
        return b"".join(pieces) if self._emit(request, secret, pieces.append) else None

    def feed(self, request: InboundRequest, secret: bytes, update: Callable[[bytes], object]) -> bool:
        """Pass the signed bytes to a digest's `update`, piece by piece; return False if a part is missing.

        The bytes are counted as work of the request. Raises `TooCostly`.
        """

        def count(piece: bytes) -> None:
            request.work.count_hash(len(piece))
            update(piece)

        return self._emit(request, secret, count)

    def _emit(self, request: InboundRequest, secret: bytes, take: Callable[[bytes], object]) -> bool:
        for part in self._parts:
            # The secret is never read from the request: its place is marked by the function `_secret`.
            piece = part if isinstance(part, bytes) else secret if part is _secret else part(request)
            if piece is None:
                return False
            take(piece)
        return True


def _compile_bytes_source(name: str) -> BytesGetter:
    if name in _BYTES_SOURCES:
        return _BYTES_SOURCES[name]
    getter = compile_source(name)
    # `InboundRequest.header` decoded the header as latin-1: this restores its bytes.
    encoding = "latin-1" if name.removeprefix("optional:").startswith("header:") else "utf-8"

    def read(request: InboundRequest) -> bytes | None:
        text = getter(request)
        return None if text is None else text.encode(encoding, "surrogatepass")

    return read


def _body(request: InboundRequest) -> bytes:
    return request.body


def _secret(_request: InboundRequest) -> bytes:
    """Mark the place of the key, which `SignedContent._emit` inserts. Never called."""
    raise AssertionError


_BYTES_SOURCES: Final[Mapping[str, BytesGetter]] = {"body": _body, "secret": _secret}

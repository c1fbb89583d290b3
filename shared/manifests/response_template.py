"""Responses and handshakes of a manifest's `webhook`, compiled."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from shared.contracts.envelope import JSON_CONTENT_TYPE
from shared.contracts.errors import Forbidden, Malformed
from shared.manifests.models import CONTROL_CHARACTERS, HandshakeSpec, ResponseSpec
from shared.verification.match import Match
from shared.verification.provider_urls import allowed_url
from shared.verification.request import InboundRequest
from shared.verification.template import SourceTemplate

MAX_ECHO_LENGTH: Final = 4096
"""Characters of one value that a handshake sends back."""
MAX_RESPONSE_BYTES: Final = 16 * 1024
"""Bytes of a response's body and header values together."""


class Response(NamedTuple):
    """The HTTP response to a provider."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class Handshake:
    """A handshake of the manifest, compiled.

    `verified`: the signature is checked before the handshake is answered. `awaits_secret`: the request
    carries the endpoint's secret. `confirms`: a URL in it is called before the response.
    """

    __slots__ = (
        "_confirmed_hosts",
        "_confirms",
        "_keeps",
        "_require",
        "_response_template",
        "_when",
        "about",
        "awaits_secret",
        "confirms",
        "verified",
    )

    def __init__(self, spec: HandshakeSpec) -> None:
        self.about = spec.about
        self.verified = spec.verified
        self.awaits_secret = spec.keeps is not None
        self._when = Match(spec.when)
        self._require = Match(spec.require)
        self._keeps = SourceTemplate(spec.keeps) if spec.keeps else None
        self._response_template = ResponseTemplate(spec.answer)
        self.confirms = spec.confirms is not None
        self._confirms = SourceTemplate(spec.confirms.url) if spec.confirms else None
        self._confirmed_hosts = spec.confirms.hosts if spec.confirms else ()

    def matches(self, request: InboundRequest) -> bool:
        """Return whether the request is this handshake."""
        try:
            return self._when.holds(request)
        except Malformed:
            return False

    def response(self, request: InboundRequest) -> Response:
        """Return the response to the handshake.

        Raises `Forbidden` if the manifest's `require` does not hold, and `Malformed` if a value to echo is
        missing, too long or not printable.
        """
        if not self._require.holds(request):
            raise Forbidden("the handshake does not have the value that this endpoint expects")
        return self._response_template.response(request)

    def confirmation_url(self, request: InboundRequest) -> str | None:
        """Return the URL that has to be called to confirm the subscription; None if there is none.

        Raises `Malformed` if the request names one that is not the provider's.
        """
        if self._confirms is None:
            return None
        url = allowed_url(self._confirms.text(request), self._confirmed_hosts, with_query=True)
        if url is None:
            raise Malformed("the handshake has no URL of the provider to confirm it")
        return url

    def extract_secret(self, request: InboundRequest) -> str | None:
        """Return the secret that the request carries; None without one."""
        return self._keeps.text(request) if self._keeps else None


class ResponseTemplate:
    """A response of the manifest, compiled."""

    __slots__ = ("_headers", "_json", "_status", "_text", "_type", "_when")

    def __init__(self, spec: ResponseSpec) -> None:
        self._when = Match(spec.when)
        self._status = spec.status
        self._type = spec.type
        self._headers = [(name.lower().encode(), SourceTemplate(text)) for name, text in spec.headers.items()]
        self._text = SourceTemplate(spec.text) if spec.text is not None else None
        self._json = _compile_templates(spec.json_) if spec.json_ is not None else None

    def matches(self, request: InboundRequest) -> bool:
        """Return whether this response is for the request."""
        return self._when.holds(request)

    def response(self, request: InboundRequest) -> Response:
        """Render the response.

        Raises `Malformed` if a value to echo is missing, too long or not printable, or if the whole response
        is larger than `MAX_RESPONSE_BYTES`.
        """
        headers = [(name, _render_echo(template, request).encode()) for name, template in self._headers]
        content_type, body = "", b""
        if self._text is not None:
            content_type, body = "text/plain; charset=utf-8", _render_echo(self._text, request).encode()
        elif self._json is not None:
            content_type, body = JSON_CONTENT_TYPE, orjson.dumps(_render_values(self._json, request))
        content_type = self._type or content_type
        if content_type:
            headers.append((b"content-type", content_type.encode()))
        # Values come from the request: limit what a sender can make the hub send back.
        if len(body) + sum(len(value) for _, value in headers) > MAX_RESPONSE_BYTES:
            raise Malformed(f"the response would be larger than {MAX_RESPONSE_BYTES} bytes")
        return Response(self._status, tuple(headers), body)


def _compile_templates(values: Mapping[str, Any]) -> dict[str, Any]:
    """Compile the texts of a JSON body, at any depth."""
    return {
        name: SourceTemplate(value)
        if isinstance(value, str)
        else _compile_templates(value)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def _render_values(values: Mapping[str, Any], request: InboundRequest) -> dict[str, Any]:
    return {
        name: _render_echo(value, request)
        if isinstance(value, SourceTemplate)
        else _render_values(value, request)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def _render_echo(template: SourceTemplate, request: InboundRequest) -> str:
    value = template.text(request)
    if value is None:
        raise Malformed(f"the handshake has no {template.source}")
    if len(value) > MAX_ECHO_LENGTH or CONTROL_CHARACTERS.search(value):
        raise Malformed(
            f"{template.source} is too long or contains control characters, which cannot be sent back"
        )
    return value

"""Calls of the identity provider: its metadata and keys, in memory, and the exchange of a code.

All calls are made by the egress client, which follows no redirects. A document has at most 64 KiB.
Concurrent sign-ins share one request for it. New keys are requested at most every 30 seconds, so forged
tokens cause no calls.
"""

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import orjson

from services.console.openid.configuration import OpenIdConfiguration, is_allowed_url
from shared.contracts.errors import RetryLater, Unauthenticated
from shared.runtime.egress.client import EgressClient
from shared.runtime.logs import Log

_FRESH_S: Final = 3600.0
_STALE_S: Final = 24 * 3600.0
_REFETCH_INTERVAL_S: Final = 30.0
_RETRY_INTERVAL_S: Final = 2.0
"""Between two requests for a document that was never received."""
_TIMEOUT_S: Final = 4.0
_MAX_BYTES: Final = 64 * 1024
_DISCOVERY: Final = "/.well-known/openid-configuration"
_UNAVAILABLE: Final = "the identity provider does not answer: try again in a moment"
_FORM: Final = "application/x-www-form-urlencoded"


class ProviderUnavailable(RetryLater):
    """The identity provider does not respond, or its response does not conform to OpenID Connect."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The provider metadata that the console uses (OpenID Connect Discovery 1.0)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    sends_issuer: bool
    """True if authorization responses have the parameter `iss` (RFC 9207)."""
    uses_basic_auth: bool
    """True for `client_secret_basic`, False for `client_secret_post`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a successful token response."""

    id_token: str
    access_token: str


@dataclass(slots=True)
class _Document:
    body: bytes = b""
    fetched_at: float = 0.0
    tried_at: float = float("-inf")
    refreshed_at: float = float("-inf")


class IdentityProvider:
    """The identity provider that the settings name. Methods raise `ProviderUnavailable`."""

    def __init__(self, configuration: OpenIdConfiguration, client: EgressClient, log: Log) -> None:
        self.configuration = configuration
        self._client = client
        self._log = log
        self._lock = asyncio.Lock()
        self._metadata = _Document()
        self._keys = _Document()

    async def metadata(self) -> Metadata:
        """Return its metadata, after a check that they are of the issuer in the settings."""
        url = self.configuration.issuer.rstrip("/") + _DISCOVERY
        return parse_metadata(await self._read(self._metadata, url), self.configuration.issuer)

    async def keys(self, *, refresh: bool = False) -> bytes:
        """Return its JWKS document; with `refresh` a newer one, unless that was tried in the last 30 s."""
        return await self._read(self._keys, (await self.metadata()).jwks_uri, refresh=refresh)

    async def exchange(self, code: str, verifier: str) -> Tokens:
        """Return the tokens for a code. Raises `Unauthenticated` if the identity provider refuses it."""
        own, metadata = self.configuration, await self.metadata()
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": own.redirect_uri,
            "code_verifier": verifier,
        }
        headers = {"Content-Type": _FORM, "Accept": "application/json"}
        if own.secret and metadata.uses_basic_auth:
            pair = f"{quote_plus(own.client_id)}:{quote_plus(own.secret)}"  # RFC 6749, 2.3.1
            headers["Authorization"] = "Basic " + b64encode(pair.encode()).decode()
        else:
            fields["client_id"] = own.client_id
            if own.secret:
                fields["client_secret"] = own.secret
        answer = await self._client.call(
            "POST",
            metadata.token_endpoint,
            headers,
            urlencode(fields).encode(),
            timeout_s=_TIMEOUT_S,
            max_bytes=_MAX_BYTES,
        )
        found = _object(answer.body)
        if answer.status == 200 and isinstance(found.get("id_token"), str):
            return Tokens(found["id_token"], str(found.get("access_token") or ""))
        error = str(found.get("error", ""))[:100]
        self._log.warning(
            "console.code_exchange_failed", status=answer.status, failure=answer.failure, error=error
        )
        if answer.status in (400, 401, 403):
            raise Unauthenticated("the identity provider rejected the authorization code: sign in again")
        raise ProviderUnavailable(_UNAVAILABLE)

    async def _read(self, document: _Document, url: str, *, refresh: bool = False) -> bytes:
        """Return a document, from memory if it is fresh. If a request fails, use an earlier one for a day."""
        async with self._lock:
            now = monotonic()
            interval = _REFETCH_INTERVAL_S if document.body else _RETRY_INTERVAL_S
            is_old = not document.body or now - document.fetched_at > _FRESH_S
            is_refresh = refresh and now - document.refreshed_at > _REFETCH_INTERVAL_S
            if is_refresh or (is_old and now - document.tried_at > interval):
                document.tried_at = now
                document.refreshed_at = now if refresh else document.refreshed_at
                await self._fetch(document, url)
        if not document.body or monotonic() - document.fetched_at > _STALE_S:
            raise ProviderUnavailable(_UNAVAILABLE)
        return document.body

    async def _fetch(self, document: _Document, url: str) -> None:
        answer = await self._client.call(
            "GET", url, {"Accept": "application/json"}, None, timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES + 1
        )
        if answer.status == 200 and 0 < len(answer.body) <= _MAX_BYTES:
            document.body, document.fetched_at = answer.body, monotonic()
            return
        self._log.warning(
            "console.identity_provider_failed",
            url=url,
            status=answer.status,
            failure=answer.failure,
            detail=answer.detail,
            bytes=len(answer.body),
        )


def parse_metadata(document: bytes, issuer: str) -> Metadata:
    """Return the metadata in a document. Raises `ProviderUnavailable` if it is not of the issuer."""
    found = _object(document)
    if found.get("issuer") != issuer:
        raise ProviderUnavailable(
            "the identity provider's metadata have another issuer than INTERLINK_OIDC_ISSUER"
        )
    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    addresses = {name: str(found.get(name, "")) for name in names}
    if not all(is_allowed_url(url) for url in addresses.values()):
        raise ProviderUnavailable("the identity provider's metadata lack an https address")
    methods = found.get("token_endpoint_auth_methods_supported")
    return Metadata(
        **addresses,
        sends_issuer=found.get("authorization_response_iss_parameter_supported") is True,
        uses_basic_auth=not isinstance(methods, list) or "client_secret_basic" in methods,
    )


def _object(document: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(document)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}

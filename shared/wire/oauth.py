"""OAuth's protocol as values: no I/O. What Authlib has is Authlib's; platforms' habits are parameters.

OAuth 2.0 is RFC 6749 with PKCE (RFC 7636) and the practice of RFC 9700; OAuth 1.0a is RFC 5849.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

import orjson
from authlib.common.urls import add_params_to_uri
from authlib.oauth1.rfc5849.client_auth import ClientAuth as OAuth1
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

Pairs = Sequence[tuple[str, str]]
BodyEncoding = Literal["form", "json"]

FORM_CONTENT_TYPE: Final = "application/x-www-form-urlencoded"
JSON_CONTENT_TYPE: Final = "application/json"
_MIN_SECRET_CHARACTERS: Final = 6
_REDACTED: Final = "[hidden]"


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """A request to a platform."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class ProviderResponse:
    """What a platform answered; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """An app that is registered with a platform."""

    id: str
    secret: str


def new_state() -> str:
    """256 bits."""
    return secrets.token_urlsafe(32)


def new_code_verifier() -> str:
    """A PKCE code verifier of 256 bits, 43 characters (RFC 7636, 4.1)."""
    return secrets.token_urlsafe(32)


def code_challenge(verifier: str) -> str:
    """The S256 code challenge (RFC 7636, 4.2)."""
    return str(create_s256_code_challenge(verifier))  # type: ignore[no-untyped-call]


def authorization_url(url: str, parameters: Mapping[str, str]) -> str:
    """The address a person is sent to; `parameters` are all but the response type."""
    rest = dict(parameters)
    client = rest.pop("client_id", None)
    if client is None:  # a platform that calls it by another name
        return str(add_params_to_uri(url, [("response_type", "code"), *rest.items()]))
    return str(prepare_grant_uri(url, client, rest.pop("response_type", "code"), **rest))


def build_request(
    method: str, url: str, headers: Mapping[str, str], pairs: Pairs, encoding: BodyEncoding
) -> ProviderRequest:
    """A call whose body is these fields; a GET has them in its address."""
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
    """The value of an `Authorization` header (RFC 7617); `form_encoded` for an app (RFC 6749, 2.3.1)."""
    if form_encoded:
        name, password = quote_plus(name), quote_plus(password)
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def sign_oauth1(
    client: ClientCredentials,
    method: str,
    url: str,
    *,
    token: str | None = None,
    token_secret: str | None = None,
    callback: str | None = None,
    verifier: str | None = None,
) -> ProviderRequest:
    """A call without body, signed with HMAC-SHA1 in its `Authorization` header (RFC 5849, 3.4)."""
    signer = OAuth1(
        client.id,
        client_secret=client.secret,
        token=token,
        token_secret=token_secret,
        redirect_uri=callback,
        verifier=verifier,
    )
    made_url, headers, _ = signer.prepare(method, url, {}, "")
    kept = {name: value for name, value in headers.items() if name.lower() != "content-length"}
    return ProviderRequest(method, str(made_url), kept)


def sorted_query_hmac(pairs: Iterable[tuple[str, str]], without: str, secret: str) -> str:
    """Hex HMAC-SHA256 over the sorted parameters of a callback but the one that carries it."""
    signed = "&".join(f"{name}={value}" for name, value in sorted(pairs) if name != without)
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()


def parse_form(body: bytes) -> dict[str, str]:
    """A form-encoded answer's fields; the last of doubled ones, and none of more than 200."""
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        return {}


def redact(text: str, secrets: Iterable[str]) -> str:
    """What a platform says, without secrets of ours that it repeats, as they are or percent-encoded.

    What a platform says is cut off somewhere, so the beginning of a secret at its end is one as well.
    """
    for secret in secrets:
        if len(secret) >= _MIN_SECRET_CHARACTERS:
            for form in dict.fromkeys((secret, quote(secret, safe=""), quote(secret))):
                text = _redact_truncated(text.replace(form, _REDACTED), form)
    return text


def _redact_truncated(text: str, secret: str) -> str:
    for length in range(min(len(secret) - 1, len(text)), _MIN_SECRET_CHARACTERS - 1, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + _REDACTED
    return text

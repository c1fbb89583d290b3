"""OAuth 1.0a's three legs as requests and answers (RFC 5849): a request token, the person's word, a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from shared.manifests.connect_models import OAuth1
from shared.manifests.connector import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
    TokenResponse,
    Tokens,
)
from shared.wire.oauth import ClientCredentials, sign_oauth1
from shared.wire.provider_http import ProviderRequest, ProviderResponse, build_request, parse_form
from shared.wire.request_template import RequestTemplate

_CLIENT_ERROR_TEXTS: Final = ("consumer", "application key", "invalid key", "app not found")
"""What errors say, in lower case, that are about the app and not about the request token."""


@dataclass(frozen=True, slots=True)
class RequestToken:
    """What the first leg gives: it names the request, and its secret signs the third leg."""

    token: str
    secret: str = field(repr=False)


class OAuth1Flow:
    """The flow of one provider, compiled."""

    def __init__(self, flow: OAuth1) -> None:
        self._flow = flow

    def request_token_request(self, values: Mapping[str, str], *, state: str) -> ProviderRequest:
        """The request for a request token; the state comes back in our own address."""
        callback = f"{values['redirect_uri']}?state={quote(state)}"
        return sign_oauth1(
            _client(values),
            "POST",
            RequestTemplate(self._flow.request_token_url).url(values),
            callback=callback,
        )

    def parse_request_token(self, answer: ProviderResponse) -> RequestToken:
        """Raises `InvalidClient`, `ProviderRejected`, `ProviderUnavailable`."""
        if answer.status in (401, 403):  # nobody was asked yet: only the app can be wrong
            raise InvalidClient("invalid_client")
        if 400 <= answer.status < 500 and answer.status != 429:
            raise ProviderRejected(f"http_{answer.status}")
        found = _parse_form(answer)
        if found.get("oauth_callback_confirmed") != "true":  # RFC 5849, 2.1: else it is no OAuth 1.0a
            raise ProviderRejected(
                "no_callback", "the platform did not confirm where to send the person back to"
            )
        return RequestToken(found["oauth_token"], found["oauth_token_secret"])

    def authorize(self, values: Mapping[str, str], token: str, scopes: Sequence[str]) -> str:
        """Where the person is sent."""
        flow = self._flow
        pairs = {"oauth_token": token}
        if scopes:
            pairs[flow.scope_name] = flow.scope_separator.join(scopes)
        for name, text in flow.authorize.items():
            if value := RequestTemplate(text).render_or_empty(values):
                pairs[name] = value
        return build_request(
            "GET", RequestTemplate(flow.authorize_url).url(values), {}, list(pairs.items()), "form"
        ).url

    @staticmethod
    def verifier(query: Mapping[str, str], request: RequestToken) -> str:
        """The person's word, of what came back (RFC 5849, 2.2).

        Raises `ProviderRejected`: it was not given, or is about another request.
        """
        if not query.get("oauth_verifier"):
            raise ProviderRejected("access_denied", "the platform sent no permission back")
        if query.get("oauth_token") != request.token:
            raise ProviderRejected("wrong_answer", "oauth_token is not what was asked for")
        return query["oauth_verifier"]

    def access_token_request(
        self, values: Mapping[str, str], request: RequestToken, verifier: str
    ) -> ProviderRequest:
        """The request for the token that lasts."""
        return sign_oauth1(
            _client(values),
            "POST",
            RequestTemplate(self._flow.token_url).url(values),
            token=request.token,
            token_secret=request.secret,
            verifier=verifier,
        )

    @staticmethod
    def parse_token_response(answer: ProviderResponse) -> TokenResponse:
        """The token: its secret is a further one of the same consent.

        Raises `GrantRevoked` (the request token or the verifier is not good), `InvalidClient`,
        `ProviderRejected`, `ProviderUnavailable`.
        """
        found = _parse_form(answer)
        return TokenResponse(
            Tokens(found["oauth_token"]), {"signing": Tokens(found["oauth_token_secret"])}, found
        )


def _client(values: Mapping[str, str]) -> ClientCredentials:
    return ClientCredentials(values["client_id"], values.get("client_secret", ""))


def _parse_form(answer: ProviderResponse) -> dict[str, str]:
    if answer.status == 429 or answer.status >= 500:
        raise ProviderUnavailable(f"the platform answered {answer.status}", retry_after=2.0)
    if answer.status >= 400:
        said = answer.body.decode("utf-8", "replace").lower()
        if any(words in said for words in _CLIENT_ERROR_TEXTS):
            raise InvalidClient("invalid_client")
        raise GrantRevoked(f"http_{answer.status}")
    found = parse_form(answer.body)
    if not found.get("oauth_token") or not found.get("oauth_token_secret"):
        raise ProviderRejected("no_token", "the platform's answer has no token")
    return found

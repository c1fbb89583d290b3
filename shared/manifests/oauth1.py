"""OAuth 1.0a (RFC 5849) as requests and responses: request token, authorization, access token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from shared.manifests.connect_models import OAuth1
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.manifests.token_response import TokenResponse, Tokens
from shared.wire.oauth import ClientCredentials, sign_oauth1
from shared.wire.provider_http import ProviderRequest, ProviderResponse, build_request, parse_form
from shared.wire.request_template import RequestTemplate

_CLIENT_ERROR_TEXTS: Final = ("consumer", "application key", "invalid key", "app not found")
"""Parts of error texts, in lower case, that concern the app and not the request token."""


@dataclass(frozen=True, slots=True)
class RequestToken:
    """Result of the first leg. Its secret signs the third leg."""

    token: str
    secret: str = field(repr=False)


class OAuth1Flow:
    """The flow of one provider."""

    def __init__(self, flow: OAuth1) -> None:
        self._flow = flow

    def request_token_request(self, values: Mapping[str, str], *, state: str) -> ProviderRequest:
        """Return the request for a request token; the callback URL contains the state."""
        # OAuth 1.0a has no state parameter: it travels in the callback URL.
        callback = f"{values['redirect_uri']}?state={quote(state)}"
        return sign_oauth1(
            _client(values),
            "POST",
            RequestTemplate(self._flow.request_token_url).url(values),
            callback=callback,
        )

    def parse_request_token(self, response: ProviderResponse) -> RequestToken:
        """Return the request token.

        Raises `InvalidClient`, `ProviderRejected` or `ProviderUnavailable`.
        """
        if response.status in (401, 403):  # no user is involved yet: only the app can be wrong
            raise InvalidClient("invalid_client")
        if 400 <= response.status < 500 and response.status != 429:
            raise ProviderRejected(f"http_{response.status}")
        fields = _parse_form(response)
        if fields.get("oauth_callback_confirmed") != "true":  # required by RFC 5849, 2.1
            raise ProviderRejected("no_callback", "the provider did not confirm the callback URL")
        return RequestToken(fields["oauth_token"], fields["oauth_token_secret"])

    def authorize(self, values: Mapping[str, str], token: str, scopes: Sequence[str]) -> str:
        """Return the URL that the user's browser opens."""
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
        """Return the verifier from the callback's parameters (RFC 5849, 2.2).

        Raises `ProviderRejected` if the user denied the request, or if the callback belongs to another one.
        """
        if not query.get("oauth_verifier"):
            raise ProviderRejected("access_denied", "the provider sent no verifier: access was denied")
        if query.get("oauth_token") != request.token:
            raise ProviderRejected("wrong_answer", "oauth_token is not the value that was expected")
        return query["oauth_verifier"]

    def access_token_request(
        self, values: Mapping[str, str], request: RequestToken, verifier: str
    ) -> ProviderRequest:
        """Return the request for the access token."""
        return sign_oauth1(
            _client(values),
            "POST",
            RequestTemplate(self._flow.token_url).url(values),
            token=request.token,
            token_secret=request.secret,
            verifier=verifier,
        )

    @staticmethod
    def parse_token_response(response: ProviderResponse) -> TokenResponse:
        """Return the access token; its secret is the further token `signing`.

        Raises `GrantRevoked` if the request token or the verifier is not valid, `InvalidClient`,
        `ProviderRejected` or `ProviderUnavailable`.
        """
        fields = _parse_form(response)
        return TokenResponse(
            Tokens(fields["oauth_token"]), {"signing": Tokens(fields["oauth_token_secret"])}, fields
        )


def _client(values: Mapping[str, str]) -> ClientCredentials:
    return ClientCredentials(values["client_id"], values.get("client_secret", ""))


def _parse_form(response: ProviderResponse) -> dict[str, str]:
    if response.status == 429 or response.status >= 500:
        raise ProviderUnavailable(f"the provider answered with status {response.status}", retry_after=2.0)
    if response.status >= 400:
        text = response.body.decode("utf-8", "replace").lower()
        if any(part in text for part in _CLIENT_ERROR_TEXTS):
            raise InvalidClient("invalid_client")
        raise GrantRevoked(f"http_{response.status}")
    fields = parse_form(response.body)
    if not fields.get("oauth_token") or not fields.get("oauth_token_secret"):
        raise ProviderRejected("no_token", "the provider's response has no token")
    return fields

"""OAuth 1.0a's three legs as requests and answers (RFC 5849): a request token, the person's word, a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from shared.catalog.connect import OAuth1
from shared.catalog.connector import ClientRefused, ConsentGone, Granted, PlatformBusy, Refused, Tokens
from shared.wire.fills import Fill
from shared.wire.oauth import Answered, Call, Client, form_of, oauth1_signed, with_body

_OF_THE_APP: Final = ("consumer", "application key", "invalid key", "app not found")
"""What errors say, in lower case, that are about the app and not about the request token."""


@dataclass(frozen=True, slots=True)
class RequestToken:
    """What the first leg gives: it names the request, and its secret signs the third leg."""

    token: str
    secret: str = field(repr=False)


class ThreeLegged:
    """The flow of one provider, compiled."""

    def __init__(self, flow: OAuth1) -> None:
        self._flow = flow

    def first(self, values: Mapping[str, str], *, state: str) -> Call:
        """The request for a request token; the state comes back in our own address."""
        callback = f"{values['redirect_uri']}?state={quote(state)}"
        return oauth1_signed(
            _client(values), "POST", Fill(self._flow.request_token_url).url(values), callback=callback
        )

    def request_token(self, answer: Answered) -> RequestToken:
        """Raises `ClientRefused`, `Refused`, `PlatformBusy`."""
        if answer.status in (401, 403):  # nobody was asked yet: only the app can be wrong
            raise ClientRefused("invalid_client")
        if 400 <= answer.status < 500 and answer.status != 429:
            raise Refused(f"http_{answer.status}")
        found = _fields(answer)
        if found.get("oauth_callback_confirmed") != "true":  # RFC 5849, 2.1: else it is no OAuth 1.0a
            raise Refused("no_callback", "the platform did not confirm where to send the person back to")
        return RequestToken(found["oauth_token"], found["oauth_token_secret"])

    def authorize(self, values: Mapping[str, str], token: str, scopes: Sequence[str]) -> str:
        """Where the person is sent."""
        flow = self._flow
        pairs = {"oauth_token": token}
        if scopes:
            pairs[flow.scope_name] = flow.scope_separator.join(scopes)
        for name, text in flow.authorize.items():
            if value := Fill(text).maybe(values):
                pairs[name] = value
        return with_body("GET", Fill(flow.authorize_url).url(values), {}, list(pairs.items()), "form").url

    @staticmethod
    def verifier(query: Mapping[str, str], request: RequestToken) -> str:
        """The person's word, of what came back (RFC 5849, 2.2).

        Raises `Refused`: it was not given, or is about another request.
        """
        if not query.get("oauth_verifier"):
            raise Refused("access_denied", "the platform sent no permission back")
        if query.get("oauth_token") != request.token:
            raise Refused("wrong_answer", "oauth_token is not what was asked for")
        return query["oauth_verifier"]

    def third(self, values: Mapping[str, str], request: RequestToken, verifier: str) -> Call:
        """The request for the token that lasts."""
        return oauth1_signed(
            _client(values),
            "POST",
            Fill(self._flow.token_url).url(values),
            token=request.token,
            token_secret=request.secret,
            verifier=verifier,
        )

    @staticmethod
    def granted(answer: Answered) -> Granted:
        """The token: its secret is a further one of the same consent.

        Raises `ConsentGone` (the request token or the verifier is not good), `ClientRefused`, `Refused`,
        `PlatformBusy`.
        """
        found = _fields(answer)
        return Granted(Tokens(found["oauth_token"]), {"signing": Tokens(found["oauth_token_secret"])}, found)


def _client(values: Mapping[str, str]) -> Client:
    return Client(values["client_id"], values.get("client_secret", ""))


def _fields(answer: Answered) -> dict[str, str]:
    if answer.status == 429 or answer.status >= 500:
        raise PlatformBusy(f"the platform answered {answer.status}", retry_after=2.0)
    if answer.status >= 400:
        said = answer.body.decode("utf-8", "replace").lower()
        if any(words in said for words in _OF_THE_APP):
            raise ClientRefused("invalid_client")
        raise ConsentGone(f"http_{answer.status}")
    found = form_of(answer.body)
    if not found.get("oauth_token") or not found.get("oauth_token_secret"):
        raise Refused("no_token", "the platform's answer has no token")
    return found

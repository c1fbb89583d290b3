"""X: OAuth 2.0 of a person, and the webhooks of an app.

xdevplatform/docs: fundamentals/authentication/oauth-2-0 and x-api/webhooks/quickstart.mdx;
https://docs.x.com/x-api/webhooks/introduction (one webhook, five and more for enterprises). From memory: the
form of errors of webhooks.

- PKCE with S256 is required. A confidential client names itself by HTTP Basic.
- A refresh token works once.
- Webhooks belong to the app: they are made with its own bearer token, never with a person's. X asks the
  address (CRC) when one is made and on request (PUT), and marks it invalid when the answer is wrong.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import httpx

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Refused, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply

_ERRORS: Final[dict[Why, tuple[int, str]]] = {
    "client": (401, "unauthorized_client"),
    "secret": (401, "unauthorized_client"),
    "style": (401, "unauthorized_client"),
    "grant type": (400, "unsupported_grant_type"),
}


@dataclass(eq=False)
class Webhook:
    """One of the app. `asked` counts the CRCs."""

    id: str
    url: str
    valid: bool = True
    challenges: int = 0


class X(Fake):
    """One app. `most` is how many webhooks it may have."""

    name = "X"
    person = "22449949{:02}"
    authorize_needs: ClassVar = frozenset({"response_type", "code_challenge", "code_challenge_method"})
    lifetime_s: float | None = 7200

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str, *, limit: int = 1) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.limit = limit
        self.bearer_token = f"AAAA%2B{secrets.token_hex(30)}"
        self.webhooks: dict[str, Webhook] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while a webhook is being deleted."""
        self.hosts = {
            "x.com": self.on({"GET /i/oauth2/authorize": self.authorize}),
            "api.x.com": self.on(
                {
                    "POST /2/oauth2/token": self.token,
                    "POST /2/oauth2/revoke": self.revoke,
                    "GET /2/users/me": self.me,
                    "POST /2/webhooks": self.make,
                    "PUT /2/webhooks/{}": self.validate,
                    "DELETE /2/webhooks/{}": self.remove,
                }
            ),
        }

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=False)

    def refusal(self, why: Why) -> Reply:
        status, error = _ERRORS.get(why, (400, "invalid_request"))
        described = (
            f"Value passed for the {'token' if 'refresh' in why else 'authorization code'} was invalid."
        )
        return Reply.json({"error": error, "error_description": described}, status)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        access = self.give("access", grant, self.lifetime_s, secrets.token_urlsafe(60))
        answer: dict[str, Any] = {
            "token_type": "bearer",
            "expires_in": self.seconds(),
            "access_token": access.value,
            "scope": " ".join(grant.scopes),
        }
        if "offline.access" in grant.scopes:
            fresh = self.give("refresh", grant, None, secrets.token_urlsafe(60), old=old)
            answer["refresh_token"] = fresh.value
        return Reply.json(answer)

    def revoke(self, request: HostRequest) -> Reply:
        """A token, and the grant with it."""
        try:
            fields = self.authenticated(request)
        except Refused as refused:
            return self.refusal(refused.why)
        self.check(fields, {"token"}, {"token_type_hint"}, "the revocation")
        token = self.known(fields["token"], "refresh") or self.known(fields["token"], "access")
        if token is not None:
            self.end(token.grant)
        return Reply.json({"revoked": True})

    def me(self, request: HostRequest) -> Reply:
        """Whom the token stands for."""
        token = self.access(bearer(request))
        if token is None:
            return _problem(401, "Unauthorized")
        account = token.grant.account
        username = account.email.partition("@")[0]
        return Reply.json({"data": {"id": account.id, "name": account.name, "username": username}})

    # The app's webhooks.

    def make(self, request: HostRequest) -> Reply:
        """A webhook, which has to answer the CRC at once."""
        if not self._app(request):
            return _problem(401, "Unauthorized")
        body = request.json()
        self.check(body, {"url"}, (), "the webhook")
        if any(each.url == body["url"] for each in self.webhooks.values()):
            return _problem(400, "DuplicateUrlFailed")
        if len(self.webhooks) >= self.limit:
            return _problem(400, "WebhookLimitExceeded")
        made = Webhook(str(secrets.randbelow(10**18)), body["url"])
        if not self._answers(made):
            return _problem(400, "CrcValidationFailed")
        self.webhooks[made.id] = made
        shown = {"id": made.id, "url": made.url, "valid": True, "created_at": "2026-01-01T00:00:00.000Z"}
        return Reply.json({"data": shown})

    def validate(self, request: HostRequest) -> Reply:
        """Another CRC; `valid` says how it went."""
        found = self._found(request)
        if isinstance(found, Reply):
            return found
        assert not request.body, "there is a body"
        found.valid = self._answers(found)
        return Reply.json({"data": {"valid": found.valid}})

    def remove(self, request: HostRequest) -> Reply:
        """No more of it."""
        found = self._found(request)
        if isinstance(found, Reply):
            return found
        del self.webhooks[found.id]
        self.meanwhile()
        return Reply.json({"data": {"deleted": True}})

    def _app(self, request: HostRequest) -> bool:
        """Whether the app itself asks; a person's token here is a fault."""
        token = bearer(request)
        assert self.known(token, "access") is None, "a person's token is used for the app's webhooks"
        return token == self.bearer_token

    def _found(self, request: HostRequest) -> Webhook | Reply:
        if not self._app(request):
            return _problem(401, "Unauthorized")
        return self.webhooks.get(request.path.rpartition("/")[2]) or _problem(400, "WebhookIdInvalid")

    def _answers(self, webhook: Webhook) -> bool:
        webhook.challenges += 1
        token = secrets.token_urlsafe(20)
        answer = httpx.get(webhook.url, params={"crc_token": token}, timeout=10)
        proof = hmac.digest(self.client_secret.encode(), token.encode(), hashlib.sha256)
        wanted = {"response_token": f"sha256={base64.b64encode(proof).decode()}"}
        return answer.status_code == 200 and answer.json() == wanted


def _problem(status: int, title: str) -> Reply:
    return Reply.json({"errors": [{"message": title}], "title": title, "type": "about:blank"}, status)

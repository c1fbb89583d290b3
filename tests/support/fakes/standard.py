"""What platforms share whose OAuth 2.0 is as RFC 6749 and RFC 7009 have it, but for a few words."""

import secrets
from typing import Any, ClassVar

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply


class StandardFake(Fake):
    """A platform whose tokens are in JSON, and whose API takes bearer tokens."""

    client_in: ClassVar[str] = "body"
    """Where the client is named at the token endpoint: `basic` or `body`."""
    errors: ClassVar[dict[Why, Reply]] = {}
    """The platform's answers where they are not those of RFC 6749."""

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(
            request, request.form(), basic=self.client_in == "basic", body=self.client_in == "body"
        )

    def refusal(self, why: Why) -> Reply:
        if why in self.errors:
            return self.errors[why]
        if why in {"client", "secret", "style"}:
            return Reply.json({"error": "invalid_client", "error_description": why}, 401)
        error = "unsupported_grant_type" if why == "grant type" else "invalid_grant"
        return Reply.json({"error": error, "error_description": why}, 400)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        access = self.give("access", grant, self.lifetime_s, secrets.token_urlsafe(60))
        answer: dict[str, Any] = {"access_token": access.value, "token_type": "bearer"}
        if self.lifetime_s is not None:
            answer["expires_in"] = self.seconds()
        if self.gives_refresh_token(grant):
            fresh = secrets.token_urlsafe(60)
            refresh = (
                self.give("refresh", grant, self.refresh_lifetime_s, fresh, old=old)
                if self.single_use or old is None
                else old
            )
            answer["refresh_token"] = refresh.value
        return Reply.json(answer | self.more(grant))

    def gives_refresh_token(self, _grant: Grant) -> bool:
        """Whether a grant has a refresh token."""
        return True

    def tokens_of(self, grant: Grant) -> list[Token]:
        """The secrets of a grant that were given out."""
        return [token for token in self._tokens.values() if token.grant is grant]

    def more(self, grant: Grant) -> dict[str, Any]:
        """What else the token endpoint answers."""
        return {"scope": (self.separator or " ").join(grant.scopes)}

    def holder(self, request: HostRequest) -> Token | None:
        """The access token of a call, if it works."""
        return self.access(bearer(request))

    def revoked(self, fields: dict[str, str]) -> None:
        """The app gave the grant of `token` back; one that is not known is no error (RFC 7009, 2.2)."""
        token = self.known(fields["token"], "refresh") or self.known(fields["token"], "access")
        if token is not None and token.grant.live:
            self.end(token.grant)

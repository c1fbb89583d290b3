"""Slack's OAuth v2, with or without token rotation.

https://docs.slack.dev/reference/methods/oauth.v2.access
https://docs.slack.dev/authentication/using-token-rotation
Revocation, the who-am-i and what becomes of the refresh token of a revoked token are from memory.

- Errors are HTTP 200 with `ok: false` and `error`.
- The bot's token is at the top, the user's in `authed_user`; an installation with `user_scope` only has
  nothing at the top. Both have a refresh token and an expiry of their own; a refresh answers at the top, for
  a user's token too (python-slack-sdk, slack_sdk/oauth/token_rotation).
- Without rotation (`lifetime_s = None`) nothing expires, and installing again gives the same token again.
- PKCE makes the app a public one for good (https://docs.slack.dev/authentication/using-pkce): this app has a
  secret and has not opted in.
"""

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Token, Why, bearer
from tests.support.provider_hosts import FORM, HostRequest, Reply

_ERRORS: Final[dict[Why, str]] = {
    "client": "invalid_client_id",
    "secret": "bad_client_secret",
    "style": "invalid_client_id",
    "grant type": "invalid_grant_type",
    "code": "invalid_code",
    "used code": "code_already_used",
    "expired code": "invalid_code",
    "redirect_uri": "bad_redirect_uri",
}


class Slack(Fake):
    """One Slack app. `user_lifetime_s` is the lifetime of users' tokens where it differs from the bots'."""

    name = "Slack"
    separator = ","
    person = "U{:08d}"
    place = "T{:08d}"
    pkce = "none"
    lifetime_s: float | None = 43200
    scope_needed = False
    authorize_needs = frozenset()
    grant_type_needed = False
    authorize_may: ClassVar = frozenset({"user_scope", "team"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.user_lifetime_s: float | None = None
        methods = {
            "auth.test": self.auth_test,
            "auth.revoke": self.auth_revoke,
            "oauth.v2.access": self.token,
        }
        self.hosts = {
            "slack.com": self.on(
                {"GET /oauth/v2/authorize": self.authorize}
                | {f"POST /api/{name}": method for name, method in methods.items()}
            )
        }

    def scopes_asked(self, query: Mapping[str, str]) -> tuple[str, ...]:
        bot, user = query.get("scope", ""), query.get("user_scope", "")
        assert bot or user, "the authorization request has neither scope nor user_scope"
        if user:
            self.split(user)
        return self.split(bot) if bot else ()

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=True)

    def refusal(self, why: Why) -> Reply:
        return _error(_ERRORS.get(why, "invalid_refresh_token"))

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        place, user_scope = grant.account.place, grant.query.get("user_scope", "")
        answer: dict[str, Any] = {
            "ok": True,
            "app_id": "A00000001",
            "team": {"id": place.id, "name": place.name},
            "enterprise": None,
            "is_enterprise_install": False,
        }
        if old is not None:
            return Reply.json(answer | self._issue(grant, old.role, old))
        if grant.scopes:
            answer |= self._issue(grant, "bot", None)
        user = self._issue(grant, "user", None) if user_scope else {}
        return Reply.json(answer | {"authed_user": {"id": grant.account.id} | user})

    def _issue(self, grant: Grant, role: str, old: Token | None) -> dict[str, Any]:
        lifetime_s = self.lifetime_s
        if role == "user" and self.user_lifetime_s is not None:
            lifetime_s = self.user_lifetime_s
        scope = ",".join(grant.scopes) if role == "bot" else grant.query["user_scope"]
        about = {"scope": scope, "token_type": role}
        if role == "bot":
            about["bot_user_id"] = f"{grant.account.place.id.replace('T', 'U')}B"
        kind = "xoxb" if role == "bot" else "xoxp"
        if lifetime_s is None:
            there = self._installed(grant, role)
            if there is None:
                there = self.give("access", grant, None, f"{kind}-{secrets.token_urlsafe(24)}", role=role)
            return {"access_token": there.value, **about}
        access = self.give(
            "access", grant, lifetime_s, f"xoxe.{kind}-1-{secrets.token_urlsafe(80)}", role=role
        )
        fresh = f"xoxe-1-{secrets.token_urlsafe(80)}"
        refresh = self.give("refresh", grant, self.refresh_lifetime_s, fresh, role=role, old=old)
        refresh.mates = [access]
        shown = {"access_token": access.value, "refresh_token": refresh.value}
        return {**shown, "expires_in": int(lifetime_s), **about}

    def _installed(self, grant: Grant, role: str) -> Token | None:
        """The token of an earlier installation: the team's for a bot, the person's in it for a user."""
        for token in self._tokens.values():
            same = token.grant.account.place == grant.account.place
            if role == "user":
                same = same and token.grant.account.id == grant.account.id
            if same and token.kind == "access" and token.role == role and self.access(token.value):
                return token
        return None

    def _named(self, request: HostRequest) -> Token | str:
        """The token of a call, in the header or as the form's `token`; else the error."""
        fields = request.form() if request.media_type == FORM else {}
        assert fields or not request.body, "the body is no form"
        self.check(fields, (), {"token"}, "the call")
        assert not (bearer(request) and fields), "the token is in the header and in the form"
        value = bearer(request) or fields.get("token", "")
        token = self.known(value, "access")
        if not value or token is None:
            return "invalid_auth" if value else "not_authed"
        state = token.state(self.now())
        return token if state == "live" else f"token_{state}"

    def auth_test(self, request: HostRequest) -> Reply:
        """Who the token stands for."""
        token = self._named(request)
        if isinstance(token, str):
            return _error(token)
        account = token.grant.account
        answer = {"ok": True, "url": "https://example.slack.com/", "team": account.place.name}
        answer |= {"team_id": account.place.id, "is_enterprise_install": False}
        if token.role == "user":
            return Reply.json(answer | {"user": account.name, "user_id": account.id})
        bot = account.place.id.replace("T", "U") + "B"
        return Reply.json(
            answer | {"user": "interlink", "user_id": bot, "bot_id": account.place.id.replace("T", "B")}
        )

    def auth_revoke(self, request: HostRequest) -> Reply:
        """The token ends, and its refresh token with it; other tokens of the installation stay."""
        token = self._named(request)
        if isinstance(token, str):
            return _error(token)
        token.live = False
        for other in self._tokens.values():
            if token in other.mates:
                other.live = False
        self.revocations += 1
        return Reply.json({"ok": True, "revoked": True})


def _error(error: str) -> Reply:
    return Reply.json({"ok": False, "error": error})

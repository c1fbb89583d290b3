"""OAuth v2 of the strict Slack: a person allows an app in its workspace at once, without a page.

https://docs.slack.dev/authentication/installing-with-oauth and /reference/methods/oauth.v2.access
"""

import base64
import secrets
from urllib.parse import urlencode

from tests.support.fakes.slack_api import SlackApi
from tests.support.fakes.slack_state import App
from tests.support.provider_hosts import Handler, HostRequest, Reply
from tests.support.recorded_secrets import record_secret

_BAD = {"ok": False, "error": "invalid_code"}


class SlackOAuth:
    """The authorization of one app. `hosts` are those of the Slack with it; `client_secret` is the app's.

    The scopes of the app are those that the last authorization asked for. After a token was revoked, the next
    authorization gives another one.
    """

    def __init__(self, slack: SlackApi, app: App, redirect_uri: str) -> None:
        self.client_id = f"{app.id}.client"
        self.client_secret = secrets.token_hex(16)
        record_secret("the client secret of a Slack app", self.client_secret)
        self._app = app
        self._team = slack.workspaces[app.team]
        self._redirect_uri = redirect_uri
        self._codes: dict[str, set[str]] = {}
        self._api = slack.hosts["slack.com"]
        self.hosts: dict[str, Handler] = {**slack.hosts, "slack.com": self._handle}

    def _handle(self, request: HostRequest) -> Reply:
        if request.path == "/oauth/v2/authorize":
            return self._authorize(request.params())
        if request.path == "/api/oauth.v2.access":
            return self._exchange(request)
        return self._api(request)

    def _authorize(self, query: dict[str, str]) -> Reply:
        assert query["client_id"] == self.client_id, f"client_id is {query['client_id']}"
        assert query["redirect_uri"] == self._redirect_uri, f"redirect_uri is {query['redirect_uri']}"
        code = secrets.token_urlsafe(16)
        self._codes[code] = set(query["scope"].split(","))
        back = urlencode({"code": code, "state": query["state"]})
        return Reply.redirect(f"{self._redirect_uri}?{back}")

    def _exchange(self, request: HostRequest) -> Reply:
        form, app = request.form(), self._app
        login = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {login}":
            return Reply.json({"ok": False, "error": "bad_client_secret"})
        scopes = self._codes.pop(form.get("code", ""), None)
        if scopes is None or form.get("redirect_uri") != self._redirect_uri:
            return Reply.json(_BAD)
        if not app.live:
            app.token, app.live = f"xoxb-{secrets.token_hex(24)}", True
            record_secret("a token of a Slack app", app.token)
        app.scopes = scopes
        return Reply.json(
            {
                "ok": True,
                "access_token": app.token,
                "token_type": "bot",
                "scope": ",".join(sorted(scopes)),
                "app_id": app.id,
                "bot_user_id": app.user_id,
                "team": {"id": self._team.id, "name": self._team.name},
                "enterprise": None,
                "is_enterprise_install": False,
                "authed_user": {"id": app.user_id},
            }
        )

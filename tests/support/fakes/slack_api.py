"""A strict Slack: its Web API, files and events, for several workspaces with several apps each.

    slack = SlackApi()
    team = slack.workspace("Example")
    app = team.add_app("Interlink", "chat:write channels:history", events_url="http://127.0.0.1:8000/...")
    with ProviderHosts(slack.hosts) as hosts: ...

Facts are from https://docs.slack.dev/reference/methods; what is from memory says so. What Slack would let
pass and a client must not do is refused, and stands in `complaints`, a line each.
"""

import copy
from dataclasses import replace
from time import monotonic
from typing import Any, Final
from zlib import crc32

from tests.support.fakes import slack_chat, slack_files, slack_lists
from tests.support.fakes.slack_calls import METHODS, Call, Method
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_events import Events
from tests.support.fakes.slack_faults import Faults, limited
from tests.support.fakes.slack_people import Visible, visible
from tests.support.fakes.slack_state import App, Channel, SlackError
from tests.support.provider_hosts import FORM, JSON, Handler, HostRequest, Reply

REGISTERED: Final = (slack_chat, slack_files, slack_lists)
"""The modules that fill the table of methods."""
_NAMES: Final = """
+1 -1 100 clap cry eyes fire grinning heart heart_eyes heavy_check_mark hugging_face innocent joy laughing
muscle no_entry ok_hand open_mouth partying_face pray question raised_hands rocket sob slightly_smiling_face
smile sunglasses tada thinking_face thumbsdown thumbsup wave white_check_mark wink x rage star sparkles
warning exclamation point_up point_down point_left point_right coffee bug rainbow sunny snowflake zap moneybag
bulb lock key pencil2 memo calendar email phone rose one two three four five six seven eight nine keycap_ten
flag-de us gb
"""
EMOJI: Final = frozenset(_NAMES.split())
"""Some of Slack's names of emoji; a test may give others in `emoji_names`."""


class SlackApi:
    """Slack. `hosts` are for ProviderHosts; `calls` are the methods and arguments that it was asked."""

    def __init__(self) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self.complaints: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.times: list[tuple[str, float]] = []
        """When the methods were called, by the monotonic clock."""
        self.faults = Faults()
        self.events = Events()
        self.emoji_names = EMOJI
        self.hosts: dict[str, Handler] = {"slack.com": self._api, "files.slack.com": self._files}
        self.hosts["avatars.slack-edge.com"] = _picture

    def workspace(self, name: str = "Example") -> Workspace:
        """Return the workspace of this name; one that is not there yet is made."""
        for team in self.workspaces.values():
            if team.name == name:
                return team
        team = Workspace(len(self.workspaces) + 1, name, self.events)
        self.workspaces[team.id] = team
        return team

    def visible(self, channel: Channel) -> list[Visible]:
        """Return the messages of a channel and its threads as people see them, oldest first."""
        team = next(one for one in self.workspaces.values() if one.channels.get(channel.id) is channel)
        return visible(team, channel)

    def called(self, method: str) -> list[dict[str, Any]]:
        """Return the arguments of every call of a method."""
        return [args for name, args in list(self.calls) if name == method]

    def close(self) -> None:
        """Send no events any more."""
        self.events.close()

    def _api(self, request: HostRequest) -> Reply:
        name = request.path.removeprefix("/api/")
        if name == request.path or request.method not in {"GET", "POST"}:
            return Reply.html("<!doctype html><title>Slack</title>Not found", 404)
        early = self.faults.before(name)
        if early is not None:
            return early
        reply = self._answered(name, request)
        if self.events.before_response:
            self.events.before_response -= 1
            self.events.settle()
        return self.faults.after(name, reply)

    def _answered(self, name: str, request: HostRequest) -> Reply:
        method = METHODS.get(name)
        if method is None:
            self._complain(f"there is no method {name}")
            return Reply.json({"ok": False, "error": "unknown_method", "req_method": name})
        try:
            args = self._args(name, method, request)
            self.times.append((name, monotonic()))
            self.calls.append((name, {key: value for key, value in args.items() if key != "token"}))
            app = self._app(self._token(request, args))
            answer = self._run(name, method, app, args)
        except SlackError as error:
            if error.code == "ratelimited":
                return limited(error.more["retry_after_s"])
            return Reply.json({"ok": False, "error": error.code} | error.more)
        scopes = {"x-oauth-scopes": ",".join(sorted(app.scopes))}
        if method.scopes:
            scopes["x-accepted-oauth-scopes"] = ",".join(method.scopes)
        reply = Reply.json({"ok": True} | answer)
        return replace(reply, headers=[*reply.fields, *scopes.items()])

    def _run(self, name: str, method: Method, app: App, args: dict[str, Any]) -> dict[str, Any]:
        team = self.workspaces[app.team]
        call = Call(team, app, args, self.faults, self._complain, self.emoji_names)
        with team.lock:
            if method.scopes:
                call.need(*method.scopes)
            unknown = sorted(set(args) - method.names)
            if unknown:
                self._complain(f"{name} has no argument {', '.join(unknown)}")
                raise _wrong(f"unknown argument: {', '.join(unknown)}")
            missing = sorted(one for one in method.needs if args.get(one) in {None, ""})
            if missing:
                raise _wrong(f"missing required field: {', '.join(missing)}")
            return copy.deepcopy(method.run(call))

    def _args(self, name: str, method: Method, request: HostRequest) -> dict[str, Any]:
        args: dict[str, Any] = dict(request.params())
        if request.method == "GET" or not request.body:
            return args
        if request.media_type == FORM:
            return args | request.form()
        if request.media_type != JSON:
            raise SlackError("invalid_post_type")
        if method.reads:
            self._complain(f"{name} reads no JSON, only a form")
            return args
        try:
            body = request.json()
        except ValueError:
            raise SlackError("invalid_json") from None
        if not isinstance(body, dict):
            raise SlackError("json_not_object")
        return args | body

    def _token(self, request: HostRequest, args: dict[str, Any]) -> str:
        token = args.get("token") or _bearer(request)
        if not token:
            raise SlackError("not_authed")
        return str(token)

    def _app(self, token: str) -> App:
        app = self._known(token)
        if app is None:
            raise SlackError("invalid_auth")
        if not app.live:
            raise SlackError("token_revoked")
        return app

    def _known(self, token: str) -> App | None:
        apps = (app for team in list(self.workspaces.values()) for app in list(team.apps.values()))
        return next((app for app in apps if app.token == token), None)

    def _files(self, request: HostRequest) -> Reply:
        upload = request.method == "POST" and request.path.startswith(slack_files.UPLOAD)
        name = "upload" if upload else "download"
        early = self.faults.before(name)
        if early is not None:
            return early
        teams = list(self.workspaces.values())
        if upload:
            reply = slack_files.upload(teams, request)
        else:
            assert request.method == "GET", f"files.slack.com has no {request.method} {request.path}"
            reply = slack_files.download(teams, request, self._known(_bearer(request)))
        return self.faults.after(name, reply)

    def _complain(self, what: str) -> None:
        self.complaints.append(what)


def _picture(request: HostRequest) -> Reply:
    """The picture of a person: one color, which the address decides."""
    color = f"hsl({crc32(request.path.encode()) % 360} 60% 60%)"
    drawn = f'<svg xmlns="http://www.w3.org/2000/svg"><rect width="100%" height="100%" fill="{color}"/></svg>'
    return Reply(200, drawn.encode(), {"content-type": "image/svg+xml"})


def _bearer(request: HostRequest) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ").strip()


def _wrong(what: str) -> SlackError:
    return SlackError("invalid_arguments", response_metadata={"messages": [f"[ERROR] {what}"]})

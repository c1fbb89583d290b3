"""The methods that look things up: conversations, people, groups, emoji, the workspace and its bots.

And `auth.revoke`, after which a bot is in no channel any more.
"""

from tests.support.fakes.slack_calls import Call, method
from tests.support.fakes.slack_state import (
    HISTORY_SCOPE,
    LIST_TYPE,
    READ_SCOPE,
    Channel,
    Json,
    SlackError,
    User,
)

_READS = "channels:read groups:read im:read mpim:read"
_HISTORIES = "channels:history groups:history im:history mpim:history"


@method("auth.test")
def _auth_test(call: Call) -> Json:
    team, app = call.workspace, call.app
    found = {"url": f"https://{team.domain}.slack.com/", "team": team.name, "team_id": team.id}
    bot = team.users[app.user_id]
    return found | {"user": bot.name, "user_id": bot.id, "bot_id": app.bot_id, "is_enterprise_install": False}


@method("auth.revoke", "", "", "test")
def _revoke(call: Call) -> Json:
    if call.flag("test"):
        return {"revoked": False}
    for channel in call.workspace.channels.values():
        if call.app.user_id in channel.members:
            call.workspace.remove(channel, call.app.user_id)
    call.app.revoke()
    return {"revoked": True}


@method("conversations.list", _READS, "", "types exclude_archived limit cursor team_id", reads=True)
def _list(call: Call) -> Json:
    kinds = {shown: kind for kind, shown in LIST_TYPE.items()}
    types = (call.text("types") or "public_channel").replace(" ", "").split(",")
    if not set(types) <= set(kinds):
        raise SlackError("invalid_types")
    for one in types:
        call.need(READ_SCOPE[kinds[one]])
    asked, bot = {kinds[one] for one in types}, call.app.user_id
    found = [
        channel.shown(bot)
        for channel in call.workspace.channels.values()
        if channel.kind in asked
        and (channel.kind == "channel" or bot in channel.members)
        and not (channel.archived and call.flag("exclude_archived"))
    ]
    return call.page(found, "channels")


@method("conversations.info", _READS, "channel", "include_locale include_num_members", reads=True)
def _info(call: Call) -> Json:
    channel = call.workspace.readable(call.text("channel"), call.app.user_id)
    call.need(READ_SCOPE[channel.kind])
    return {"channel": channel.shown(call.app.user_id)}


@method("conversations.members", _READS, "channel", "limit cursor", reads=True)
def _members(call: Call) -> Json:
    channel = call.workspace.readable(call.text("channel"), call.app.user_id)
    call.need(READ_SCOPE[channel.kind])
    return call.page(channel.members, "members")


@method(
    "conversations.history",
    _HISTORIES,
    "channel",
    "cursor latest oldest inclusive limit include_all_metadata",
    reads=True,
)
def _history(call: Call) -> Json:
    channel = _read(call, "history")
    found = [
        one
        for one in channel.messages.values()
        if one.get("thread_ts", one["ts"]) == one["ts"] or one.get("subtype") == "thread_broadcast"
    ]
    return _messages(call, sorted(found, key=lambda one: one["ts"], reverse=True))


@method(
    "conversations.replies",
    _HISTORIES,
    "channel ts",
    "cursor latest oldest inclusive limit include_all_metadata",
    reads=True,
)
def _replies(call: Call) -> Json:
    channel, ts = _read(call, "replies"), call.text("ts")
    if ts not in channel.messages:
        raise SlackError("thread_not_found")
    root = channel.messages[ts].get("thread_ts", ts)
    found = [one for one in channel.messages.values() if root in (one["ts"], one.get("thread_ts"))]
    return _messages(call, sorted(found, key=lambda one: one["ts"]))


def _read(call: Call, method: str) -> Channel:
    if wait_s := call.faults.wait_for_history(call.app.id, method):
        raise SlackError("ratelimited", retry_after_s=wait_s)
    channel = call.workspace.joined(call.text("channel"), call.app.user_id)
    call.need(HISTORY_SCOPE[channel.kind])
    return channel


def _messages(call: Call, found: list[Json]) -> Json:
    bounds = {}
    for name, default in (("oldest", "0"), ("latest", "9999999999.999999")):
        text = call.text(name) or default
        if not text.replace(".", "", 1).isdecimal():
            raise SlackError(f"invalid_ts_{name}")
        bounds[name] = tuple(int(part.ljust(6, "0")) if i else int(part) for i, part in _parts(text))
    oldest, latest = bounds["oldest"], bounds["latest"]
    inclusive = call.flag("inclusive")

    def inside(ts: tuple[int, ...]) -> bool:
        return oldest <= ts <= latest if inclusive else oldest < ts < latest

    hidden = () if call.flag("include_all_metadata") else ("metadata",)
    shown = [
        {name: value for name, value in one.items() if name not in hidden}
        for one in found
        if inside(tuple(int(part) for part in one["ts"].split(".")))
    ]
    answer = call.page(shown, "messages", limit=999, cap=call.faults.history_limit.page)
    return answer | {"has_more": bool(answer["response_metadata"]["next_cursor"])}


def _parts(text: str) -> list[tuple[int, str]]:
    whole, _, micros = text.partition(".")
    return [(0, whole or "0"), (1, micros or "0")]


@method("conversations.join", "channels:join", "channel")
def _join(call: Call) -> Json:
    channel = call.workspace.readable(call.text("channel"), call.app.user_id)
    if channel.kind != "channel":
        raise SlackError("method_not_supported_for_channel_type")
    if channel.archived:
        raise SlackError("is_archived")
    call.workspace.join(channel, call.app.user_id)
    return {"channel": channel.shown(call.app.user_id)}


@method("conversations.open", "im:write mpim:write", "", "users channel return_im prevent_creation")
def _open(call: Call) -> Json:
    users = [one for one in call.text("users").split(",") if one]
    if not users:
        raise SlackError("users_list_not_supplied")
    if any(one not in call.workspace.users for one in users):
        raise SlackError("user_not_found")
    if len(users) > 8:
        raise SlackError("too_many_users")
    call.need("im:write" if len(users) == 1 else "mpim:write")
    channel, there = call.workspace.direct(sorted({*users, call.app.user_id}))
    shown = channel.shown(call.app.user_id) if call.flag("return_im") else {"id": channel.id}
    return {"channel": shown} | ({"no_op": True, "already_open": True} if there else {})


@method("users.list", "users:read", "", "cursor limit include_locale team_id", reads=True)
def _users(call: Call) -> Json:
    return call.page([_shown(call, one) for one in call.workspace.users.values()], "members")


@method("users.info", "users:read", "user", "include_locale", reads=True)
def _user(call: Call) -> Json:
    return {"user": _shown(call, _found(call))}


@method("users.lookupByEmail", "users:read.email", "email", reads=True)
def _by_email(call: Call) -> Json:
    for user in call.workspace.users.values():
        if user.email == call.text("email") and not user.is_bot and not user.deleted:
            return {"user": user.shown()}
    raise SlackError("users_not_found")


@method("users.profile.get", "users.profile:read", "", "user include_labels", reads=True)
def _profile(call: Call) -> Json:
    user = _found(call) if call.text("user") else call.workspace.users[call.app.user_id]
    return {"profile": user.profile(with_email=_sees_email(call))}


def _found(call: Call) -> User:
    user = call.workspace.users.get(call.text("user"))
    if user is None:
        raise SlackError("user_not_found")
    return user


def _shown(call: Call, user: User) -> Json:
    return user.shown(with_email=_sees_email(call))


def _sees_email(call: Call) -> bool:
    return "users:read.email" in call.app.scopes


@method(
    "usergroups.list",
    "usergroups:read",
    "",
    "include_count include_disabled include_users team_id",
    reads=True,
)
def _groups(call: Call) -> Json:
    return {"usergroups": list(call.workspace.groups.values())}


@method("emoji.list", "emoji:read", "", "include_categories", reads=True)
def _emoji(call: Call) -> Json:
    return {"emoji": dict(call.workspace.emoji), "cache_ts": call.workspace.ts()}


@method("team.info", "team:read", "", "team domain", reads=True)
def _team(call: Call) -> Json:
    team = call.workspace
    if call.text("team") not in {"", team.id}:
        raise SlackError("team_not_found")
    icon: Json = {"image_132": f"https://avatars.slack-edge.com/{team.id}_132.png"}
    return {"team": {"id": team.id, "name": team.name, "domain": team.domain, "icon": icon}}


@method("bots.info", "users:read", "", "bot team_id", reads=True)
def _bot(call: Call) -> Json:
    asked = call.text("bot") or call.app.bot_id
    for app in call.workspace.apps.values():
        if app.bot_id == asked:
            profile = app.bot_profile()
            names = ("id", "app_id", "user_id", "name", "deleted", "icons")
            return {"bot": {name: profile[name] for name in names}}
    raise SlackError("bot_not_found")

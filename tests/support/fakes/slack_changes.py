"""Changes of a Slack workspace, whoever makes them, and the events that they cause.

What exactly the messages of files, tombstones and edits by bots look like is from memory.
"""

import copy
import secrets
import time
import uuid
from collections.abc import Sequence
from typing import Any

from tests.support.fakes.slack_events import Events
from tests.support.fakes.slack_people import Person
from tests.support.fakes.slack_state import App, Channel, ChannelKind, File, Json, SlackError, Team


class Workspace(Team):
    """One workspace: its state, the acts of its people (`person`), and what its administrators do."""

    def __init__(self, number: int, name: str, events: Events) -> None:
        super().__init__(number, name)
        self._events = events

    # People, apps and channels.

    def person(self, real_name: str, name: str = "", email: str = "") -> Person:
        """Return somebody by the real name; who is not there yet is added."""
        with self.lock:
            for user in self.users.values():
                if user.real_name == real_name and not user.is_bot:
                    return Person(self, user)
            return Person(self, self.add_user(real_name, name, email))

    def add_channel(self, name: str, kind: ChannelKind = "channel", *members: Person | App) -> Channel:
        """Make a channel with these people and apps in it; no event says so."""
        with self.lock:
            ids = [one.user_id for one in members]
            channel = Channel(self.number("C" if kind in {"channel", "group"} else "D"), name, kind, ids)
            self.channels[channel.id] = channel
            return channel

    def join(self, channel: Channel, user_id: str, inviter: str | None = None) -> None:
        """Add a user to a channel."""
        with self.lock:
            if user_id in channel.members:
                return
            channel.members.append(user_id)
            invited = {"inviter": inviter} if inviter else {}
            letter = "C" if channel.kind == "channel" else "G"
            event = {"type": "member_joined_channel", "user": user_id, "channel": channel.id}
            self.emit(event | {"channel_type": letter, "team": self.id} | invited, channel)

    def remove(self, channel: Channel, user_id: str) -> None:
        """Take a user, or an app's bot, out of a channel."""
        with self.lock:
            event = {"type": "member_left_channel", "user": user_id, "channel": channel.id}
            self.emit(event | {"channel_type": "C", "team": self.id}, channel)
            channel.members.remove(user_id)

    def archive(self, channel: Channel, user_id: str) -> None:
        """Archive a channel."""
        with self.lock:
            channel.archived = True
            self.emit({"type": "channel_archive", "channel": channel.id, "user": user_id}, channel)

    def rename(self, channel: Channel, name: str) -> None:
        """Give a channel another name."""
        with self.lock:
            channel.name = name
            shown = {"id": channel.id, "name": name, "name_normalized": name, "created": 1795000000}
            shown |= {"is_channel": channel.kind == "channel", "is_mpim": channel.kind == "mpim"}
            self.emit({"type": "channel_rename", "channel": shown}, channel)

    # Messages.

    def post(self, channel: Channel, message: Json, *, broadcast: bool = False) -> Json:
        """Put a message into a channel, give it its ts, and say so."""
        with self.lock:
            made: Json = {"type": "message", "ts": self.ts(), "team": self.id} | copy.deepcopy(message)
            for index, block in enumerate(made.get("blocks", [])):
                block.setdefault("block_id", f"{secrets.token_hex(2)}{index}")
            root = channel.messages.get(made.get("thread_ts", ""))
            if root is not None:
                root["thread_ts"] = root["ts"]
                made["parent_user_id"] = root.get("user", "")
                root["reply_count"] = root.get("reply_count", 0) + 1
                root["latest_reply"] = made["ts"]
            if broadcast and root is not None:
                made["subtype"] = "thread_broadcast"
                made["root"] = {key: root[key] for key in ("user", "type", "ts", "text") if key in root}
            channel.messages[made["ts"]] = made
            for file in made.get("files", []):
                self.files[file["id"]].shares.setdefault(channel.id, []).append(made["ts"])
            self._say(channel, copy.deepcopy(made), made["ts"])
            return made

    def edit(self, channel: Channel, ts: str, editor: str, changes: Json) -> Json:
        """Change a message; the edit is seen as one of the editor's."""
        with self.lock:
            at = self.ts()
            return self._change(channel, ts, changes | {"edited": {"user": editor, "ts": at}}, at)

    def preview(self, channel: Channel, ts: str, url: str, title: str) -> Json:
        """Slack adds the preview of a link, which is no edit of the author's."""
        shown = {"id": 1, "from_url": url, "original_url": url, "title": title, "fallback": title}
        with self.lock:
            return self._change(channel, ts, {"attachments": [shown]}, self.ts())

    def delete(self, channel: Channel, ts: str) -> None:
        """Take a message away; one with replies leaves a tombstone."""
        with self.lock:
            message = channel.messages[ts]
            if message.get("reply_count"):
                fields = ("type", "ts", "team", "thread_ts", "reply_count", "latest_reply")
                tombstone = {name: message[name] for name in fields if name in message}
                tombstone |= {"subtype": "tombstone", "user": "USLACKBOT", "hidden": True}
                channel.messages[ts] = tombstone | {"text": "This message was deleted."}
                self._changed(channel, message, self.ts())
                return
            del channel.messages[ts]
            root = channel.messages.get(message.get("thread_ts", ""))
            if root is not None:
                root["reply_count"] -= 1
            at = self.ts()
            event = {"type": "message", "subtype": "message_deleted", "hidden": True, "deleted_ts": ts}
            self._say(channel, event | {"ts": at, "previous_message": message}, at)

    def react(self, channel: Channel, ts: str, user_id: str, name: str, *, added: bool) -> None:
        """Add or take away a reaction; `already_reacted`, `no_reaction`, `too_many_emoji`."""
        with self.lock:
            message = channel.messages.get(ts)
            if message is None or message.get("subtype") == "tombstone":
                raise SlackError("message_not_found")
            reactions: list[Json] = message.setdefault("reactions", [])
            found = next((one for one in reactions if one["name"] == name), None)
            there = found is not None and user_id in found["users"]
            if there == added:
                raise SlackError("already_reacted" if added else "no_reaction")
            if found is None:
                _check_reactions(reactions, user_id)
                found = {"name": name, "users": [], "count": 0}
                reactions.append(found)
            (found["users"].append if added else found["users"].remove)(user_id)
            found["count"] = len(found["users"])
            message["reactions"] = [one for one in reactions if one["count"]]
            event = {"type": "reaction_added" if added else "reaction_removed", "user": user_id}
            item = {"type": "message", "channel": channel.id, "ts": ts}
            author = {"item_user": message["user"]} if "user" in message else {}
            self.emit(event | {"reaction": name, "item": item} | author, channel)

    def delete_file(self, file: File) -> None:
        """Take a file away; messages with it have a tombstone in its place."""
        with self.lock:
            file.deleted = True
            for channel_id, places in file.shares.items():
                channel = self.channels[channel_id]
                for ts in [ts for ts in places if ts in channel.messages]:
                    files = [self.files[one["id"]].in_message() for one in channel.messages[ts]["files"]]
                    self._change(channel, ts, {"files": files}, self.ts())

    def emit(self, event: Json, channel: Channel | None = None) -> None:
        """Send an event to the apps that see it: those in the channel, or all."""
        event.setdefault("event_ts", self.ts())
        for app in self.apps.values():
            if app.live and (channel is None or app.user_id in channel.members):
                shared = channel is not None and channel.shared
                self._events.emit(app, copy.deepcopy(event), shared=shared)

    def _change(self, channel: Channel, ts: str, changes: Json, at: str) -> Json:
        previous = copy.deepcopy(channel.messages[ts])
        message = channel.messages[ts]
        message.update(copy.deepcopy(changes))
        for index, block in enumerate(message.get("blocks", [])):
            block.setdefault("block_id", f"{secrets.token_hex(2)}{index}")
        self._changed(channel, previous, at)
        return message

    def _changed(self, channel: Channel, previous: Json, at: str) -> None:
        event: Json = {"type": "message", "subtype": "message_changed", "hidden": True, "ts": at}
        message = copy.deepcopy(channel.messages[previous["ts"]])
        self._say(channel, event | {"message": message, "previous_message": previous}, at)

    def _say(self, channel: Channel, event: Json, at: str) -> None:
        where = {"channel": channel.id, "channel_type": channel.kind, "event_ts": at}
        self.emit(event | where, channel)


def _check_reactions(reactions: Sequence[Json], user_id: str) -> None:
    if len(reactions) >= 50:
        raise SlackError("too_many_emoji")
    if sum(user_id in one["users"] for one in reactions) >= 23:
        raise SlackError("too_many_reactions")


def client_fields() -> dict[str, Any]:
    """Return what only messages that people wrote in a client have."""
    return {"client_msg_id": str(uuid.uuid4())}


def too_old(ts: str, window_s: float | None) -> bool:
    """Return whether a message cannot be edited any more."""
    return window_s is not None and time.time() - float(ts) > window_s

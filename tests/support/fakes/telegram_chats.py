"""The methods of the Bot API about the bot itself, its webhook, chats, members and files."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from tests.support.fakes.telegram_model import PRESENT, Chat, Member, Refusal
from tests.support.fakes.telegram_params import Params
from tests.support.fakes.telegram_people import Bot, People
from tests.support.fakes.telegram_webhook import KINDS

MAX_DOWNLOAD: Final = 20 * 1024 * 1024
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_PORTS: Final = frozenset({None, 443, 80, 88, 8443})

Method = Callable[[Bot, Params], Any]


def find_chat(people: People, bot: Bot, params: Params) -> Chat:
    """The chat of a call, in which the bot is; Refusal."""
    wanted = params.text("chat_id")
    if not wanted:
        raise Refusal.bad("chat_id is empty")
    found = [
        chat
        for chat in people.chats.values()
        if str(chat.id) == wanted or (chat.username and f"@{chat.username}" == wanted)
    ]
    member = found[0].members.get(bot.user.id) if found else None
    if member is None:
        raise Refusal.bad("chat not found")
    chat = found[0]
    if chat.migrated_to is not None:
        raise Refusal(
            400,
            "Bad Request: group chat was upgraded to a supergroup chat",
            {"migrate_to_chat_id": chat.migrated_to.id},
        )
    if member.status not in PRESENT:
        if chat.type == "private":
            raise Refusal(403, "Forbidden: bot was blocked by the user")
        verb = "was kicked from" if member.status == "kicked" else "is not a member of"
        raise Refusal(403, f"Forbidden: bot {verb} the {chat.type} chat")
    return chat


class ChatMethods:
    """Those methods; `table` has each with the names of its parameters."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.max_download = MAX_DOWNLOAD

    @property
    def table(self) -> Mapping[str, tuple[Method, str]]:
        """Methods by name in lower case."""
        webhook = (
            "url certificate ip_address max_connections allowed_updates drop_pending_updates secret_token"
        )
        return {
            "getme": (self.get_me, ""),
            "setwebhook": (self.set_webhook, webhook),
            "deletewebhook": (self.delete_webhook, "drop_pending_updates"),
            "getwebhookinfo": (self.webhook_info, ""),
            "getupdates": (self.get_updates, "offset limit timeout allowed_updates"),
            "getchat": (self.get_chat, "chat_id"),
            "getchatmember": (self.get_member, "chat_id user_id"),
            "getchatadministrators": (self.get_administrators, "chat_id"),
            "getchatmembercount": (self.count_members, "chat_id"),
            "sendchataction": (self.send_action, "chat_id action message_thread_id"),
            "getfile": (self.get_file, "file_id"),
        }

    def get_me(self, bot: Bot, _params: Params) -> Any:
        """The bot itself."""
        reads = {"can_join_groups": True, "can_read_all_group_messages": not bot.privacy}
        return bot.user.document() | reads | {"supports_inline_queries": False}

    def set_webhook(self, bot: Bot, params: Params) -> Any:
        """Send updates to an address; an empty one ends it."""
        url, secret = params.text("url"), params.text("secret_token")
        parts = urlsplit(url)
        if url and (parts.scheme != "https" or not parts.hostname):
            raise Refusal.bad("bad webhook: An HTTPS URL must be provided for webhook")
        if url and parts.port not in _PORTS:
            raise Refusal.bad("bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443")
        if secret and not _SECRET.fullmatch(secret):
            raise Refusal.bad("secret token contains unallowed characters")
        connections = params.integer("max_connections")
        if connections is not None and not 1 <= connections <= 100:
            self.people.complaints.append(f"max_connections is {connections}")
        self._allow(bot, params)
        bot.updates.max_connections = connections or 40
        bot.updates.set(url, secret, drop=params.flag("drop_pending_updates"))
        return True

    def delete_webhook(self, bot: Bot, params: Params) -> Any:
        """Send updates nowhere."""
        bot.updates.set("", "", drop=params.flag("drop_pending_updates"))
        return True

    def webhook_info(self, bot: Bot, _params: Params) -> Any:
        """Where updates are sent, and how that goes."""
        updates = bot.updates
        shown: dict[str, Any] = {
            "url": updates.url,
            "has_custom_certificate": False,
            "pending_update_count": len(updates.pending),
            "max_connections": updates.max_connections,
        }
        if updates.allowed:
            shown["allowed_updates"] = list(updates.allowed)
        if updates.last_error:
            shown |= {"last_error_date": 1, "last_error_message": updates.last_error}
        return shown

    def get_updates(self, bot: Bot, params: Params) -> Any:
        """The updates that wait; never while a webhook is set."""
        if bot.updates.url:
            raise Refusal(
                409,
                "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete "
                "the webhook first",
            )
        self._allow(bot, params)
        return bot.updates.take(params.integer("offset"), params.integer("limit") or 100)

    def get_chat(self, bot: Bot, params: Params) -> Any:
        """A chat in full."""
        chat = find_chat(self.people, bot, params)
        gifts = dict.fromkeys(
            (
                "unlimited_gifts",
                "limited_gifts",
                "unique_gifts",
                "premium_subscription",
                "gifts_from_channels",
            ),
            False,
        )
        full = {"accent_color_id": 0, "max_reaction_count": 11, "accepted_gift_types": gifts}
        return chat.document() | full

    def get_member(self, bot: Bot, params: Params) -> Any:
        """A user of a chat; one who never was there has left."""
        chat = find_chat(self.people, bot, params)
        user = self.people.users.get(params.integer("user_id") or 0)
        if user is None:
            raise Refusal.bad("invalid user_id specified")
        return (chat.members.get(user.id) or Member(user, "left")).document()

    def get_administrators(self, bot: Bot, params: Params) -> Any:
        """The administrators who are no other bots."""
        chat = find_chat(self.people, bot, params)
        if chat.type == "private":
            raise Refusal.bad("there are no administrators in the private chat")
        return [
            member.document()
            for member in chat.members.values()
            if chat.is_administrator(member.user) and (not member.user.is_bot or member.user is bot.user)
        ]

    def count_members(self, bot: Bot, params: Params) -> Any:
        """How many are there."""
        chat = find_chat(self.people, bot, params)
        return sum(chat.is_present(member.user) for member in chat.members.values())

    def send_action(self, bot: Bot, params: Params) -> Any:
        """Show that the bot types."""
        find_chat(self.people, bot, params)
        return True

    def get_file(self, _bot: Bot, params: Params) -> Any:
        """Where a file is downloaded."""
        file = self.people.files.get(params.text("file_id"))
        if file is None:
            raise Refusal.bad("wrong file_id or the file is temporarily unavailable")
        if len(file.content) > self.max_download:
            raise Refusal.bad("file is too big")
        shown = {"file_id": file.id, "file_unique_id": f"u{file.id}", "file_size": len(file.content)}
        return {**shown, "file_path": file.path}

    def downloaded(self, path: str) -> bytes:
        """The content of a file; Refusal."""
        found = [file.content for file in self.people.files.values() if file.path == path]
        if not found or len(found[0]) > self.max_download:
            raise Refusal(404, "Not Found")
        return found[0]

    def _allow(self, bot: Bot, params: Params) -> None:
        if "allowed_updates" not in params.values:
            return
        allowed = params.list("allowed_updates")
        self.people.complaints.extend(f"there is no update {kind!r}" for kind in allowed if kind not in KINDS)
        bot.updates.allowed = allowed

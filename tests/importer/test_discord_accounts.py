"""A connected server of Discord becomes history of the chat: the same as by an export of it."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.importer.archives import zipped
from tests.importer.discord_rendering import exported
from tests.importer.history_chat import HistoryChat
from tests.importer.test_imports import imported as imported_export
from tests.support.backends import Bus, Store
from tests.support.discord_setting import START, Setting, setting
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.provider_hosts import ProviderHosts

_SERVICES: Final = ("oauth", "importer")
_MODULE: Final = "tests.support.provider_hosts"
_UNSEEN: Final = frozenset({"hidden", "now", "others"})


@dataclass
class DiscordAccount:
    """The hub, a server of Discord, and the chat that gets the history."""

    hub: Hub
    at: Setting
    chat: HistoryChat
    integration: str

    def begin(self, **plan: Any) -> dict[str, Any]:
        """Begin an import, and wait until it is ready."""
        path = f"/api/integrations/{self.integration}/import"
        created = self.hub.call("POST", path, {"plan": plan}, expect=201)
        return self.reached(created["id"], "ready")

    def reached(self, import_id: str, *states: str) -> dict[str, Any]:
        """Wait until an import has one of these states."""

        def read() -> dict[str, Any] | None:
            found = self.hub.call("GET", f"/api/imports/{import_id}")
            return found if found["status"] in states else None

        try:
            result = eventually(read, within_s=120)
        except AssertionError:
            now = self.hub.call("GET", f"/api/imports/{import_id}")
            raise AssertionError(f"{now}\n{self.hub.log_tail('importer')}") from None
        assert result is not None
        return dict(result)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[DiscordAccount]:
    folder: Path = tmp_path_factory.mktemp("discord")
    env = {
        "INTERLINK_UPLOAD_FOLDER": str(folder / "uploads"),
        "INTERLINK_PUBLIC_URL": "https://hub.example.com",
    }
    hub = Hub(folder, bus, store, services=_SERVICES, env=env, workspace=f"w-{token_hex(4)}", entrance=True)
    at = setting(posts=8, liked=12)
    with ExitStack() as stack:
        hosts = stack.enter_context(ProviderHosts(at.discord.hosts))
        stack.callback(hub.stop)
        hub.init(hub.workspace)
        chat = stack.enter_context(HistoryChat(bus.env["KAFKA_BOOTSTRAP_SERVERS"], hub.workspace))
        for service in _SERVICES:
            hub.start_service(service, module=(_MODULE, service), **hosts.env(hub.folder))
            hub.wait_ready(service)
        fields = {"access_token": at.bot.token}
        body = {"provider": "discord", "kind": "bot_token", "fields": fields}
        integration = str(hub.call("POST", "/api/integrations", body, expect=201)["id"])
        yield DiscordAccount(hub, at, chat, integration)
        assert at.discord.complaints == []
        assert hosts.faults == []
        assert chat.errors == []


def messages_of(chat: HistoryChat) -> dict[str, Any]:
    """Return what the chat has, but for the import, and the names that only the list of members has."""
    found = {}
    for message_id, data in chat.messages.items():
        compared = {name: value for name, value in data.items() if name not in {"import_id", "attachments"}}
        compared["author"] = data["author"]["id"]
        compared["files"] = [(one["filename"], one["size"]) for one in data.get("attachments", ())]
        for reaction in data.get("reactions", ()):
            reaction["authors"] = [author["id"] for author in reaction["authors"]]
        found[message_id] = compared
    return found


def test_an_import_by_api_equals_the_import_of_an_export(account: DiscordAccount) -> None:
    at, hub, chat = account.at, account.hub, account.chat
    at.discord.limits.routes["channels/{channel}/messages"] = (10, 0.5)
    ready = account.begin()
    assert ready["contents"]["kind"] == "a Discord server"
    listed = hub.call("GET", f"/api/imports/{ready['id']}/channels", params={"limit": "100"})["items"]
    problems = {item["name"]: item["problem"] for item in listed if item["problem"]}
    assert problems.keys() == {"hidden", "now"}
    hub.call("POST", f"/api/imports/{ready['id']}/start", {})
    by_api = account.reached(ready["id"], "completed", "failed")
    assert by_api["status"] == "completed", by_api
    first = messages_of(chat)
    assert {data["origin"]["conversation_id"] for data in first.values()} >= {
        at.channels[name].id for name in ("general", "staff", "voice", "help", "heads", "old heads")
    }
    added = len(first)
    hub.call("POST", f"/api/imports/{by_api['id']}/undo", {"messages": added})
    account.reached(by_api["id"], "undone")
    assert chat.messages == {}

    unseen = {at.channels[name].id for name in _UNSEEN}
    channels = [channel for channel in at.guild.channels.values() if channel.id not in unseen]
    by_export = imported_export(hub, zipped(exported(at.guild, *channels)).getvalue())
    assert by_export["counts"]["messages"]["imported"] == added == by_api["counts"]["messages"]["imported"]
    assert messages_of(chat) == first

    # By API after the export: nothing is new but what was written since.
    at.channels["general"].say(at.ada, "written since", 1_750_000_000.0)
    again = account.begin()
    hub.call("POST", f"/api/imports/{again['id']}/start", {})
    done = account.reached(again["id"], "completed", "failed")
    assert done["added"] == 1, done
    assert done["counts"]["messages"]["duplicate"] == added


def test_expired_addresses_of_files_are_replaced_fifty_at_a_time(account: DiscordAccount) -> None:
    at, hub, discord = account.at, account.hub, account.at.discord
    channel = at.guild.add_channel("files", START)
    contents = {f"{number}.txt": f"content {number}".encode() for number in range(64)}
    made = [
        discord.attach(channel, name, data, lasts_s=-60 if number else 86_400)
        for number, (name, data) in enumerate(contents.items())
    ]
    lost = discord.attach(channel, "deleted.txt", b"deleted", lasts_s=-60)
    del discord.files[urlsplit(lost["url"]).path]
    made.append(lost)
    for number in range(0, len(made), 10):
        channel.say(at.ada, f"files {number}", START + number, attachments=made[number : number + 10])
    asked = len(discord.calls)
    ready = account.begin(channels={channel.id: {"into": "new"}}, other_channels="leave_out")
    hub.call("POST", f"/api/imports/{ready['id']}/start", {})
    done = account.reached(ready["id"], "completed", "failed")
    assert done["counts"]["files"] == {
        "found": 65, "selected": 65, "imported": 64, "bytes": sum(map(len, contents.values())),
        "failed": 1, "failures": {"file_not_found": 1},
    }  # fmt: skip
    paths = [path for path, _ in discord.calls[asked:]]
    assert paths.count("attachments/refresh-urls") == 3  # 50 and 14, and the deleted one once more
    rows = hub.call("GET", f"/api/imports/{ready['id']}/files", params={"limit": "100"})["items"]
    assert {row["name"]: row["sha256"] for row in rows} == {
        "deleted.txt": None,
        **{name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }


def test_files_wait_for_an_account_that_is_connected_again(account: DiscordAccount) -> None:
    at, hub, discord = account.at, account.hub, account.at.discord
    channel = at.guild.add_channel("later", START)
    made = discord.attach(channel, "a.txt", b"content", lasts_s=-60)
    channel.say(at.ada, "a file", START, attachments=[made])
    ready = account.begin(channels={channel.id: {"into": "new"}}, other_channels="leave_out")

    def revoke(path: str) -> None:
        if path == "attachments/refresh-urls":
            discord.bots.pop(at.bot.token, None)

    discord.before = revoke
    hub.call("POST", f"/api/imports/{ready['id']}/start", {})
    paused = account.reached(ready["id"], "paused")
    assert (paused["current_step"], "connect the account again" in paused["waiting_for"]) == ("files", True)
    discord.before = None
    discord.bots[at.bot.token] = at.bot
    fields = {"access_token": at.bot.token}
    body = {"provider": "discord", "kind": "bot_token", "fields": fields}
    hub.call("POST", "/api/integrations", body, expect=201)
    hub.call("POST", f"/api/imports/{ready['id']}/resume")
    done = account.reached(ready["id"], "completed", "failed")
    assert done["counts"]["files"]["imported"] == 1

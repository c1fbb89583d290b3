"""Files of a message on their way to a target: fetched with bounds, and deleted after the message."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from typing import Any, Self
from unittest import mock

import pytest

from services.sync.files.assembly import Files, build_files
from services.sync.files.disk import DiskFull, FileSpace
from services.sync.files.fetch import FetchedFile, FileProblem
from services.sync.files.lines import with_problems
from services.sync.settings import SyncSettings
from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.channel_accounts import ChannelAccounts, channel_account
from shared.connections.channel_calls import ChannelCalls, NotReached
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.chat import ChatAttachment
from shared.contracts.errors import Misconfigured
from shared.manifests.channel_types import ExternalFile, Outgoing, Person, Place, Sends
from shared.manifests.registry import Provider, registry
from shared.richtext.plain import render_plain
from shared.richtext.tree import Document, Paragraph, Text
from shared.runtime.egress.client import create_egress_client
from shared.runtime.service import runtime
from shared.runtime.settings import load
from tests.support.dns_server import DnsServer
from tests.support.dns_server import Reply as DnsReply
from tests.support.provider_hosts import PUBLIC as ADDRESS
from tests.support.provider_hosts import Reply
from tests.support.recorded_secrets import record_secret
from tests.sync.chat_side import FILES
from tests.sync.switch import Switch, switched
from tests.sync.three_legs import World

KIB = 1024
MIB = 1024 * KIB
LIMIT = 4 * MIB


class InternalChat:
    """The chat's own server on an internal address. `/files/...` wants the token."""

    def __init__(self) -> None:
        self.token = token_hex(16)
        record_secret("the token of the chat's files", self.token)
        self.sent = 0
        self.asked: list[tuple[str, str | None, str | None]] = []
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = self.headers
                chat.asked.append((self.path, headers["authorization"], headers["interlink-workspace"]))
                if self.path == "/files/endless":
                    self.endless()
                elif self.path.startswith("/files/to?"):
                    self.send_response(302)
                    self.send_header("location", self.path.removeprefix("/files/to?"))
                    self.send_header("content-length", "0")
                    self.end_headers()
                else:
                    self.send_response(200)
                    self.send_header("content-length", "8")
                    self.send_header("content-type", "text/plain")
                    self.end_headers()
                    self.wfile.write(b"internal")

            def endless(self) -> None:
                self.send_response(200)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                chunk = bytes(64 * KIB)
                try:
                    while chat.sent < 10 * 1024 * MIB:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                        chat.sent += len(chunk)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Stage:
    """What the stage has that carries messages, in this process."""

    world: World
    files: Files
    accounts: ChannelAccounts
    calls: ChannelCalls
    chat: InternalChat
    hostile: Switch
    folder: Path
    providers: dict[str, Provider] = field(default_factory=lambda: dict(registry().providers))

    async def fetch(
        self, *files: ChatAttachment, target: str = "telegram"
    ) -> list[FetchedFile | FileProblem]:
        workspace = self.world.hub.workspace
        async with self.files.fetcher.fetch(files, workspace, self.providers[target]) as found:
            return [Read(one) if isinstance(one, FetchedFile) else one for one in found]

    async def problem(self, file: ChatAttachment, target: str = "telegram") -> FileProblem:
        """Fetch a file beside another one: only this one fails."""
        good, bad = await self.fetch(self.public(b"good"), file, target=target)
        assert isinstance(good, Read)
        assert good.data == b"good"
        assert isinstance(bad, FileProblem)
        return bad

    def public(self, data: bytes, **fields: Any) -> ChatAttachment:
        """A file of the chat at a public address."""
        path = f"/{token_hex(8)}"
        self.world.chat.files[path] = data
        return attachment(f"https://{FILES}{path}", **fields)

    def internal(self, path: str, **fields: Any) -> ChatAttachment:
        return attachment(self.chat.origin + path, **fields)

    def left(self) -> list[Path]:
        """The files on the disk."""
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != ".lock"]

    async def send(self, place: Place, target: str, files: list[FetchedFile]) -> None:
        account = {"slack": self.world.team.id, "telegram": str(self.world.bot.user.id)}[target]
        integration = await self.accounts.find(self.world.hub.workspace, target, account)
        channel: object = self.accounts.channel(target)
        assert isinstance(channel, Sends)
        body = Document((Paragraph((Text("look"),)),))
        outgoing = [file.outgoing for file in files]
        message = Outgoing(place, body, Person("usr_1", "Ada"), token_hex(8), outgoing)
        local = {file.attachment.id: file.local for file in files}
        await self.calls.run(channel.send(message, channel_account(integration)), integration.id, files=local)


class Read(FetchedFile):
    """A fetched file, read before it was deleted."""

    def __init__(self, file: FetchedFile) -> None:
        super().__init__(file.attachment, file.path, file.filename, file.content_type, file.size)
        object.__setattr__(self, "data", file.path.read_bytes())
        assert len(self.data) == file.size

    data: bytes


def attachment(url: str, **fields: Any) -> ChatAttachment:
    return ChatAttachment.model_validate({"id": token_hex(8), "url": url, "filename": "report.txt"} | fields)


@pytest.fixture(scope="module")
def chat() -> Iterator[InternalChat]:
    with InternalChat() as made:
        yield made


@pytest.fixture(scope="module")
async def stage(
    world: World, chat: InternalChat, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    names = {name: DnsReply([ADDRESS]) for name in world.hosts._hosts if ":" not in name}
    names["inside.example"] = DnsReply(["10.0.0.7"])
    with DnsServer(names) as dns:
        env = world.hub.env | {
            "INTERLINK_ALLOW_PRIVATE_NETWORKS": "none",
            "INTERLINK_EGRESS_PROXY": world.hosts.proxy,
            "INTERLINK_EGRESS_CA_FILE": str(world.hosts.authority(folder)),
            "INTERLINK_DNS_SERVERS": f"127.0.0.1:{dns.port}",
            "INTERLINK_MAX_FILE_BYTES": str(LIMIT),
            "INTERLINK_FILE_DISK_BYTES": str(40 * MIB),
            "INTERLINK_FILE_FOLDER": str(folder / "files"),
            "INTERLINK_CHAT_FILES_URL": f"{chat.origin}/files",
            "INTERLINK_CHAT_FILES_TOKEN": chat.token,
        }
        with mock.patch.dict(os.environ, env, clear=True):
            async with runtime("sync") as made:
                settings, known = load(SyncSettings), registry()
                client = create_egress_client(settings, max_connections=20)
                integrations = IntegrationRepository(made.mongo, made.vault, made.producer, made.log)
                app_records = AppRepository(made.mongo, made.vault, known.connectors, made.log)
                apps = Apps(app_records, {}, made.configuration)
                tokens = TokenSource(
                    integrations,
                    apps,
                    known.connectors,
                    made.configuration,
                    client,
                    made.log,
                    redirect_uri="https://hub.example.com/x",
                )
                accounts = ChannelAccounts(integrations, made.configuration, known.providers)
                calls = ChannelCalls(tokens, client, known.providers)
                files = build_files(made, settings, known.providers, accounts, tokens, calls)
                parts: list[Any] = [client, apps, *files.parts]
                for part in parts:
                    await part.start()
                hostile = switched(world.hosts, FILES)
                yield Stage(world, files, accounts, calls, chat, hostile, folder / "files")
                await tokens.stop()
                for part in reversed(parts):
                    await part.stop()
                assert list((folder / "files").iterdir()) == [folder / "files" / ".lock"]


async def test_files_of_the_chat_reach_both_providers_and_leave_no_trace(stage: Stage) -> None:
    legs = stage.world.legs()
    sent = [
        stage.public(b"from the chat", filename="a/b\u202e.txt", content_type="text/plain", size=13),
        stage.internal("/files/1", filename="inside.txt"),
    ]
    slack, telegram = Place(legs.slack.channel.id), Place(str(legs.telegram.chat.id))
    for target, place in (("slack", slack), ("telegram", telegram)):
        workspace, provider = stage.world.hub.workspace, stage.providers[target]
        async with stage.files.fetcher.fetch(sent, workspace, provider) as found:
            files = [one for one in found if isinstance(one, FetchedFile)]
            assert len(files) == len(stage.left()) == 2, found
            await stage.send(place, target, files)
        assert stage.left() == []
    [shown] = legs.slack.shown()
    assert shown.files == {"a_b.txt": b"from the chat", "inside.txt": b"internal"}
    shown_files = {name: data for one in legs.telegram.shown() for name, data in one.files.items()}
    assert shown_files == {"a_b.txt": b"from the chat", "inside.txt": b"internal"}
    assert stage.chat.asked[-1] == ("/files/1", f"Bearer {stage.chat.token}", stage.world.hub.workspace)
    assert "authorization" not in stage.world.hosts.requests(FILES)[-1].headers


async def test_a_file_of_one_provider_goes_to_another_without_the_hub_s_own_address(stage: Stage) -> None:
    world, legs = stage.world, stage.world.legs()
    made = world.team.person("Ada Example").upload("notes.txt", b"from Slack", "text/plain")
    legs.slack.write("see", files=[made])
    file = ExternalFile(made.id, made.url, "notes.txt", "text/plain", 10)
    addresses, workspace = stage.files.addresses, world.hub.workspace
    own = addresses.attachment(workspace, "slack", world.team.id, "msg_1", 0, file)
    [found] = await stage.fetch(own)
    assert isinstance(found, Read)
    assert (found.data, found.content_type, found.filename) == (b"from Slack", "text/plain", "notes.txt")
    assert not world.hosts.requests("hub.example.com", f"/api/files/{own.url.rpartition('/')[2]}")
    foreign = addresses.attachment("other", "slack", world.team.id, "msg_1", 0, file)
    forged = own.model_copy(update={"url": own.url[:-1] + ("A" if own.url[-1] != "A" else "E")})
    other = addresses.attachment(workspace, "slack", "T0OTHER", "msg_1", 0, file)
    small = addresses.attachment(
        workspace, "slack", world.team.id, "m", 0, ExternalFile(made.id, made.url, "n", "text/plain", 5)
    )
    for bad, text in (
        (foreign, "not valid any more"),
        (forged, "not valid any more"),
        (other, "connect it"),
        (small, "larger than was announced"),
    ):
        problem = await stage.problem(bad)
        assert (text in problem.text, problem.link) == (True, ""), problem


async def test_a_file_that_sends_more_than_it_announces_is_cut_off(stage: Stage) -> None:
    problem = await stage.problem(stage.internal("/files/endless", size=KIB))
    assert problem.text == "it is larger than was announced"
    problem = await stage.problem(stage.internal("/files/endless"))
    assert problem.text == "too large to be forwarded (4.0 MB at most)"
    assert stage.chat.sent < 64 * MIB
    assert stage.left() == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"size": 60 * MIB}, "too large to be forwarded (4.0 MB at most)"),
        ({"content_type": "image/png"}, "it is text/plain instead of image/png"),
    ],
)
async def test_a_file_that_is_not_as_announced_is_a_line_with_its_address(
    stage: Stage, fields: dict[str, Any], text: str
) -> None:
    file = stage.public(b"hello", **fields)
    problem = await stage.problem(file)
    assert (problem.text, problem.link) == (text, file.url)
    body = with_problems(Document((Paragraph((Text("look"),)),)), [problem])
    assert text in render_plain(body).text
    assert "report.txt" in render_plain(body).text


async def test_a_page_an_empty_file_and_an_error_are_no_files(stage: Stage) -> None:
    cases = [
        (Reply.html("<h1>Sign in</h1>"), "text/html instead of image/png", False),
        (Reply(200, b"", {"content-type": "image/png"}), "it is empty", False),
        (Reply(404), "the server answered 404", False),
        (Reply(503), "the server answered 503", True),
        (Reply.gone(), "it cannot be fetched", True),
    ]
    for reply, text, retryable in cases:
        with stage.hostile.answering(lambda _, reply=reply: reply):  # type: ignore[misc]
            [problem] = await stage.fetch(attachment(f"https://{FILES}/x", content_type="image/png"))
        assert isinstance(problem, FileProblem)
        assert (text in problem.text, problem.retryable) == (True, retryable), problem


async def test_internal_addresses_are_refused_and_not_shown(stage: Stage) -> None:
    origin = stage.chat.origin
    before = len(stage.chat.asked)
    for url in (
        f"{origin}/secret",
        f"{origin}/files/../secret",
        f"{origin}/filesx",
        f"{origin}/files/%2e%2e/secret",
        "https://inside.example/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "not a url",
        "",
    ):
        problem = await stage.problem(attachment(url, size=3))
        assert (problem.text, problem.link) == (
            "the hub may not call its address, or the address does not exist",
            "",
        ), url
    assert len(stage.chat.asked) == before


async def test_redirects_are_checked_and_get_no_token(stage: Stage) -> None:
    elsewhere = stage.public(b"stored elsewhere").url
    [found] = await stage.fetch(stage.internal(f"/files/to?{elsewhere}"))
    assert isinstance(found, Read)
    assert found.data == b"stored elsewhere"
    last = stage.world.hosts.requests(FILES)[-1].headers
    assert not {"authorization", "interlink-workspace"} & last.keys()
    [found] = await stage.fetch(stage.internal(f"/files/to?{stage.chat.origin}/files/2"))
    assert isinstance(found, Read)
    before = len(stage.chat.asked)
    for target in (f"{stage.chat.origin}/secret", "http://10.0.0.7/x", "https://inside.example/"):
        assert "may not call" in (await stage.problem(stage.internal(f"/files/to?{target}"))).text
    assert len(stage.chat.asked) == before + 3
    for target in (f"{stage.chat.origin}/files/3", "http://10.0.0.7/x", "https://10.0.0.7/x"):
        with stage.hostile.answering(lambda _, url=target: Reply.redirect(url)):  # type: ignore[misc]
            [problem] = await stage.fetch(attachment(f"https://{FILES}/x"))
        assert isinstance(problem, FileProblem)
    assert len(stage.chat.asked) == before + 3, "nobody else leads the hub to the chat's files"


async def test_more_files_than_the_target_takes_or_than_fit_are_lines(stage: Stage) -> None:
    found = await stage.fetch(*(stage.public(b"x", size=1) for _ in range(12)))
    problems = [one for one in found if isinstance(one, FileProblem)]
    assert len(problems) == 2
    assert problems[0].text == "Telegram takes 10 files in a message"
    found = await stage.fetch(*(stage.public(b"x") for _ in range(3)))
    assert [type(one) for one in found] == [Read, Read, FileProblem]
    body = with_problems(Document(()), [problems[0]] * 12)
    assert "and 2 more files" in render_plain(body).text


async def test_a_lost_upload_is_repeated_without_a_second_message(stage: Stage) -> None:
    world, legs = stage.world, stage.world.legs()
    place, provider = Place(legs.slack.channel.id), stage.providers["slack"]
    async with stage.files.fetcher.fetch([stage.public(b"once")], world.hub.workspace, provider) as found:
        files = [one for one in found if isinstance(one, FetchedFile)]
        world.slack.faults.lose_response("upload")
        with pytest.raises(NotReached):
            await stage.send(place, "slack", files)
        assert legs.slack.shown() == []
        await stage.send(place, "slack", files)
    [shown] = legs.slack.shown()
    assert shown.files == {"report.txt": b"once"}


class TestSpace:
    async def test_waits_and_leaves_every_workspace_its_share(self, tmp_path: Path) -> None:
        space = FileSpace(tmp_path, max_bytes=400)
        await space.start()
        assert space.share == 100
        async with space.reserve("a", 100, wait_s=1) as first:
            with pytest.raises(DiskFull):
                async with space.reserve("a", 1, wait_s=0.05):
                    pass
            async with space.reserve("b", 100, wait_s=0.05):
                pass
            first.give_back(60)
            async with space.reserve("a", 60, wait_s=0.05):
                with pytest.raises(DiskFull):
                    async with space.reserve("a", 1, wait_s=0.05):
                        pass
        async with space.reserve("a", 100, wait_s=0.05) as again:
            (again.folder / "x").write_bytes(b"x")
        assert not again.folder.exists()
        await space.stop()

    def test_of_a_killed_process_is_deleted_by_the_next_one(self, tmp_path: Path) -> None:
        code = (
            "import asyncio, pathlib, sys, time\n"
            "from services.sync.files.disk import FileSpace\n"
            "async def main():\n"
            "    space = FileSpace(pathlib.Path(sys.argv[1]), max_bytes=400)\n"
            "    await space.start()\n"
            "    async with space.reserve('a', 10, wait_s=1) as own:\n"
            "        (own.folder / 'file').write_bytes(b'x')\n"
            "        await asyncio.sleep(60)\n"
            "asyncio.run(main())\n"
        )
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        try:
            until = monotonic() + 20
            while not (files := list(tmp_path.rglob("file"))):
                assert monotonic() < until
                sleep(0.02)
            living = FileSpace(tmp_path, max_bytes=400)
            asyncio.run(living.start())
            assert files[0].exists(), "its process lives"
            asyncio.run(living.stop())
        finally:
            other.kill()
            other.wait()
        space = FileSpace(tmp_path, max_bytes=400)
        asyncio.run(space.start())
        assert not files[0].exists()
        asyncio.run(space.stop())

    async def test_is_in_no_folder_of_somebody_else(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        (tmp_path / "file").write_text("x")
        for name in ("link", "file"):
            with pytest.raises(Misconfigured, match="INTERLINK_FILE_FOLDER"):
                await FileSpace(tmp_path / name, max_bytes=400).start()

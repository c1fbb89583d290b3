"""`GET /api/files/{token}`: files of providers, streamed to the holder of the address."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from secrets import token_bytes
from time import time

import httpx
import psutil
import pytest
from pydantic import SecretStr

from shared.connections.files.addresses import FileAddresses, FileRef
from shared.manifests.channel_types import ExternalFile
from shared.runtime.encryption_keys import open_vault
from shared.runtime.settings import HubSettings
from tests.support.backends import Bus, Store
from tests.support.fakes.telegram_api import Fault
from tests.support.provider_hosts import HostRequest, Reply
from tests.sync.chat_side import FILES
from tests.sync.switch import Switch, switched
from tests.sync.three_legs import PUBLIC, World, connected

MIB = 1024 * 1024
LIMIT = 32 * MIB
SLACK_FILES = "files.slack.com"
ENTRANCES = ("gateway", "sync")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    with connected(tmp_path_factory.mktemp("files"), bus, store, INTERLINK_MAX_FILE_BYTES=str(LIMIT)) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def switch(world: World) -> Switch:
    """The host of Slack's files."""
    return switched(world.hosts, SLACK_FILES)


@pytest.fixture(scope="module")
def addresses(world: World) -> FileAddresses:
    """The hub's own addresses: with its key."""
    key = SecretStr(world.hub.env["INTERLINK_ENCRYPTION_KEY"])
    return FileAddresses(open_vault(HubSettings(encryption_key=key)), public_base=PUBLIC, days=7)


@pytest.fixture
def slack(world: World, addresses: FileAddresses) -> "Slack":
    return Slack(world, addresses)


class Slack:
    """Files of a person in a public channel of Slack."""

    def __init__(self, world: World, addresses: FileAddresses) -> None:
        self.world = world
        self.addresses = addresses
        self.channel = world.legs().slack

    def file(self, data: bytes, name: str = "report.txt", media_type: str = "text/plain") -> ExternalFile:
        """A file that was shared, as its event has it."""
        person = self.world.team.person("Ada Example")
        made = person.upload(name, data, media_type)
        self.channel.write("a file", files=[made])
        return ExternalFile(made.id, made.url, name, media_type, len(data))

    def token(self, file: ExternalFile, *, workspace: str = "", account: str = "", age_s: float = 0) -> str:
        return self.addresses.seal(
            FileRef(
                workspace or self.world.hub.workspace,
                "slack",
                account or self.world.team.id,
                file,
                time() + 60 - age_s,
            )
        )

    def get(self, data: bytes, **headers: str) -> httpx.Response:
        return get(self.world, self.token(self.file(data)), **headers)


def get(world: World, token: str, at: str = "sync", method: str = "GET", **headers: str) -> httpx.Response:
    """Ask without a key; in the names of headers `_` stands for `-`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, f"{world.hub.url(at)}/api/files/{token}", headers=sent, timeout=30)


def detail(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return str(json.loads(answer.content)["detail"])


class TestFile:
    @pytest.mark.parametrize("at", ENTRANCES)
    def test_is_an_attachment_that_no_browser_shows_as_a_page(
        self, slack: Slack, world: World, at: str
    ) -> None:
        data = token_bytes(3 * MIB)
        name = 'Bericht \u202egpj.\u00e4"/..\\x.html'
        file = replace(slack.file(data, "x.html", "text/html"), filename=name)
        attachment = slack.addresses.attachment(world.hub.workspace, "slack", world.team.id, "msg_1", 0, file)
        assert attachment.url.startswith(f"{PUBLIC}/api/files/")
        assert len(attachment.url) < 700, "it fits into a URL"
        assert world.team.id not in attachment.url
        answer = get(world, attachment.url.rpartition("/")[2], at)
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert answer.headers["cache-control"] == "private"
        assert answer.headers["content-disposition"] == (
            'attachment; filename="Bericht gpj.___.._x.html"; '
            "filename*=UTF-8''Bericht%20gpj.%C3%A4__.._x.html"
        )
        assert attachment.filename == "Bericht gpj.\u00e4__.._x.html"
        [asked] = world.hosts.requests(SLACK_FILES)[-1:]
        assert asked.headers["authorization"] == f"Bearer {world.app.token}"

    def test_of_telegram_is_looked_up_and_keeps_the_token_of_the_bot(
        self, world: World, addresses: FileAddresses
    ) -> None:
        legs = world.legs()
        sent = legs.telegram.raw(legs.telegram.upload("notes.txt", b"from Telegram"))
        assert sent.file
        file = ExternalFile("u1", sent.file.id, "notes.txt", "text/plain", 13)
        ref = FileRef(world.hub.workspace, "telegram", str(world.bot.user.id), file, time() + 60)
        answer = get(world, addresses.seal(ref))
        assert (answer.status_code, answer.content) == (200, b"from Telegram")
        assert answer.headers["content-type"] == "text/plain"
        assert world.bot.token not in str(answer.headers)
        world.telegram.fail(Fault(loses_response=True, method="getFile"))
        assert get(world, addresses.seal(ref)).status_code == 502
        world.telegram.chat_methods.max_download = 5
        try:
            answer = get(world, addresses.seal(ref))
            assert (answer.status_code, "lets bots fetch" in detail(answer)) == (404, True)
        finally:
            world.telegram.chat_methods.max_download = 20 * MIB

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_has_ranges(self, slack: Slack, world: World, at: str) -> None:
        token = slack.token(slack.file(b"0123456789"))
        part = get(world, token, at, range="bytes=2-4")
        assert (part.status_code, part.content) == (206, b"234")
        assert part.headers["content-range"] == "bytes 2-4/10"
        assert get(world, token, at, range="bytes=-3").content == b"789"
        again = get(world, token, at, range="bytes=5-", if_range=part.headers["etag"])
        assert (again.status_code, again.content) == (206, b"56789")
        changed = get(world, token, at, range="bytes=5-", if_range='"another"')
        assert (changed.status_code, changed.content) == (200, b"0123456789")
        beyond = get(world, token, at, range="bytes=10-")
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
        assert get(world, token, at, range="bytes=0-1,3-4").status_code == 200

    @pytest.mark.parametrize("at", ENTRANCES)
    def test_has_a_head(self, slack: Slack, world: World, at: str) -> None:
        answer = get(world, slack.token(slack.file(b"0123456789")), at, "HEAD")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == "10"
        assert get(world, "x", at, "POST").status_code == 405

    def test_takes_no_memory(self, slack: Slack, world: World) -> None:
        data = token_bytes(LIMIT)
        process = psutil.Process(world.hub._children["sync"].pid)
        slack.get(b"warm")
        before = process.memory_info().rss
        assert slack.get(data).content == data
        assert process.memory_info().rss - before < 12 * MIB


class TestRefusal:
    def test_of_a_forged_token_is_404(self, slack: Slack, world: World) -> None:
        token = slack.token(slack.file(b"x"))
        before = len(world.hosts.requests(SLACK_FILES))
        turned = [
            token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            for at in range(0, len(token), 9)
        ]
        for wrong in ("x", "A" * 9000, token[:-4], f"{token}AAAA", token[2:], *turned):
            answer = get(world, wrong)
            assert (answer.status_code, "changed" in detail(answer)) == (404, True), wrong
        other = FileAddresses(
            open_vault(HubSettings(encryption_key=SecretStr("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="))),
            public_base=PUBLIC,
            days=7,
        )
        assert get(world, Slack(world, other).token(slack.file(b"x"))).status_code == 404
        assert len(world.hosts.requests(SLACK_FILES)) == before

    def test_of_an_expired_token_is_410(self, slack: Slack, world: World) -> None:
        answer = get(world, slack.token(slack.file(b"x"), age_s=61))
        assert (answer.status_code, "expired" in detail(answer)) == (410, True)

    def test_in_a_workspace_that_has_not_the_account_is_404(self, slack: Slack, world: World) -> None:
        world.hub.other_workspace()
        file = slack.file(b"x")
        answer = get(world, slack.token(file, workspace="other"))
        assert (answer.status_code, "connect it" in detail(answer)) == (404, True)
        assert get(world, slack.token(file, account="T0OTHER")).status_code == 404

    def test_of_a_file_that_is_gone_is_404(self, slack: Slack, world: World) -> None:
        file = slack.file(b"x")
        gone = ExternalFile("F0", file.ref.replace(file.id, "F0"), "x", "text/plain", 1)
        answer = get(world, slack.token(gone))
        assert (answer.status_code, "files:read" in detail(answer)) == (404, True)
        elsewhere = ExternalFile("F0", "https://files.example.org/x", "x", "text/plain", 1)
        assert get(world, slack.token(elsewhere)).status_code == 404

    def test_of_a_page_in_place_of_the_file_is_404(self, slack: Slack, world: World, switch: Switch) -> None:
        page = Reply.html("<h1>Sign in</h1>")
        with switch.answering(lambda _: page):
            for media_type in ("text/plain", "text/html"):
                answer = get(world, slack.token(slack.file(b"x", "a", media_type)))
                assert (answer.status_code, "may not read it" in detail(answer)) == (404, True)

    def test_of_the_provider_is_502_with_its_pause(self, slack: Slack, world: World, switch: Switch) -> None:
        token = slack.token(slack.file(b"x"))
        world.slack.faults.rate_limit("download", retry_after_s=7)
        answer = get(world, token)
        assert (answer.status_code, answer.headers["retry-after"]) == (502, "7")
        with switch.answering(lambda _: Reply.gone()):
            assert get(world, token).status_code == 502
        assert get(world, token).status_code == 200

    def test_of_a_file_that_is_too_large_is_502(self, slack: Slack) -> None:
        answer = slack.get(bytes(LIMIT + 1))
        assert (answer.status_code, "32 MB" in detail(answer)) == (502, True)

    def test_of_more_than_was_announced_breaks_off(self, slack: Slack, switch: Switch) -> None:
        def endless(_: HostRequest) -> Reply:
            return Reply(200, bytes(LIMIT + MIB), {"transfer-encoding": "chunked"})

        with (
            switch.answering(endless),
            pytest.raises(httpx.RemoteProtocolError),
        ):
            slack.get(b"x")

    def test_of_redirects_to_internal_addresses(self, slack: Slack, world: World, switch: Switch) -> None:
        token = slack.token(slack.file(b"x"))
        for target in (
            "https://10.0.0.1/x",
            "http://127.0.0.1:1/x",
            "https://[::ffff:10.0.0.1]/",
            "ftp://x/",
        ):
            with switch.answering(lambda _, url=target: Reply.redirect(url)):  # type: ignore[misc]
                assert get(world, token).status_code == 502
        assert not [host for host in world.hosts.connected if "10.0.0.1" in host]

    def test_of_the_token_to_another_origin(self, slack: Slack, world: World, switch: Switch) -> None:
        token = slack.token(slack.file(b"x"))
        world.chat.files["/moved"] = b"moved"
        with switch.answering(lambda _: Reply.redirect(f"https://{FILES}/moved")):
            answer = get(world, token)
        assert answer.content == b"moved"
        [asked] = world.hosts.requests(FILES, "/moved")
        assert "authorization" not in asked.headers

    def test_of_too_many_at_a_time_is_429(self, slack: Slack, world: World) -> None:
        token = slack.token(slack.file(b"x"))
        world.slack.faults.delay("download", 0.3, count=50)
        with ThreadPoolExecutor(60) as aside:
            answers = list(aside.map(lambda _: get(world, token), range(60)))
        statuses = [one.status_code for one in answers]
        assert sorted(set(statuses)) == [200, 429]
        assert statuses.count(200) >= 40

    def test_of_a_disconnected_account_comes_at_once(self, world: World, addresses: FileAddresses) -> None:
        bot = world.telegram.bot("leaving_bot")
        body = {"provider": "telegram", "kind": "bot_token", "fields": {"access_token": bot.token}}
        integration = world.hub.call("POST", "/api/integrations", body, expect=201)["id"]
        stored = world.telegram.store("document", b"x", "x.txt", "text/plain")
        file = ExternalFile("u1", stored.id, "x.txt", "text/plain", 1)
        ref = FileRef(world.hub.workspace, "telegram", str(bot.user.id), file, time() + 60)
        assert get(world, addresses.seal(ref)).content == b"x"
        world.hub.call("POST", f"/api/integrations/{integration}/disconnect")
        answer = get(world, addresses.seal(ref))
        assert (answer.status_code, "connect" in detail(answer)) == (404, True)

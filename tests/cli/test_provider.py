"""`interlink provider`: a new folder, its fixtures, signed requests that are accepted, and the documents."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from secrets import token_hex
from time import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

import shared.providers
from interlink.cli import app
from interlink.provider.new import create
from interlink.provider.placeholders import PLACEHOLDERS, remaining_placeholders
from interlink.provider.sign import SigningResult, SignOptions, curl, sign
from shared.contracts.errors import Misconfigured
from shared.manifests import registry as registry_module
from shared.manifests.fixtures import default_settings, fixture_folders, read_fixture
from shared.manifests.registry import Provider, provider_folders, read_manifest, registry
from shared.manifests.scheme_signers import new_secret
from shared.manifests.schemes import JwtScheme, KeyPairScheme
from shared.verification.scheme import VerificationResult
from tests.cli.commands import complaint, invoked
from tests.support.backends import Bus, Store
from tests.support.hub import Hub

FOLDERS = Path(next(iter(shared.providers.__path__)))
SCHEMES = ["hmac", "token", "basic", "ed25519", "jwt"]
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for providers, in which the commands look."""
    place = tmp_path / "providers"
    place.mkdir()
    registry_module.template_environment()  # it is made once for the process, from the real folders
    monkeypatch.setattr("interlink.provider.provider_folder.PROVIDERS_ROOT", place)
    monkeypatch.setattr(
        registry_module,
        "provider_folders",
        lambda: sorted(file.parent for file in place.glob("*/manifest.yaml")),
    )
    return place


@dataclass
class Got:
    """A request as a server got it."""

    method: str
    path: str
    headers: dict[bytes, list[bytes]]
    body: bytes


@pytest.fixture
def server() -> Iterator[tuple[str, list[Got]]]:
    """A server that keeps what it is sent, and its address."""
    got: list[Got] = []

    class Handler(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Callable[[], None]:
            if not name.startswith("do_"):
                raise AttributeError(name)
            return self.keep

        def keep(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers: dict[bytes, list[bytes]] = {}
            for name, value in self.headers.raw_items():
                headers.setdefault(name.lower().encode(), []).append(value.encode("latin-1"))
            got.append(Got(self.command, self.path, headers, body))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", got
        served.shutdown()
        thread.join()


def pasted(command: str) -> None:
    """Run what was printed, in a shell."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert " 202 " in done.stdout.splitlines()[0]


def verdict(
    provider: Provider, url: str, got: Got, secret: str, settings: dict[str, str]
) -> VerificationResult:
    """What the provider's door says of a request."""
    assert provider.definition
    path, _, query = got.path.partition("?")
    base = "/".join(url.split("/")[:3])
    request = provider.definition.request(
        got.method, base + path, query.encode(), got.headers, got.body, default_settings(provider) | settings
    )
    selected = provider.definition.select_scheme(request)
    assert selected
    return selected.verify(request, [secret.encode()] if secret else [], time())


def test_a_folder_that_only_reads_exports_needs_no_manifest(root: Path) -> None:
    (root / "exports").mkdir()
    (root / "exports" / "history.py").write_text('"""Reads exports."""', encoding="utf-8")
    assert invoked("provider", "check").stdout == "0 providers checked, no faults\n"
    (root / "exports" / "history.py").rename(root / "exports" / "body.py")
    assert "every provider needs one" in invoked("provider", "check").stdout


class TestNew:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_what_is_made_passes_check_and_test(self, root: Path, scheme: str) -> None:
        made = invoked("provider", "new", "acme", "--name", "Acme Corp.", "--scheme", scheme)
        assert made.returncode == 0, made.stderr
        assert str(root / "acme") in made.stdout
        assert invoked("provider", "check", "acme").stdout == "1 provider checked, no faults\n"
        tested = invoked("provider", "test", "acme")
        assert tested.returncode == 0
        assert tested.stdout.splitlines() == [
            f"ok    item_created  {scheme} verified, item.created  **Ada Example** made [A first item]",
            "1 fixture, all as expected",
        ]
        assert "Acme Corp." in root.joinpath("acme", "README.md").read_text()

    def test_the_check_lists_the_placeholders_that_are_left(self, root: Path) -> None:
        folder = create(root, "acme", "Acme", "hmac")
        checked = invoked("provider", "check", "acme")
        assert checked.returncode == 0
        lines = checked.stderr.splitlines()
        for name, texts in PLACEHOLDERS.items():
            written = folder.joinpath(name).read_text("utf-8").splitlines()
            for text in texts:
                [number] = [number for number, line in enumerate(written, start=1) if text in line]
                assert f"acme/{name}:{number}: a text of `interlink provider new`: replace {text!r}" in lines
        assert len(lines) == sum(map(len, PLACEHOLDERS.values()))
        for name in PLACEHOLDERS:
            file = folder / name
            file.write_text(file.read_text("utf-8").replace("interlink provider new", "hand"), "utf-8")
        assert len(invoked("provider", "check", "acme").stderr.splitlines()) == len(lines) - 3

    def test_no_provider_of_the_project_has_placeholders(self) -> None:
        assert [
            line for folder in provider_folders() for line in remaining_placeholders(Path(str(folder)))
        ] == []

    @pytest.mark.parametrize("name", ["null", "1", "on", "1e3", "a-b_c", "0x1f"])
    def test_ids_that_yaml_would_read_as_something_else(self, root: Path, name: str) -> None:
        assert invoked("provider", "new", name).returncode == 0
        assert read_manifest(root / name).id == name
        assert invoked("provider", "check", name).returncode == 0

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("Acme", "is not a valid id"),
            ("", "is not a valid id"),
            ("../x", "is not a valid id"),
            ("a" * 41, "is not a valid id"),
            ("x\n", "is not a valid id"),
            ("incoming", "is reserved"),
            ("interlink", "is reserved"),
            ("there", "already exists"),
        ],
    )
    def test_what_is_refused(self, root: Path, name: str, message: str) -> None:
        (root / "there").mkdir()
        assert message in complaint(invoked("provider", "new", name))
        assert [each.name for each in root.iterdir()] == ["there"]

    def test_a_name_that_would_be_code(self, root: Path) -> None:
        assert "--name" in complaint(invoked("provider", "new", "acme", "--name", "{{ secret }}"))
        assert not any(root.iterdir())

    def test_a_place_that_cannot_be_written(self, root: Path) -> None:
        root.rmdir()
        assert "No such file or directory" in complaint(invoked("provider", "new", "acme"))


class TestCheck:
    def test_a_folder_without_a_manifest(self, root: Path) -> None:
        create(root, "acme", "Acme", "hmac")
        (root / "bare").mkdir()
        for name in ("__pycache__", "_old", ".git", "gone"):
            (root / name).mkdir()
        (root / "gone" / "__pycache__").mkdir()
        for arguments in ((), ("bare",), ("acme", "bare")):
            done = invoked("provider", "check", *arguments)
            assert done.returncode == 1
            assert done.stdout == "bare/manifest.yaml: missing: every provider needs one\n"
        assert "_old" in complaint(invoked("provider", "check", "_old"))
        assert "bare/manifest.yaml: missing" in complaint(invoked("provider", "test", "bare"))


class TestTest:
    def test_without_fixtures(self, root: Path) -> None:
        shutil.rmtree(create(root, "acme", "Acme", "hmac") / "fixtures")
        done = invoked("provider", "test", "acme")
        assert done.returncode == 1
        assert done.stdout == "acme has no fixtures: CONTRIBUTING.md says how to add one\n"

    def test_without_webhooks(self) -> None:
        name = next(each for each, known in registry().providers.items() if known.definition is None)
        done = invoked("provider", "test", name)
        assert done.returncode == 0
        assert done.stdout == f"{name} has no webhooks, and so no fixtures\n"

    def test_what_is_shipped_is_as_expected(self) -> None:
        done = invoked("provider", "test", "github")
        assert done.returncode == 0
        *lines, last = done.stdout.splitlines()
        assert last == f"{len(lines)} fixtures, all as expected"
        push = next(line for line in lines if " push " in line)
        assert push.split()[:3] == ["ok", "push", "hmac"]
        assert "verified, push (github_trigger_new_commit)  **octocat** pushed [2 commits] to" in push

    def test_differences_are_reported_and_written_on_request(self, root: Path) -> None:
        folder = create(root, "acme", "Acme", "hmac")
        file = folder / "fixtures" / "item_created" / "expected.json"
        right = file.read_bytes()
        file.write_text('{"events": []}')
        done = invoked("provider", "test", "acme")
        assert done.returncode == 1
        assert done.stdout.splitlines()[0].startswith("wrong item_created")
        assert "events is now" in done.stdout.splitlines()[1]
        assert done.stdout.splitlines()[-1] == "1 fixture, 1 wrong"
        assert file.read_text() == '{"events": []}'
        written = invoked("provider", "test", "acme", "--write")
        assert written.returncode == 0
        assert written.stdout.startswith("wrote item_created")
        assert file.read_bytes() == right
        assert invoked("provider", "test", "acme", "--write").stdout.startswith("ok ")

    def test_what_is_missing_is_written(self, root: Path) -> None:
        folder = create(root, "acme", "Acme", "hmac")
        file = folder / "fixtures" / "item_created" / "expected.json"
        right = file.read_bytes()
        file.unlink()
        message = invoked("provider", "test", "acme").stdout
        assert "expected.json is missing: run 'interlink provider test acme --write'" in message
        assert invoked("provider", "test", "acme", "--write").returncode == 0
        assert file.read_bytes() == right

    def test_what_is_refused_is_not_written(self, root: Path) -> None:
        folder = create(root, "acme", "Acme", "hmac")
        case = folder / "fixtures" / "item_created"
        case.joinpath("body.json").write_text("{")
        right = case.joinpath("expected.json").read_bytes()
        done = invoked("provider", "test", "acme", "--write")
        assert done.returncode == 1
        assert "it is rejected" in done.stdout
        assert case.joinpath("expected.json").read_bytes() == right

    def test_an_unknown_provider(self) -> None:
        message = complaint(invoked("provider", "test", "gihub"))
        assert message == "unknown provider: gihub (did you mean github?)"

    def test_a_manifest_that_cannot_be_read(self, root: Path) -> None:
        create(root, "acme", "Acme", "hmac").joinpath("manifest.yaml").write_text("id: other\n")
        assert "acme/manifest.yaml" in complaint(invoked("provider", "test", "acme"))


@needs_curl
class TestSign:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_the_printed_command_is_accepted(
        self, root: Path, tmp_path: Path, server: tuple[str, list[Got]], scheme: str
    ) -> None:
        folder = create(root, "acme", "Acme", scheme)
        body = tmp_path / 'a body\'s "file".json'
        body.write_text('{"id": "1", "type": "it\'s $HOME `id` \\u00e4 ü", "item": {"title": "\\\\"}}')
        url = f"{server[0]}/api/webhooks/acme/ep_1?a=[1]&b={{2}}"
        done = invoked("provider", "sign", "acme", str(body), "--url", url, "-H", 'X-Odd: it\'s "$HOME"')
        assert done.returncode == 0, done.stderr
        pasted(done.stdout)
        got = server[1][0]
        assert got.path == "/api/webhooks/acme/ep_1?a=[1]&b={2}"
        assert got.body == body.read_bytes()
        assert got.headers[b"x-odd"] == [b'it\'s "$HOME"']
        secret = done.stderr.splitlines()[0].rpartition(": ")[2]
        provider = Provider(read_manifest(folder))
        assert verdict(provider, url, got, secret, {}) is VerificationResult.VERIFIED
        assert verdict(provider, url, got, "00" * 32, {}) is not VerificationResult.VERIFIED

    def test_every_provider_that_can_be_signed_for(
        self, tmp_path: Path, server: tuple[str, list[Got]]
    ) -> None:
        """With each of its schemes, on the first fixture that the scheme applies to."""
        tried = {
            (name, position): self.sent(provider, position, tmp_path, server)
            for name, provider in registry().providers.items()
            if provider.manifest.webhook
            for position, scheme in enumerate(provider.manifest.webhook.verification)
            if not (isinstance(scheme, KeyPairScheme | JwtScheme) and scheme.keys)
        }
        exempt = {name for name, each in registry().providers.items() if "way" in each.manifest.exemptions}
        assert tried
        assert not [each for each, sent in tried.items() if not sent and each[0] not in exempt]

    @staticmethod
    def sent(provider: Provider, position: int, place: Path, server: tuple[str, list[Got]]) -> bool:
        webhook = provider.manifest.webhook
        assert webhook
        assert provider.definition
        scheme = webhook.verification[position]
        given = secret = scheme.example or new_secret(webhook) or token_hex(16)
        if isinstance(scheme, KeyPairScheme):
            file = place / "private.pem"
            file.write_bytes(_private(scheme.scheme))
            given = f"@{file}"
        url = f"{server[0]}/api/webhooks/{provider.id}/ep_1"
        for case in fixture_folders(FOLDERS / provider.id):
            fixture = read_fixture(case)
            if "handshake" in fixture.expected:
                continue
            try:
                signed = sign(provider, SignOptions(case, given, url=url, scheme=str(position)), time())
            except Misconfigured:
                continue
            if isinstance(scheme, KeyPairScheme):
                secret = signed.notes[0].partition(": ")[2]
            server[1].clear()
            pasted(curl(signed))
            got = server[1][0]
            assert verdict(provider, url, got, secret, dict(fixture.settings)) is VerificationResult.VERIFIED
            return True
        return False

    def test_a_secret_in_the_environment_is_not_shown(self, tmp_path: Path) -> None:
        file = tmp_path / "body.json"
        file.write_text("{}")
        secret = token_hex(16)
        done = invoked("provider", "sign", "github", str(file), "--event", "push", INTERLINK_SECRET=secret)
        assert done.returncode == 0
        assert secret not in done.stdout + done.stderr
        assert "-H 'x-github-event: push'" in done.stdout
        assert "the event github.push, signed by the scheme hmac" in done.stderr

    def test_an_empty_secret(self, tmp_path: Path) -> None:
        file = tmp_path / "body.json"
        file.write_text("{}")
        empty = tmp_path / "empty"
        empty.write_text("\n")
        command = ("provider", "sign", "github", str(file), "--event", "push")
        assert "it is empty" in complaint(invoked(*command, "--secret", ""))
        assert "it is empty" in complaint(invoked(*command, INTERLINK_SECRET=""))
        assert "the file is empty" in complaint(invoked(*command, "--secret", f"@{empty}"))
        assert invoked(*command, "--secret", "a secret", INTERLINK_SECRET="").returncode == 0

    def test_the_raw_request(self, tmp_path: Path) -> None:
        file = tmp_path / "body.json"
        file.write_bytes(b'{"a":"\xc3\xa4"}')
        url = "https://hub.example.com:8443/api/webhooks/github/ep_1?x=1"
        command = ["provider", "sign", "github", str(file), "--event", "push", "--http", "--url", url]
        head, _, body = CliRunner().invoke(app, command).stdout_bytes.decode().partition("\r\n\r\n")
        assert head.startswith(
            "POST /api/webhooks/github/ep_1?x=1 HTTP/1.1\r\nhost: hub.example.com:8443\r\n"
        )
        assert "\r\nx-hub-signature-256: sha256=" in head
        assert head.endswith("\r\ncontent-length: 10")
        assert body == '{"a":"ä"}'

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("github", "nowhere.json"), "nowhere.json: No such file"),
            (("github", "BODY"), "the webhook has no {header:x-github-event}"),
            (("github", "BODY", "--event", "push", "-H", "x"), "--header 'x': write it as name: value"),
            (("github", "BODY", "--event", "push", "-H", "x: a\nb: c"), "write it as name: value"),
            (("github", "BODY", "--event", "push", "--setting", "x=1"), "--setting 'x=1'"),
            (("github", "BODY", "--event", "push", "--way", "7"), "--way 7: use one of 0"),
            (("github", "BODY", "--event", "push", "--url", "hub"), "--url hub: a URL has to begin with"),
            (("github", "BODY", "--event", "push", "--secret", "@nowhere"), "nowhere: No such file"),
            (("github", "TEXT", "--event", "push"), "the hub would reject it: the body is not"),
        ],
    )
    def test_mistakes_are_reported(self, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
        (tmp_path / "body.json").write_text("{}")
        (tmp_path / "body.txt").write_text("{")
        names = {"BODY": str(tmp_path / "body.json"), "TEXT": str(tmp_path / "body.txt")}
        done = invoked("provider", "sign", *(names.get(each, each) for each in arguments))
        assert message in complaint(done)

    def test_a_key_pair_needs_its_private_key(self, root: Path, tmp_path: Path) -> None:
        case = create(root, "acme", "Acme", "ed25519") / "fixtures" / "item_created"
        message = complaint(invoked("provider", "sign", "acme", str(case), "--secret", "00" * 32))
        assert message.startswith("--secret: ed25519 needs a private key")
        file = tmp_path / "rsa.pem"
        file.write_bytes(_private("rsa"))
        message = complaint(invoked("provider", "sign", "acme", str(case), "--secret", f"@{file}"))
        assert message.endswith("the key is not for ed25519")

    def test_where_only_the_provider_can_sign(self, root: Path) -> None:
        folder = create(root, "acme", "Acme", "ed25519")
        file = folder / "manifest.yaml"
        text = file.read_text()
        remote = 'keys: { url: "https://keys.example.com/1.pem", hosts: [keys.example.com] }'
        file.write_text(text.replace("key: { form: hex }", remote))
        message = complaint(invoked("provider", "sign", "acme", str(folder / "fixtures" / "item_created")))
        assert "only Acme can sign: the key is fetched from https://keys.example.com/1.pem" in message

    def test_an_address_that_is_signed_has_to_be_given(self, root: Path) -> None:
        folder = create(root, "acme", "Acme", "hmac")
        file = folder / "manifest.yaml"
        file.write_text(file.read_text().replace('signed: "{body}"', 'signed: "{url}{body}"'))
        case = str(folder / "fixtures" / "item_created")
        assert "name it with --url" in complaint(invoked("provider", "sign", "acme", case))
        assert invoked("provider", "sign", "acme", case, "--url", "https://hub.example.com/x").returncode == 0


def _private(kind: str) -> bytes:
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if kind == "ed25519":
        key = Ed25519PrivateKey.generate()
    elif kind == "ecdsa":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    started = Hub(tmp_path_factory.mktemp("hub"), bus, store, services=("gateway",))
    try:
        yield started.start()
    finally:
        started.stop()


@needs_curl
class TestAtAHub:
    """What `sign` prints is accepted by a running gateway, and by nobody else's endpoint."""

    @pytest.mark.parametrize(
        ("name", "scheme"),
        [
            ("github", "hmac"),
            ("slack", "hmac"),
            ("twilio", "hmac"),
            ("telegram", "token"),
            ("dialogflow", "basic"),
            ("jira", "jwt"),
            ("discord_interactions", "ed25519"),
            ("sendgrid", "ecdsa"),
        ],
    )
    def test_it_is_accepted(self, gateway: Hub, tmp_path: Path, name: str, scheme: str) -> None:
        webhook = registry().providers[name].manifest.webhook
        assert webhook
        position, declared = next(
            (position, each) for position, each in enumerate(webhook.verification) if each.scheme == scheme
        )
        given = secret = declared.example or new_secret(webhook)
        if isinstance(declared, KeyPairScheme):
            pem = tmp_path / "private.pem"
            pem.write_bytes(_private(declared.scheme))
            given = f"@{pem}"
        case, signed = self.first(name, position, given)
        if isinstance(declared, KeyPairScheme):
            secret = signed.notes[0].partition(": ")[2]
        settings = default_settings(registry().providers[name]) | dict(read_fixture(case).settings)
        new = {"provider": name, "name": "x", "secret": secret, "settings": settings}
        endpoint = gateway.call("POST", "/api/inbound-endpoints", new, expect=201)
        other = gateway.call("POST", "/api/inbound-endpoints", new, expect=201)
        rotated = {"secret": new_secret(webhook), "overlap_hours": 0}
        if not isinstance(declared, KeyPairScheme):
            gateway.call("POST", f"/api/inbound-endpoints/{other['id']}/rotate-secret", rotated)
        done = invoked(
            *("provider", "sign", name, str(case), "--url", endpoint["url"], "--way", str(position)),
            INTERLINK_SECRET=given,
        )
        assert done.returncode == 0, done.stderr
        assert self.status(done.stdout) < 300
        if not isinstance(declared, KeyPairScheme):
            assert self.status(done.stdout.replace(endpoint["id"], other["id"])) in (401, 403)

    @staticmethod
    def first(name: str, position: int, given: str) -> tuple[Path, SigningResult]:
        """The first fixture that is signed with this scheme."""
        for case in fixture_folders(FOLDERS / name):
            wanted = SignOptions(case, given, url="https://hub.example.com/x", scheme=str(position))
            if "handshake" not in read_fixture(case).expected:
                try:
                    return case, sign(registry().providers[name], wanted, time())
                except Misconfigured:
                    continue
        raise AssertionError(f"{name} has no fixture for its way {position}")

    @staticmethod
    def status(command: str) -> int:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
        return int(done.stdout.split()[1])


class TestDocs:
    def test_the_pages_of_the_project_are_current(self) -> None:
        done = invoked("provider", "docs", "--check")
        assert done.returncode == 0, done.stdout

    def test_pages_are_made_checked_and_removed(self, root: Path, tmp_path: Path) -> None:
        create(root, "acme", "Acme", "hmac")
        create(root, "other", "Other", "token")
        pages = tmp_path / "docs"
        docs = ("provider", "docs", "--folder", str(pages))
        missing = invoked(*docs, "--check")
        assert missing.returncode == 1
        assert missing.stdout.splitlines() == ["acme.md: missing", "other.md: missing", "README.md: missing"]
        assert not pages.exists()
        assert invoked(*docs).stdout == f"3 pages in {pages}, 3 of them changed\n"
        assert invoked(*docs, "--check").returncode == 0
        assert invoked(*docs).stdout == f"3 pages in {pages}, 0 of them changed\n"
        assert "`item.created`" in (pages / "acme.md").read_text()
        shutil.rmtree(root / "other")
        (pages / "notes.md").write_text("# Somebody's own")
        stale = invoked(*docs, "--check")
        assert stale.stdout.splitlines() == ["README.md: stale", "other.md: of no provider"]
        assert invoked(*docs).returncode == 0
        assert sorted(file.name for file in pages.iterdir()) == ["README.md", "acme.md", "notes.md"]

    def test_a_page_says_what_the_manifest_says(self, root: Path, tmp_path: Path) -> None:
        create(root, "acme", "Acme *Co*", "hmac")
        invoked("provider", "docs", "--folder", str(tmp_path))
        page = (tmp_path / "acme.md").read_text()
        for message in (
            "# Acme \\*Co\\*",
            "- HMAC-SHA256 of the raw body, in hex in the header `x-acme-signature` after `sha256=`.",
            "| `item.created` | An item was made. | | yes |",
            "Address: https://hub.example.com/api/webhooks/acme/{endpoint_id}",
            "## From memory",
        ):
            assert message in page, page

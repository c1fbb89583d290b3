"""The wheel, installed into an environment of its own: everything that it needs is inside, or in its lock."""

import hashlib
import hmac
import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import httpx
import pytest

from tests.cli.commands import Up, call, clean_env, running, shown_in_chat
from tests.deploy.test_containers import ROOT, locked, run
from tests.support.eventually import eventually
from tests.support.ports import free_port

LOCK = "requirements-run.lock"
ISSUE = {
    "action": "opened",
    "issue": {"number": 1, "title": "It works", "html_url": "https://example.com/1"},
    "repository": {"full_name": "acme/app"},
    "sender": {"login": "octocat"},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    (built,) = folder.glob("interlink-*.whl")
    return built


def link_locked_packages(site: Path) -> None:
    """Put what the lock names into an environment: links to the same packages of the present one."""
    for name in locked(LOCK):
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:  # of another system or Python
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():  # two packages can share a namespace
                link.symlink_to(Path(str(metadata.distribution(name).locate_file(top))))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and its locked packages, and no repository."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    link_locked_packages(Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)})))
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel)
    return python.parent


def test_it_is_the_same_wherever_it_is_built(wheel: Path, tmp_path: Path) -> None:
    """From a copy with other times and another place."""
    copy = tmp_path / "elsewhere"
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    packed = ("interlink", "services", "shared", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
    for name in (name for name in listed if name.startswith(packed) and (ROOT / name).is_file()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path, cwd=copy)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_it_has_no_package_called_examples(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"interlink", "services", "shared"}


def test_the_environment_has_no_repository_and_no_tools(programs: Path, tmp_path: Path) -> None:
    script = "import interlink, services, shared; print(*map(str, (interlink, services, shared)))"
    assert str(ROOT) not in run(programs / "python", "-c", script, cwd=tmp_path)
    script = "from importlib.util import find_spec; print(*map(find_spec, ('examples', 'pytest', 'ruff')))"
    assert run(programs / "python", "-c", script, cwd=tmp_path) == "None None None\n"


def test_it_has_every_file_of_the_providers(wheel: Path) -> None:
    """`tests/cli` checks all of them in the repository."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("shared/providers/")}
    listed = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", "shared/providers", cwd=ROOT
    )
    assert packed == set(listed.splitlines())
    assert len(packed) > 1_000


def test_its_commands_work_anywhere(programs: Path, tmp_path: Path) -> None:
    version = metadata.version("interlink")
    assert run(programs / "interlink", "--version", cwd=tmp_path) == f"interlink {version}\n"
    some = ("github", "slack", "discord", "paypal", "generic")
    assert "no faults" in run(programs / "interlink", "provider", "check", *some, cwd=tmp_path)


def test_it_has_the_templates_of_pages(programs: Path, tmp_path: Path) -> None:
    run(programs / "interlink", "provider", "docs", "--folder", tmp_path, cwd=tmp_path)
    committed = sorted((ROOT / "docs" / "providers").glob("*.md"))
    assert [page.read_text("utf-8") for page in sorted(tmp_path.glob("*.md"))] == [
        page.read_text("utf-8") for page in committed
    ]


def test_it_has_the_schema_of_manifests(wheel: Path, programs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("shared/providers/manifest.schema.json").decode()
    assert packed == run(programs / "interlink", "provider", "schema", cwd=tmp_path)


@contextmanager
def example_receiver(programs: Path, up: Up, folder: Path) -> Iterator[Path]:
    """Run the receiver that `interlink up` names, for a new outgoing webhook; the file with its output."""
    port, output = free_port(), folder / "receiver.out"
    hook = call(
        up,
        "POST",
        "/api/outgoing-webhooks",
        {"name": "t", "url": f"http://127.0.0.1:{port}/", "events": ["*"]},
    )
    command = [programs / "python", "-m", "interlink.examples.subscriber", hook["secret"], str(port)]
    with output.open("wb") as out:
        receiver = subprocess.Popen(
            command, cwd=folder, env=clean_env(), stdout=out, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: "listening" in output.read_text("utf-8"))
        yield output
    finally:
        receiver.kill()
        receiver.wait(60)


def test_up_starts_and_takes_a_webhook(programs: Path, tmp_path: Path) -> None:
    """What the banner says to try, from an empty folder."""
    with (
        running(tmp_path / "data", command=[str(programs / "interlink")]) as up,
        example_receiver(programs, up, tmp_path) as received,
    ):
        assert f"{programs / 'python'} -m interlink.examples.subscriber" in up.text()
        commands = [" ".join(child.cmdline()) for child in up.children()]
        assert len(commands) >= 8
        assert not [command for command in commands if str(ROOT) in command]

        listed = {entry["id"]: entry for entry in call(up, "GET", "/api/catalog")["items"]}
        assert listed["github"]["icon"]["svg"]
        assert listed["github"]["docs"].startswith("https://")

        endpoint = {"provider": "github", "name": "t", "secret": "try-it-secret", "channel_id": "general"}
        made = call(up, "POST", "/api/inbound-endpoints", endpoint)
        body = json.dumps(ISSUE).encode()
        headers = {
            "content-type": "application/json",
            "x-github-event": "issues",
            "x-github-delivery": "1",
            "x-hub-signature-256": "sha256=" + hmac.digest(b"try-it-secret", body, hashlib.sha256).hex(),
        }
        answer = httpx.post(made["url"], content=body, headers=headers, timeout=10)
        assert answer.is_success, answer.text
        assert eventually(lambda: [m for m in shown_in_chat(up).values() if "It works" in m["text"]])
        assert eventually(lambda: "github.issues" in received.read_text("utf-8"))

"""The documents say what is true: paths, settings, calls, decisions and commands."""

import importlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from docs.generator.__main__ import PROJECT, build_site
from docs.generator.documents import openapi_document
from docs.generator.metrics import metrics_page
from interlink import prepare
from tests.cli.commands import Up, running
from tests.support.ports import free_port

DECISION: Final = re.compile(
    r"# (\d{4})\. (.+)\n\n\| \| \|\n\|---\|---\|\n\| date \| (.+) \|\n\| status \| (.+) \|\n"
)
ROW: Final = re.compile(r"^\| \[(\d{4})\]\((.+)\) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
NAMED_PATH: Final = re.compile(r"`((?:services|shared|interlink|tests|docs|deploy)/[\w/.-]+)`")
NAMED_CALL: Final = re.compile(r"`(GET|POST|PUT|PATCH|DELETE)\s+(/(?:api|integrations)/[^`?\s]*)[^`]*`")
NAMED_SETTING: Final = re.compile(r"`((?:INTERLINK|KAFKA|MONGODB)_[A-Z_]*[A-Z])(?:=[^`]*)?`")
NOT_OF_SERVICES: Final = {
    *("INTERLINK_BALANCERS", "INTERLINK_BOOTSTRAP_ADMIN_KEY", "KAFKA_IMAGE_TAG"),  # of the containers
    *("INTERLINK_APPS_DIR", "INTERLINK_APP_GITHUB_CLIENT_ID", "INTERLINK_DATA_DIR"),
    "INTERLINK_DATABASE_PROGRAM",  # of `interlink up`
    *("INTERLINK_URL", "INTERLINK_API_KEY"),  # of the commands
}
SERVICES_WITH_INDEXES: Final = ("gateway", "delivery", "sync", "oauth", "importer", "console")
HISTORY: Final = {"CHANGELOG.md"}
"""Documents that may name what is gone."""


def pages() -> dict[str, str]:
    files = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]
    return {file.relative_to(PROJECT).as_posix(): file.read_text("utf-8") for file in files}


def blocks(page: str) -> list[str]:
    """Return the commands of a page: its code blocks without a language, except those of `make`."""
    text = PROJECT.joinpath(page).read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if not language and not block.startswith("make ")]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("docs") / "data") as started:
        yield started


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    text = pages()["README.md"]
    assert text.count("\n") <= 120
    assert re.search(r"^make run +#", text, re.MULTILINE)
    assert re.search(r"^make test +#", text, re.MULTILINE)


def test_the_app_of_slack_for_mappings_has_what_sync_needs() -> None:
    text = pages()["docs/how-to/map-conversations.md"]
    app = yaml.safe_load(textwrap.dedent(text.partition("```yaml\n")[2].partition("```")[0]))
    folder = PROJECT / "shared/providers/slack"
    connect = yaml.safe_load(folder.joinpath("manifest.yaml").read_text("utf-8"))["connect"]
    assert app["oauth_config"]["scopes"]["bot"] == connect["purposes"]["sync"]
    events = app["settings"]["event_subscriptions"]["bot_events"]
    assert {f"message.{kind}" for kind in ("channels", "groups")} <= set(events)
    code = folder.joinpath("events.py").read_text("utf-8")
    assert [name for name in events if not name.startswith("message.") and f'"{name}"' not in code] == []


def test_every_metric_is_on_its_page_with_its_labels() -> None:
    page = metrics_page()
    code = PROJECT.joinpath("shared/runtime/metrics.py").read_text("utf-8")
    names = set(re.findall(r'"(interlink_[a-z_]+)"', code))
    assert names == set(re.findall(r"^\| `(interlink_[a-z_]+)`", page, re.MULTILINE))
    assert "| `interlink_dead_lettered_total` | counter | `topic`, `group`, `reason` |" in page


def test_decisions_have_one_form_and_are_listed() -> None:
    found = {}
    for file in sorted(PROJECT.glob("docs/adr/[0-9]*.md")):
        text = file.read_text("utf-8")
        match = DECISION.match(text)
        assert match, file.name
        assert file.name.startswith(match[1])
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], (
            file.name
        )
        found[match[1]] = (file.name, match[2], match[3], match[4])
    listed = {row[0]: row[1:] for row in ROW.findall(pages()["docs/adr/README.md"])}
    assert listed == found
    assert list(found) == [f"{number:04}" for number in range(1, len(found) + 1)]


def test_the_architecture_names_every_collection_with_its_owner() -> None:
    section = pages()["docs/explanation/architecture.md"].partition("## Records\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+)[^|]* \| (`.*) \|$", section, re.MULTILINE)
    written: dict[str, set[str]] = {}
    for owner, names in rows:
        written.setdefault(owner, set()).update(re.findall(r"`(\w+)`", names))
    owned = {
        name: set(importlib.import_module(f"services.{name}.app").INDEXES) for name in SERVICES_WITH_INDEXES
    }
    shared = {name for indexes in prepare.indexes(()) for name in indexes}
    assert written == {**owned, "every": shared | {"configuration_version", "encryption_keys"}}


def test_the_paths_that_pages_name_are_there() -> None:
    missing = {
        f"{page}: {path}"
        for page, text in pages().items()
        if page not in HISTORY and not page.startswith("docs/providers/")
        for path in NAMED_PATH.findall(text)
        if not PROJECT.joinpath(path.rstrip(".")).exists()
    }
    assert missing == {"docs/how-to/add-a-service.md: tests/notes"}  # what its reader makes


def test_the_settings_that_pages_name_are_there() -> None:
    known = set(re.findall(r"`([A-Z_]+)`", pages()["docs/settings.md"])) | NOT_OF_SERVICES
    named = {
        f"{page}: {name}"
        for page, text in pages().items()
        if page not in HISTORY
        for name in NAMED_SETTING.findall(text)
        if name not in known
    }
    assert named == set()


def test_the_calls_that_pages_name_are_there() -> None:
    document = openapi_document().document
    calls = {
        (method.upper(), re.sub(r"\{[^}]*\}", "{}", path))
        for path, methods in document["paths"].items()
        for method in methods
    } | {("GET", "/api/openapi.json"), ("GET", "/api/asyncapi.json")}

    def is_there(method: str, path: str) -> bool:
        parts = re.sub(r"\{[^}]*\}", "{}", path.rstrip(".,")).split("/")
        return any(
            method == known
            and len(parts) == len(there := template.split("/"))
            and all(mine == other or "{}" in (mine, other) for mine, other in zip(parts, there, strict=True))
            for known, template in calls
        )

    wrong = {
        f"{page}: {method} {path}"
        for page, text in pages().items()
        if page.startswith(("docs/", "README")) and not page.startswith(("docs/providers/", "docs/adr/"))
        for method, path in NAMED_CALL.findall(text)
        if not is_there(method, path)
    }
    assert wrong == set()


def test_the_site_is_built_without_faults(tmp_path: Path) -> None:
    made = build_site(PROJECT, tmp_path)
    site = tmp_path / "site"
    assert made == len(list((tmp_path / "docs").rglob("*.md")))
    for page in (
        "index",
        "tutorials/first-webhook",
        "reference/rest-api",
        "providers/notes/github",
        "adr/index",
    ):
        assert site.joinpath(f"{page}.html").is_file(), page
    architecture = site.joinpath("explanation/architecture.html").read_text("utf-8")
    assert architecture.count("<svg id=") + architecture.count('class="language-text') >= 7


class TestCommandsOfThePages:
    """What a reader pastes into a shell works, in the order of the page."""

    def test_readme(self, up: Up) -> None:
        message = self._run(up, blocks("README.md"))
        assert '"accepted":true' in message

    def test_first_webhook(self, up: Up) -> None:
        commands = blocks("docs/tutorials/first-webhook.md")
        message = self._run(up, [*commands[:2], "sleep 3", *commands[2:], "sleep 3"])
        assert '"accepted":true' in message
        assert '"type": "github.issues"' in message  # at the subscriber
        assert '"type": "github.push"' in message  # the recorded one
        assert '"verdict":"verified"' in message
        assert message.count("It works") >= 3  # at the subscriber, in the payload, and replayed

    def test_first_bridge(self, up: Up) -> None:
        write = f"""sleep 1; curl -sS {up.chat}/messages -H "$JSON" \
            -d '{{"channel":"general","author":"Ann","text":"hello other chat"}}'; sleep 3"""
        message = self._run(up, [*blocks("docs/tutorials/first-bridge.md"), write])
        assert '"success":true' in message
        assert "hello other chat" in message.partition('"message_id"')[2].partition('"message_id"')[2]

    def _run(self, up: Up, commands: list[str]) -> str:
        port, other = free_port(), free_port()
        script = "\n".join(["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", *commands])
        for old, new in {
            "http://127.0.0.1:8080": up.url,
            ".interlink/": f"{up.folder}/",
            ".venv/bin/python": sys.executable,
            "http://127.0.0.1:9000/": f"http://127.0.0.1:{port}/",
            "examples.subscriber $SECRET &": f"examples.subscriber $SECRET {port} & sleep 1",
            "9001": str(other),
            "serve_forever()' &": "serve_forever()' & sleep 1",
        }.items():
            script = script.replace(old, new)
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=90, check=False, cwd=PROJECT
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

"""The checker finds each fault of a provider's folder, and says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import shared.providers
from shared.catalog.checker import check

GOOD = Path(next(iter(shared.providers.__path__))) / "github"
Break = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / GOOD.name
    shutil.copytree(GOOD, copy)
    return copy


def manifest(old: str, new: str) -> Break:
    """Change the manifest's text; it has to be there."""

    def change(folder: Path) -> None:
        file = folder / "manifest.yaml"
        text = file.read_text("utf-8")
        assert old in text, old
        file.write_text(text.replace(old, new), "utf-8")

    return change


def fixture(case: str, file: str, change: Callable[[str], str]) -> Break:
    def rewrite(folder: Path) -> None:
        path = folder / "fixtures" / case / file
        path.write_text(change(path.read_text("utf-8")), "utf-8")

    return rewrite


def remove(path: str) -> Break:
    def delete(folder: Path) -> None:
        found = folder / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return delete


def header(name: str, value: str | None) -> Callable[[str], str]:
    def change(text: str) -> str:
        headers = {key: kept for key, kept in json.loads(text).items() if key != name}
        return json.dumps(headers | ({name: value} if value is not None else {}))

    return change


def from_memory_without_saying_so(folder: Path) -> None:
    manifest("tier: verified", "tier: from-memory")(folder)


def another_folder_name(folder: Path) -> None:
    folder.rename(folder.with_name("gitlab"))


def reserved(folder: Path) -> None:
    manifest("id: github", "id: incoming")(folder)
    folder.rename(folder.with_name("incoming"))


def without_release_fixtures(folder: Path) -> None:
    for case in folder.joinpath("fixtures").glob("release_*"):
        shutil.rmtree(case)


def test_a_good_folder_has_no_faults(folder: Path) -> None:
    assert check(folder) == []


FAULTS: list[tuple[str, Break, str]] = [
    ("no manifest", remove("manifest.yaml"), "manifest.yaml: missing"),
    ("no YAML", manifest("id: github", "id: [github"), "manifest.yaml: "),
    ("not UTF-8", lambda folder: folder.joinpath("manifest.yaml").write_bytes(b"\xff"), "manifest.yaml: "),
    ("unknown field", manifest("tier: verified", "tier: verified\nlogo: x.png"), "logo: Extra inputs"),
    ("missing field", manifest("name: GitHub", ""), "name: Field required"),
    ("no docs", manifest("docs: https://docs.github.com/en/webhooks", ""), "docs: Field required"),
    ("another tier", manifest("tier: verified", "tier: gold"), "tier: Input should be"),
    ("another id", another_folder_name, "id is 'github', the folder is 'gitlab'"),
    ("reserved id", reserved, "'incoming' is reserved"),
    ("handled and ignored", manifest("    - watch\n", "    - push\n"), "handled and ignored at once: push"),
    ("unsorted", manifest("    - watch\n", "    - aardvark\n"), "webhook.ignored: sort it"),
    ("doubled", manifest("    - watch\n", "    - watch\n    - watch\n"), "more than once: watch"),
    ("no icon", manifest('actor_icon: "{{ sender.avatar_url | url }}"', ""), "actor_icon: missing"),
    ("no address", manifest("Payload URL: {url}", "Payload URL"), "write {url}"),
    ("unknown placeholder", manifest("Payload URL: {url}", "{url} {secret}"), "{secret} is not filled in"),
    ("no README", remove("README.md"), "README.md: missing"),
    ("empty README", lambda folder: folder.joinpath("README.md").write_text(" \n"), "README.md: missing"),
    ("from memory", from_memory_without_saying_so, "say which facts are from memory"),
    ("no Liquid", manifest('body: "{{ review.body |', 'body: "{% review.body |'), "message.body: "),
    ("phrase no Liquid", manifest('| bold | default: "Someone" }}', "| bold"), "webhook.phrases.who: "),
    (
        "idle phrase",
        manifest("phrases:\n", "phrases:\n    why: because\n"),
        "phrases.why: no message calls it",
    ),
    (
        "unknown filter",
        manifest("label.name | bold", "label.name | shout"),
        "phrases.done: no such filter: shout",
    ),
    ("icon no Liquid", manifest("avatar_url | url }}", "avatar_url | url"), "webhook.actor_icon: "),
    ("hidden field", manifest("which_issue", "issue"), "the phrase 'issue' hides a field"),
    ("no vectors", remove("vectors.json"), "vectors.json: missing"),
    ("broken vectors", lambda folder: folder.joinpath("vectors.json").write_text("[{}]"), "vectors.json: 0."),
    ("wrong algorithm", manifest("algorithm: sha256", "algorithm: sha512"), "vectors.json: github/docs"),
    ("wrong prefix", manifest("prefix: sha256=", "prefix: v1="), "refused (unreadable)"),
    ("event without fixture", without_release_fixtures, "none for the event 'release'"),
    ("no fixtures", remove("fixtures"), "none for the event 'ping'"),
    ("no body", remove("fixtures/push/body.json"), "fixtures/push: body.json is missing"),
    ("no expectation", remove("fixtures/push/expected.json"), "fixtures/push: expected.json is missing"),
    (
        "headers no JSON",
        fixture("push", "headers.json", lambda _: "{"),
        "headers.json or expected.json is not",
    ),
    ("headers no object", fixture("push", "headers.json", lambda _: "[]"), "an object of texts"),
    (
        "body no JSON",
        fixture("push", "body.json", lambda _: "{"),
        "fixtures/push: no message: the body is not",
    ),
    (
        "body no object",
        fixture("push", "body.json", lambda _: "[]"),
        "fixtures/push: no message: the body is",
    ),
    (
        "no event header",
        fixture("push", "headers.json", header("X-GitHub-Event", None)),
        "fixtures/push: headers.json has no x-github-event",
    ),
    (
        "no delivery header",
        fixture("push", "headers.json", header("X-GitHub-Delivery", None)),
        "fixtures/push: headers.json has no x-github-delivery",
    ),
    (
        "signature kept",
        fixture("push", "headers.json", header("X-Hub-Signature-256", "sha256=00")),
        "fixtures/push: headers.json has x-hub-signature-256: leave it out",
    ),
    (
        "event not handled",
        fixture("push", "headers.json", header("X-GitHub-Event", "star")),
        "fixtures/push: the event 'star' is not handled",
    ),
    (
        "another message",
        fixture("push", "expected.json", lambda text: text.replace("pushed", "threw")),
        'fixtures/push: expected.json differs: text is now "**octocat** pushed',
    ),
    ("no message expected", fixture("push", "expected.json", lambda _: "[]"), "has to be an object"),
    (
        "null expected",
        fixture("push", "expected.json", lambda text: json.dumps(json.loads(text) | {"x": None})),
        "parts that are null",
    ),
    ("colour no colour", manifest('color: "#0969da"', 'color: "blue"'), "color: String should match pattern"),
    (
        "no text",
        manifest('text: "{{ who }} {{ done }} {{ which_pull }} {{ how }} in {{ where }}"', 'text: ""'),
        "no message: the message is not valid: text: ",
    ),
]


@pytest.mark.parametrize(("breaking", "fault"), [pytest.param(*case[1:], id=case[0]) for case in FAULTS])
def test_each_fault_is_one_line_that_says_what_is_wrong(folder: Path, breaking: Break, fault: str) -> None:
    breaking(folder)
    folder = next(folder.parent.iterdir())
    faults = check(folder)
    assert faults
    assert all(line.startswith(f"{folder.name}/") and "\n" not in line for line in faults)
    assert any(fault in line for line in faults), faults

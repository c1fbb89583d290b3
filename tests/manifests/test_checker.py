"""The checker finds each fault of a provider's folder, and says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shared.providers
from interlink.provider.checker import check
from interlink.provider.new import create
from shared.manifests.registry import read_manifest

GITHUB = Path(next(iter(shared.providers.__path__))) / "github"
Break = Callable[[Path], object]


@pytest.fixture
def github(tmp_path: Path) -> Path:
    """A copy of a whole folder."""
    copy = tmp_path / GITHUB.name
    shutil.copytree(GITHUB, copy)
    return copy


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A new folder: small, and with a time in it."""
    return create(tmp_path, "acme", "Acme", "hmac")


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


def written(path: str, text: str | bytes) -> Break:
    def write(folder: Path) -> None:
        raw = text if isinstance(text, bytes) else text.encode()
        folder.joinpath(path).write_bytes(raw)

    return write


def remove(path: str) -> Break:
    def delete(folder: Path) -> None:
        found = folder / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return delete


def all_of(*breaks: Break) -> Break:
    def change(folder: Path) -> None:
        for each in breaks:
            each(folder)

    return change


def request(**parts: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | parts)


def header(name: str, value: str | None) -> Callable[[str], str]:
    def change(text: str) -> str:
        document = json.loads(text)
        headers = {key: text for key, text in document["headers"].items() if key != name}
        return json.dumps(document | {"headers": headers | ({name: value} if value is not None else {})})

    return change


def another_folder_name(folder: Path) -> None:
    folder.rename(folder.with_name("gitlab"))


def reserved(folder: Path) -> None:
    manifest("id: github", "id: incoming")(folder)
    folder.rename(folder.with_name("incoming"))


def without_release_fixtures(folder: Path) -> None:
    for case in folder.joinpath("fixtures").glob("release_*"):
        shutil.rmtree(case)


def handshake(text: str = "{query:challenge}") -> Break:
    """Describe a handshake; there is no fixture of it yet."""
    described = f"""\
  handshakes:
    - about: It asks whether the address is ours.
      when: {{ "query:challenge": present }}
      answer: {{ text: "{text}" }}
"""
    return manifest("  no_handshake: The provider sends nothing before the first event.\n", described)


def of_the_handshake(folder: Path) -> None:
    case = folder / "fixtures" / "challenge"
    case.mkdir()
    case.joinpath("request.json").write_text('{"method": "GET", "query": "challenge=abc"}')
    about = "It asks whether the address is ours."
    answer = {"status": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "body": "abc"}
    case.joinpath("expected.json").write_text(json.dumps({"handshake": about, "answer": answer}))


def entry(triggers: str) -> Break:
    """Make it an integration of the catalogue."""
    return manifest("\nwebhook:\n", f"\nintegration:\n  auth_type: oauth\n  triggers: {triggers}\nwebhook:\n")


VECTOR = {
    "source": "the provider's documents",
    "secret": "key",
    "headers": {
        "x-acme-signature": "sha256=d4ae3adc30f17caa50451e0a06f21e3b5f36f5b4a6f0a0c0f0c3a4f2a0d70b1f"
    },
    "body": "{}",
}
OLD_SCHEME = '    - { name: old, scheme: basic, when: { "header:x-old": present } }\n'
NO_WEBHOOK = """\
id: acme
name: Acme
category: other
docs: ""
sources: [the provider's documents]
tier: documented
"""


def test_a_good_folder_has_no_faults(github: Path) -> None:
    assert check(github) == []


@pytest.mark.parametrize("scheme", ["hmac", "token", "basic", "ed25519", "jwt"])
def test_a_new_folder_has_no_faults(tmp_path: Path, scheme: str) -> None:
    assert check(create(tmp_path, "acme", "", scheme)) == []


def test_a_handshake_with_its_fixture(acme: Path) -> None:
    handshake()(acme)
    of_the_handshake(acme)
    assert check(acme) == []


def test_an_integration_without_webhooks(acme: Path) -> None:
    written("manifest.yaml", NO_WEBHOOK + "integration: { auth_type: none, setup_steps: [Do nothing.] }\n")(
        acme
    )
    remove("fixtures")(acme)
    assert check(acme) == []


OF_GITHUB: list[tuple[str, Break, str]] = [
    ("no manifest", remove("manifest.yaml"), "manifest.yaml: missing"),
    ("no YAML", manifest("id: github", "id: [github"), "manifest.yaml: "),
    ("not UTF-8", written("manifest.yaml", b"\xff"), "manifest.yaml: "),
    ("unknown field", manifest("tier: verified", "tier: verified\nlogo: x.png"), "logo: unknown field"),
    (
        "near a field",
        manifest("tier: verified", "teir: verified"),
        "teir: unknown field (did you mean tier?)",
    ),
    (
        "near a field of a scheme",
        manifest("      signature:", "      signatur:"),
        "signatur: unknown field (did you mean signature?)",
    ),
    ("empty", written("manifest.yaml", "# nothing\n"), "github/manifest.yaml: is empty"),
    ("a text without quotes", manifest("name: GitHub", "name: #1"), "put a text with braces or # in quotes"),
    ("a number", manifest("name: GitHub", "name: 1"), "put a text that looks like a number"),
    (
        "a field twice",
        manifest("tier: verified", "tier: verified\ntier: documented"),
        "tier: repeated, in lines ",
    ),
    (
        "an event twice",
        manifest("  handled:\n", "  handled:\n    push: { about: x }\n"),
        "push: repeated, in lines ",
    ),
    (
        "a text unescaped, in a list",
        manifest("label.name | bold", "label.name"),
        "webhook.handled.issues: label.name is not escaped in text: use a filter: md",
    ),
    (
        "a text unescaped, in the card",
        manifest("{{ review.body | markdown: 8, 700 }}", "{{ review.body }}"),
        "webhook.handled.pull_request_review: review.body is not escaped in body",
    ),
    ("missing field", manifest("name: GitHub", ""), "name: Field required"),
    ("no docs", manifest("docs: https://docs.github.com/en/webhooks", ""), "docs: Field required"),
    ("another tier", manifest("tier: verified", "tier: gold"), "tier: Input should be"),
    ("another category", manifest("category: developer", "category: tools"), "category: Input should be"),
    ("another id", another_folder_name, "id is 'github', the folder is 'gitlab'"),
    ("reserved id", reserved, "'incoming' is reserved"),
    ("no sources", manifest("sources:\n", "sources: []\nolder:\n"), "older: unknown field"),
    ("handled and ignored", manifest("    - watch\n", "    - push\n"), "both handled and ignored: push"),
    ("unsorted", manifest("    - watch\n", "    - aardvark\n"), "webhook.ignored: not sorted: sort it"),
    ("doubled", manifest("    - watch\n", "    - watch\n    - watch\n"), "repeated: watch"),
    ("no icon", manifest('actor_icon: "{{ sender.avatar_url | url }}"', ""), "actor_icon: missing"),
    ("no address", manifest("Payload URL: {url}", "Payload URL"), "add {url}"),
    ("unknown placeholder", manifest("Payload URL: {url}", "{url} {token}"), "{token} is not a placeholder"),
    ("no README", remove("README.md"), "README.md: missing"),
    ("empty README", written("README.md", " \n"), "README.md: missing"),
    ("from memory", manifest("tier: verified", "tier: from-memory"), "from_memory: empty"),
    (
        "facts from memory",
        manifest("tier: verified", "tier: verified\nfrom_memory: [It is red.]"),
        "README.md: the manifest has facts from memory",
    ),
    ("no Liquid", manifest('body: "{{ review.body |', 'body: "{% review.body |'), "message.body: "),
    ("phrase no Liquid", manifest('| bold | default: "Someone" }}', "| bold"), "webhook.phrases.who: "),
    (
        "idle phrase",
        manifest("phrases:\n", "phrases:\n    why: because\n"),
        "phrases.why: no message uses it",
    ),
    (
        "unknown filter",
        manifest("label.name | bold", "label.name | shout"),
        "phrases.done: no such filter: shout",
    ),
    ("icon no Liquid", manifest("avatar_url | url }}", "avatar_url | url"), "webhook.actor_icon: "),
    ("hidden field", manifest("which_issue", "issue"), "the phrase 'issue' hides a field"),
    ("no vectors", remove("vectors.json"), "vectors.json: missing"),
    ("broken vectors", written("vectors.json", "[{}]"), "vectors.json: 0."),
    (
        "wrong algorithm",
        manifest("prefix: sha256= }", "prefix: sha256= }\n      algorithm: sha512"),
        "vectors.json: 0 (github/docs validating-webhook-deliveries.md",
    ),
    ("wrong prefix", manifest("prefix: sha256=", "prefix: v1="), "rejected (unreadable)"),
    (
        "wrong header",
        manifest("header: x-hub-signature-256", "header: x-hub-signature"),
        "rejected (missing)",
    ),
    ("event without fixture", without_release_fixtures, "no expected.json has the event 'release'"),
    ("no fixtures", remove("fixtures"), "no expected.json has the event 'ping'"),
    ("no scheme used", remove("fixtures"), "no fixture for the signature scheme 0 (hmac)"),
    ("no request", remove("fixtures/push/request.json"), "fixtures/push: request.json is missing"),
    ("no expectation", remove("fixtures/push/expected.json"), "run 'interlink provider test github --write'"),
    ("request no JSON", fixture("push", "request.json", lambda _: "{"), "fixtures/push/request.json: "),
    ("request more", fixture("push", "request.json", request(when=1)), "push/request.json: when: Extra"),
    ("expected no JSON", fixture("push", "expected.json", lambda _: "{"), "push/expected.json is not JSON"),
    ("two bodies", written("fixtures/push/body.txt", "x"), "fixtures/push: at most one body.*"),
    (
        "body no JSON",
        fixture("push", "body.json", lambda _: "{"),
        "fixtures/push: it is rejected: the body is not",
    ),
    (
        "body no object",
        fixture("push", "body.json", lambda _: "[]"),
        "fixtures/push: it is rejected: the body is JSON, but not an object",
    ),
    (
        "no event header",
        fixture("push", "request.json", header("X-GitHub-Event", None)),
        "fixtures/push: it is rejected: the webhook has no {header:x-github-event}",
    ),
    (
        "no delivery header",
        fixture("push", "request.json", header("X-GitHub-Delivery", None)),
        "fixtures/push: expected.json differs: events.0.delivery_id is now null",
    ),
    (
        "unknown event",
        fixture("push", "request.json", header("X-GitHub-Event", "sneeze")),
        "fixtures/push: the event 'sneeze' is neither handled nor ignored",
    ),
    (
        "another message",
        fixture("push", "expected.json", lambda text: text.replace("pushed", "threw")),
        'fixtures/push: expected.json differs: events.0.message is now {"author"',
    ),
    (
        "another trigger",
        manifest(
            'github_trigger_new_commit: { "json:head_commit": present }', "github_trigger_new_commit: {}"
        ),
        'expected.json differs: events.0.triggers is now ["github_trigger_new_commit"]',
    ),
    (
        "no object expected",
        fixture("push", "expected.json", lambda _: "[]"),
        "expected.json has to be an object",
    ),
    (
        "no events expected",
        fixture("push", "expected.json", lambda _: '{"events": ["push"]}'),
        "expected.json: events has to be a list of objects",
    ),
    (
        "fewer events expected",
        fixture("push", "expected.json", lambda _: '{"events": []}'),
        "expected.json differs: events is now [",
    ),
    (
        "null expected",
        fixture("push", "expected.json", lambda text: json.dumps(json.loads(text) | {"x": None})),
        "parts that are null",
    ),
    (
        "colour no colour",
        manifest('color: "#0969da"', 'color: "blue"'),
        "it is rejected: the message is not valid",
    ),
    (
        "no text",
        manifest(
            'text: "{{ who }} {{ done }} {{ which_pull }} {{ how }} in {{ where }}{{ people }}"', 'text: ""'
        ),
        "it is rejected: the message is not valid: text: ",
    ),
    (
        "trigger that nothing fires",
        manifest(
            "triggers: [github_trigger_new_commit",
            "triggers: [github_trigger_new_star, github_trigger_new_commit",
        ),
        "nothing fires github_trigger_new_star",
    ),
    (
        "fired and polled",
        manifest(
            "  auth_type: oauth", "  auth_type: oauth\n  polled: { github_trigger_new_issue: { about: x } }"
        ),
        "integration.polled: an event fires github_trigger_new_issue",
    ),
    (
        "polled, not listed",
        manifest(
            "  auth_type: oauth", "  auth_type: oauth\n  polled: { github_trigger_new_star: { about: x } }"
        ),
        "integration.polled: github_trigger_new_star is not in integration.triggers",
    ),
    (
        "drawing with a script",
        written("icon.svg", '<svg viewBox="0 0 24 24"><script/></svg>'),
        "icon.svg: an icon may",
    ),
    (
        "drawing of another size",
        written("icon.svg", '<svg viewBox="0 0 32 32"><path d="M0 0"/></svg>'),
        "icon.svg: an icon may",
    ),
    (
        "unknown exemption",
        manifest("tier: verified", "tier: verified\nexemptions: { beauty: It is not beautiful. }"),
        "exemptions.beauty: unknown rule",
    ),
    (
        "exemption without a reason",
        manifest("tier: verified", "tier: verified\nexemptions: { fixture: none }"),
        "exemptions.fixture: add the reason",
    ),
]

OF_ACME: list[tuple[str, Break, str]] = [
    (
        "a list without quotes",
        manifest('account: "{json:account_id}"', "account: {json:account_id}"),
        "webhook.account: Input should be a valid tuple: put a text with braces or # in quotes",
    ),
    (
        "an actor unescaped",
        manifest('actor: "Acme"', 'actor: "{{ user.name }}"'),
        "webhook.actor: user.name is not escaped in actor",
    ),
    (
        "an icon outside the catalogue",
        written("icon.svg", '<svg viewBox="0 0 24 24"><script/></svg>'),
        "icon.svg: an icon may",
    ),
    (
        "no such source",
        manifest('account: "{json:account_id}"', 'account: "{jason:account_id}"'),
        "webhook.account.0: Value error, no such source: 'jason:account_id'",
    ),
    (
        "open brace",
        manifest('account: "{json:account_id}"', 'account: "{json:account_id"'),
        "unbalanced brace in",
    ),
    ("no such scheme", manifest("scheme: hmac", "scheme: magic"), "does not match any of the expected tags"),
    (
        "secret without about",
        manifest("    about: The field Secret of", "    # The field Secret of"),
        "webhook.secret.about: missing",
    ),
    (
        "setting not declared",
        manifest('account: "{json:account_id}"', 'account: "{setting:team}"'),
        "webhook.settings: team is used but not declared",
    ),
    (
        "setting not used",
        manifest(
            '  event: "{json:type}"', '  settings: { team: { name: Team, about: x } }\n  event: "{json:type}"'
        ),
        "webhook.settings.team: nothing uses it",
    ),
    (
        "setting without example",
        manifest(
            '  account: "{json:account_id}"',
            '  settings: { team: { name: Team, about: x, pattern: "[0-9]+" } }\n  account: "{setting:team}"',
        ),
        "webhook.settings.team: add an example that matches the pattern",
    ),
    (
        "setting with a wrong example",
        manifest(
            '  account: "{json:account_id}"',
            '  settings: { team: { name: Team, about: x, pattern: "[0-9]+", example: x1 } }\n'
            '  account: "{setting:team}"',
        ),
        "webhook.settings.team: add an example that matches the pattern",
    ),
    (
        "handshakes not described",
        manifest("  no_handshake: The provider", "  # The provider"),
        "webhook.handshakes: empty: describe one, or say why not in no_handshake",
    ),
    (
        "handshake without fixture",
        handshake(),
        "no fixture for the handshake 'It asks whether the address is ours.'",
    ),
    (
        "handshake with another response",
        all_of(handshake("{query:challenge}!"), of_the_handshake),
        'fixtures/challenge: expected.json differs: answer is now {"status":200',
    ),
    (
        "handshake without the value that it echoes",
        all_of(handshake("{query:answer}"), of_the_handshake),
        "fixtures/challenge: it is rejected: the handshake has no {query:answer}",
    ),
    (
        "neither message nor trigger",
        manifest("  # Events that are accepted", "    item.moved:\n      about: It was moved.\n  # Events"),
        "webhook.handled.item.moved: no message and no trigger",
    ),
    (
        "scheme without fixture",
        manifest("  secret:\n", OLD_SCHEME + "  secret:\n"),
        "fixtures: no fixture for the signature scheme 1 (old)",
    ),
    (
        "what is signed is not in the fixture",
        manifest('signed: "{body}"', 'signed: "{header:x-nonce}{body}"'),
        "no fixture for the signature scheme 0 (hmac)",
    ),
    (
        "anybody's signature",
        manifest("    - scheme: hmac", "    - scheme: digest"),
        "signed: without {secret} anybody can compute the digest",
    ),
    (
        "verified without a vector",
        manifest("tier: from-memory", "tier: verified"),
        "vectors.json: missing: add a published signature",
    ),
    (
        "vector of another key",
        written("vectors.json", json.dumps([VECTOR])),
        "vectors.json: 0 (the provider's documents): rejected (mismatch)",
    ),
    (
        "vector without its header",
        written("vectors.json", json.dumps([VECTOR | {"headers": {}}])),
        "vectors.json: 0 (the provider's documents): rejected (missing)",
    ),
    ("colour", manifest('color: "#6B7280"', "color: grey"), "color: String should match pattern"),
    (
        "batch that is no list",
        manifest('  event: "{json:type}"', '  batch: [items]\n  event: "{json:type}"'),
        "the path of a batch ends with [*]",
    ),
    (
        "text and json",
        manifest("  no_handshake:", "  answers: [{ text: x, json: {} }]\n  no_handshake:"),
        "use text or json, not both",
    ),
    (
        "trigger that nothing fires",
        entry(triggers="[acme_trigger_new_item]"),
        "nothing fires acme_trigger_new_item",
    ),
    (
        "integration without steps",
        written("manifest.yaml", NO_WEBHOOK + "integration: { auth_type: none }\n"),
        "integration.setup_steps: empty",
    ),
    (
        "sources",
        manifest("  - No document yet. List", '  - ""\n# List'),
        "sources: empty: list the documents",
    ),
]


def of_events(folder: Path, texts: list[str]) -> None:
    """A batch of events, each with one of these texts as its title."""
    case = folder / "fixtures" / "item_created"
    whole = json.loads(case.joinpath("body.json").read_text())
    whole["items"] = [{"id": str(at), "name": text} for at, text in enumerate(texts)]
    case.joinpath("body.json").write_text(json.dumps(whole))


def test_an_unescaped_text_of_a_batch(acme: Path) -> None:
    of_events(acme, ["one", "two"])
    manifest('  event: "{json:type}"', '  batch: ["items[*]"]\n  event: "{json:type}"')(acme)
    manifest("{{ title | link: item.url }}", "{% for each in items %}{{ each.name }}{% endfor %}")(acme)
    found = [fault for fault in check(acme) if "is not escaped" in fault]
    where = "acme/manifest.yaml: webhook.handled.item.created: items.0.name is not escaped in text"
    assert found == [f"{where}: use a filter: md, bold, link, excerpt, markdown, wiki, subject or url"]


def test_a_text_in_a_branch_that_a_comparison_leads_to(acme: Path) -> None:
    manifest("{{ title | link: item.url }}", '{% if type == "item.created" %}{{ item.title }}{% endif %}')(
        acme
    )
    assert any("item.title is not escaped in text" in fault for fault in check(acme))


def test_anchors_and_merges_are_no_doubles(acme: Path) -> None:
    manifest(
        "    item.created:\n",
        "    item.copied: &copied\n"
        "      about: It was copied.\n"
        "      triggers: {}\n"
        "    item.cloned:\n"
        "      <<: *copied\n"
        "      about: It was cloned.\n"
        "    item.created:\n",
    )(acme)
    webhook = read_manifest(acme).webhook
    assert webhook
    assert webhook.handled["item.cloned"].about == "It was cloned."
    assert webhook.handled["item.copied"].about == "It was copied."


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("def read(", "acme/body.py: line 1: "),
        ("1 / 0", "acme/body.py: ZeroDivisionError: division by zero"),
        ("reads = 1", "acme/body.py: has no function read"),
        ("read = 1", "acme/body.py: has no function read"),
        ("def read(body):\n    return {}['x']\n", "item_created: body.py raises KeyError: 'x'"),
    ],
)
def test_a_reader_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, fault: str
) -> None:
    package = f"readers_{tmp_path.name.replace('-', '_')}"
    root = tmp_path / package
    root.mkdir()
    root.joinpath("__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("registry", "provider_code"):
        monkeypatch.setattr(f"shared.manifests.{module}.PACKAGE", package)
    folder = create(root, "acme", "Acme", "hmac")
    folder.joinpath("body.py").write_text(code)
    case = folder / "fixtures" / "item_created"
    case.joinpath("body.json").rename(case / "body.xml")
    case.joinpath("request.json").write_text('{"headers": {"content-type": "application/xml"}}')
    faults = check(folder)
    assert any(fault in line for line in faults), faults
    assert all("\n" not in line for line in faults)


def broken(folder: Path, breaking: Break) -> list[str]:
    breaking(folder)
    folder = next(each for each in folder.parent.iterdir() if each.is_dir())
    faults = check(folder)
    assert faults
    assert all(line.startswith(f"{folder.name}/") and "\n" not in line for line in faults)
    return faults


@pytest.mark.parametrize(("breaking", "fault"), [pytest.param(*case[1:], id=case[0]) for case in OF_GITHUB])
def test_each_fault_is_one_line_that_says_what_is_wrong(github: Path, breaking: Break, fault: str) -> None:
    faults = broken(github, breaking)
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(("breaking", "fault"), [pytest.param(*case[1:], id=case[0]) for case in OF_ACME])
def test_each_fault_of_the_scheme_is_found(acme: Path, breaking: Break, fault: str) -> None:
    faults = broken(acme, breaking)
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    ("rule", "breaking"),
    [
        ("vector", manifest("tier: from-memory", "tier: verified")),
        ("fixture", handshake()),
        ("way", manifest("  secret:\n", OLD_SCHEME + "  secret:\n")),
        (
            "message",
            manifest(
                "  # Events that are accepted", "    item.moved:\n      about: It was moved.\n  # Events"
            ),
        ),
    ],
)
def test_an_exemption_with_a_reason_switches_a_rule_off(acme: Path, rule: str, breaking: Break) -> None:
    breaking(acme)
    before = check(acme)
    assert before
    manifest("\nwebhook:\n", f"\nexemptions: {{ {rule}: There is a good reason. }}\nwebhook:\n")(acme)
    after = check(acme)
    assert len(after) < len(before)

"""The channels of providers: their fixtures, hostile input, and what the checker finds in a folder."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from interlink.provider.channel_rules import channel_faults
from interlink.provider.channel_samples import (
    FOLDER,
    EventSample,
    OperationSample,
    event_faults,
    observe_operation,
    operation_faults,
    read_samples,
)
from interlink.provider.provider_folder import PROVIDERS_ROOT
from shared.contracts.errors import Malformed
from shared.manifests.capabilities import capabilities
from shared.manifests.channel_failures import checked
from shared.manifests.channel_types import (
    Account,
    Call,
    CallResponse,
    Channel,
    MessageWritten,
    Operation,
    ReadsEvents,
    Sends,
    Step,
)
from shared.manifests.registry import Provider, read_manifest, registry
from shared.richtext.runs import runs_of
from shared.richtext.tree import Document, ListBlock, Paragraph, Quote, Text

CHANNELS = sorted(name for name, provider in registry().providers.items() if provider.manifest.channel)
EVENTS = [
    pytest.param(name, event, group.account, id=f"{name}: {event.name}")
    for name in CHANNELS
    for group in read_samples(PROVIDERS_ROOT / name).values()
    for event in group.events
]
OPERATIONS = [
    pytest.param(name, operation, group.account, id=f"{name}: {operation.name}")
    for name in CHANNELS
    for group in read_samples(PROVIDERS_ROOT / name).values()
    for operation in group.operations
]
LIMIT_S = 0.2
"""Ten times the bound, for a machine that is shared; a loop over the square of the input takes minutes."""


def channel_of(name: str) -> Channel:
    channel = registry().providers[name].channel
    assert channel
    return channel


@pytest.mark.parametrize(("name", "sample", "owner"), EVENTS)
def test_an_event_is_read_as_its_fixture_says(name: str, sample: EventSample, owner: dict[str, Any]) -> None:
    assert list(event_faults(channel_of(name), sample, owner)) == []


@pytest.mark.parametrize(("name", "sample", "owner"), OPERATIONS)
def test_an_operation_makes_the_calls_of_its_fixture(
    name: str, sample: OperationSample, owner: dict[str, Any]
) -> None:
    faults, _ = operation_faults(channel_of(name), sample, owner)
    assert faults == []


def test_a_provider_without_conversations_has_no_channel() -> None:
    github = registry().providers["github"]
    assert github.channel is None
    assert capabilities(github) == []


def test_capabilities_name_the_scope_that_an_account_lacks() -> None:
    slack = registry().providers["slack"]
    granted = {scope for scopes in slack.manifest.connect.purposes.values() for scope in scopes}  # type: ignore[union-attr]
    by_name = {status.capability: status for status in capabilities(slack, granted - {"reactions:write"})}
    assert by_name["send"].available
    assert not by_name["react"].available
    assert by_name["react"].missing_scopes == ("reactions:write",)
    assert "reactions:write" in by_name["react"].reason
    assert not by_name["typing"].available


def test_telegram_says_what_a_mapping_misses() -> None:
    missing = {
        s.capability: s.reason for s in capabilities(registry().providers["telegram"]) if not s.available
    }
    assert missing["read_deletions"] == "Telegram reports no deletions to bots."
    assert "find_sent" in missing


def test_nothing_fails_after_the_visible_step() -> None:
    def operation() -> Operation[str]:
        yield Step(Call("POST", "write"), visible=True)
        response = yield Step(Call("GET", "look"))
        return f"status {response.status}"

    channel = channel_of("slack")
    carried = checked(operation(), channel.failure)
    next(carried)
    carried.send(CallResponse(200, {}, {"ok": True}))
    with pytest.raises(StopIteration) as done:
        carried.send(CallResponse(503, {}))
    assert done.value.value == "status 503"


def slack_event(**fields: Any) -> dict[str, Any]:
    message = {"type": "message", "user": "U1", "ts": "1795000000.000100", "channel": "C1", **fields}
    return {"type": "event_callback", "event": message}


def rich_text(*elements: Any) -> dict[str, Any]:
    return slack_event(text="", blocks=[{"type": "rich_text", "elements": list(elements)}])


def telegram_event(**fields: Any) -> dict[str, Any]:
    message = {"message_id": 5, "from": {"id": 1}, "chat": {"id": -1}, "date": 1795000000, **fields}
    return {"update_id": 1, "message": message}


def section(*elements: Any) -> dict[str, Any]:
    return {"type": "rich_text_section", "elements": list(elements)}


def nested(levels: int) -> Any:
    inner: Any = {"type": "text", "text": "deep"}
    for _ in range(levels):
        inner = section(inner)
    return inner


STYLED = {"type": "text", "text": "x", "style": {"bold": True}}
HOSTILE: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
    ("slack", "1 MB of text", lambda: slack_event(text="x" * 1_000_000)),
    ("slack", "1 MB of marks", lambda: slack_event(text="*_~`<" * 200_000)),
    ("slack", "1 MB of open marks", lambda: slack_event(text="*a " * 300_000)),
    ("slack", "1 MB of quotes", lambda: slack_event(text="&gt;\n" * 200_000)),
    ("slack", "1 MB of colons", lambda: slack_event(text=":a" * 500_000)),
    ("slack", "1 MB of a link", lambda: slack_event(text="<" + "http://a|" * 100_000)),
    ("slack", "10,000 elements", lambda: rich_text(section(*[STYLED] * 10_000))),
    ("slack", "10,000 sections", lambda: rich_text(*[section(STYLED)] * 10_000)),
    ("slack", "10,000 mentions", lambda: rich_text(section(*[{"type": "user", "user_id": "U1"}] * 10_000))),
    ("slack", "900 levels", lambda: rich_text(nested(900))),
    (
        "slack",
        "5,000 levels of lists",
        lambda: rich_text(
            *(
                {"type": "rich_text_list", "indent": level, "elements": [section(STYLED)]}
                for level in range(5000)
            )
        ),
    ),
    (
        "slack",
        "surrogates and controls",
        lambda: rich_text(section({"type": "text", "text": "a\ud800\x00b"})),
    ),
    ("telegram", "1 MB of text", lambda: telegram_event(text="\U0001f600" * 250_000)),
    (
        "telegram",
        "10,000 entities",
        lambda: telegram_event(
            text="ab" * 10_000,
            entities=[{"type": "bold", "offset": at, "length": 1} for at in range(0, 20_000, 2)],
        ),
    ),
    (
        "telegram",
        "10,000 entities at one place",
        lambda: telegram_event(
            text="\U0001f600" * 4_000,
            entities=[{"type": "text_link", "offset": 0, "length": 8_000, "url": "https://x.example"}]
            * 10_000,
        ),
    ),
    (
        "telegram",
        "1,000 entities within one another",
        lambda: telegram_event(
            text="ab" * 2_000,
            entities=[
                {"type": kind, "offset": at, "length": 4_000 - 2 * at}
                for at in range(200)
                for kind in ("bold", "italic", "spoiler", "blockquote", "text_link")
            ],
        ),
    ),
    (
        "telegram",
        "numbers beyond any text",
        lambda: telegram_event(text="hi", entities=[{"type": "bold", "offset": 2**70, "length": 2**70}]),
    ),
]


@pytest.mark.parametrize(("name", "what", "make"), HOSTILE, ids=[f"{each[0]}: {each[1]}" for each in HOSTILE])
def test_hostile_messages_are_cut_or_flattened_in_time(
    name: str, what: str, make: Callable[[], dict[str, Any]]
) -> None:
    channel, payload = channel_of(name), make()
    assert isinstance(channel, ReadsEvents)
    durations: list[float] = []
    for _ in range(3):  # the first one loads tables, and another test's garbage may be collected in one
        started = time.process_time()
        changes = channel.changes("message", payload, Account("1"))
        durations.append(time.process_time() - started)
    assert min(durations) < LIMIT_S
    for change in changes:
        assert isinstance(change, MessageWritten)
        text = "".join(texts(change.body))
        assert len(text) <= 40_000
        assert "\x00" not in text
        assert text.encode("utf-8", "replace").decode() == text


JUNK: tuple[Any, ...] = (None, True, -1, 2**70, 1.5, "", "x\ud800", [], [[]], [{}], {}, {"type": []})


def damaged(value: Any) -> Iterator[Any]:
    """Yield copies of a value with each kind of junk in each place, and without each of its parts."""
    yield from JUNK
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {key: other for key, other in value.items() if key != name}
            yield from ({**value, name: worse} for worse in damaged(inner))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from ([*value[:number], worse, *value[number + 1 :]] for worse in damaged(inner))


@pytest.mark.parametrize(("name", "sample", "owner"), EVENTS)
def test_a_damaged_event_is_read_or_refused(name: str, sample: EventSample, owner: dict[str, Any]) -> None:
    channel = channel_of(name)
    assert isinstance(channel, ReadsEvents)
    for payload in damaged(sample.payload):
        if isinstance(payload, dict):
            with suppress(Malformed):
                channel.changes(sample.event, payload, Account("1"))


@pytest.mark.parametrize(("name", "sample", "owner"), OPERATIONS)
def test_a_damaged_response_ends_an_operation_or_fails_it(
    name: str, sample: OperationSample, owner: dict[str, Any]
) -> None:
    for number, step in enumerate(sample.steps):
        for response in damaged(step.response):
            steps = [*sample.steps[:number], step.model_copy(update={"response": response})]
            observe_operation(channel_of(name), sample.model_copy(update={"steps": steps}), owner)


def texts(document: Document) -> list[str]:
    found: list[str] = []
    pending: list[Any] = list(document.blocks)
    while pending:
        block = pending.pop()
        if isinstance(block, Paragraph):
            found += (getattr(run.leaf, "text", "") for run in runs_of(block.children))
        elif isinstance(block, Quote):
            pending += block.children
        elif isinstance(block, ListBlock):
            pending += (part for item in block.items for part in item)
        else:
            found.append(block.text)
    return found


@pytest.mark.parametrize("name", CHANNELS)
def test_parts_of_a_long_text_have_all_of_it(name: str) -> None:
    channel = channel_of(name)
    assert isinstance(channel, Sends)
    words = [f"word{number}" for number in range(3_000)]
    parts = channel.split(Document((Paragraph((Text(" ".join(words)),)),)), files=0)
    assert len(parts) > 1
    assert " ".join("".join(texts(part)) for part in parts).split() == words
    assert list(channel.split(Document(()), files=1)) == [Document(())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "telegram"
    shutil.copytree(PROVIDERS_ROOT / "telegram", copy)
    return copy


def faults_after(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Return the checker's faults after a change of the manifest, a line each."""
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text("utf-8"))
    change(manifest["channel"])
    path.write_text(yaml.safe_dump(manifest), "utf-8")
    return "\n".join(channel_faults(folder, Provider(read_manifest(folder))))


def test_the_checker_wants_section_and_code_to_agree(folder: Path) -> None:
    assert "does not implement FindsSent" in faults_after(
        folder, lambda spec: spec["missing"].pop("find_sent")
    )
    added = {"typing": "Telegram shows nothing."}
    assert "implements Signals: remove it" in faults_after(
        folder, lambda spec: spec["missing"].update(added) or spec["notes"].pop("typing", None)
    )
    assert "make them equal" in faults_after(folder, lambda spec: spec["limits"].pop("reactions"))
    scopes = {"send": {"x": "To send."}}
    assert "does not request x" in faults_after(folder, lambda spec: spec.update(scopes=scopes))


def test_the_checker_wants_a_rate_for_every_method_and_a_fixture_for_every_capability(folder: Path) -> None:
    rate = {"methods": ["sendVoice"], "scope": "account", "amount": 1, "per_s": 1}
    assert "no fixture calls sendVoice" in faults_after(folder, lambda spec: spec["rates"].append(rate))
    assert "nothing limits getChat" in faults_after(folder, lambda spec: spec.update(rates=[rate]))
    shutil.rmtree(folder / FOLDER)
    found = faults_after(folder, dict)
    assert "no fixture for the capability react" in found
    assert "no fixture of a malformed event" in found


def test_the_checker_tells_which_fixture_does_not_hold(folder: Path) -> None:
    path = folder / FOLDER / "events.yaml"
    samples = yaml.safe_load(path.read_text("utf-8"))
    samples["events"][0]["changes"][0]["external_id"] = "6"
    path.write_text(yaml.safe_dump(samples), "utf-8")
    assert "a message with formatting: its changes are" in faults_after(folder, dict)
    path.write_text("account: 5", "utf-8")
    assert "channel/events.yaml:" in faults_after(folder, dict)


def test_a_section_without_code_is_a_fault(folder: Path) -> None:
    manifest = read_manifest(folder)
    without_code = manifest.model_copy(update={"id": "github"})
    assert "channel.py: missing" in "\n".join(channel_faults(folder, Provider(without_code)))
    without_section = manifest.model_copy(update={"channel": None})
    assert "channel: missing" in "\n".join(channel_faults(folder, Provider(without_section)))

"""Webhooks that providers really sent: each is read, gets its event and triggers, and reads well if shown.

They are in a folder beside the repository; of GitHub there are GitHub's own examples besides. What becomes of
each is in `real_payloads.json`. After an intended change, write it again and check the diff:

    .venv/bin/python -m tests.providers.test_real_payloads
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.manifests.fixtures import default_settings
from shared.wire.bodies import FORM_CONTENT_TYPE
from tests.providers.prose import flaws, without_each
from tests.providers.recorded import WITH_WEBHOOKS, provider
from tests.support.github_payloads import Example, octokit_examples, shared_examples
from tests.support.npm import Unavailable

SHARED = Path(__file__).parents[3] / "shared" / "data" / "webhooks"
_ADDRESS = re.compile(r"[\w.+-]+\\?@[\w.-]+\.\w+")
"""Of somebody: it has no business in the repository."""
SNAPSHOT = Path(__file__).with_name("real_payloads.json")

# The provider sends the event in a header; the file's name spells it differently.
_BITBUCKET_CLOUD = {
    "commit_comment_created": "repo:commit_comment_created",
    "force_push": "repo:push",
    "issue_commented": "issue:comment_created",
    "issue_updated": "issue:updated",
    "pull_request_approved_or_unapproved": "pullrequest:approved",
    "pull_request_created_or_updated": "pullrequest:created",
    "pull_request_fulfilled_or_rejected": "pullrequest:fulfilled",
    "repo_updated": "repo:updated",
}


def _bitbucket_cloud(stem: str, _payload: Any) -> dict[str, str]:
    return {"x-event-key": "repo:push" if stem.startswith("push") else _BITBUCKET_CLOUD[stem]}


def _bitbucket_server(_stem: str, payload: Any) -> dict[str, str]:
    return {"x-event-key": payload["eventKey"]}


def _gitlab(stem: str, _payload: Any) -> dict[str, str]:
    hook, _, rest = stem.partition("__")
    name = "build_hook" if hook.startswith("build_") else hook
    words = ("confidential_" if rest.startswith("confidential") else "") + name
    return {"x-gitlab-event": words.replace("_", " ").title()}


def _sentry(_stem: str, payload: Any) -> dict[str, str]:
    if "data" not in payload:
        return {}  # the plugin that went before integrations
    return {"sentry-hook-resource": "event_alert" if "event" in payload["data"] else "issue"}


def _slack(_stem: str, _payload: Any) -> dict[str, str]:
    return {"content-type": FORM_CONTENT_TYPE}


def _nothing(_stem: str, _payload: Any) -> dict[str, str]:
    return {}


HEADERS: Mapping[str, Callable[[str, Any], dict[str, str]]] = {
    "bitbucket2": _bitbucket_cloud,
    "bitbucket3": _bitbucket_server,
    "gitlab": _gitlab,
    "sentry": _sentry,
    "slack": _slack,
}
"""The headers of a file, by its folder; those that are left out say nothing in headers that is read."""


def _files() -> list[tuple[str, str, dict[str, str], bytes]]:
    """Each file: its name, its provider, the headers that it came with, its body."""
    found = [
        (f"github/{each.name.partition('/')[2]}.json", "github", {"x-github-event": each.event}, each.body)
        for each in shared_examples()
    ]
    for file in sorted(path for path in SHARED.glob("*/*") if path.parent.name != "github"):
        folder, body = file.parent.name, file.read_bytes()
        say = HEADERS.get(folder, _nothing)
        headers = say(file.stem, orjson.loads(body) if file.suffix == ".json" else None)
        found.append((f"{folder}/{file.name}", folder.rstrip("0123456789"), headers, body.strip()))
    return found


def became(name: str, headers: Mapping[str, str], body: bytes) -> list[dict[str, Any]]:
    """Return the events of a webhook, or the handshake that it is."""
    own = provider(name)
    assert own.definition
    raw = {"content-type": "application/json", **headers}
    request = own.definition.request(
        "POST",
        f"https://hub.example.com/api/webhooks/{name}/ep_1",
        b"",
        {key.encode(): [value.encode()] for key, value in raw.items()},
        body,
        default_settings(own),
    )
    handshake = own.definition.handshake(request) or own.definition.verified_handshake(request)
    if handshake:
        handshake.response(request)
        return [{"handshake": handshake.about}]
    events: list[dict[str, Any]] = []
    for webhook_event in own.definition.events(request):
        event: dict[str, Any] = {"event": webhook_event.event}
        if webhook_event.triggers:
            event["triggers"] = list(webhook_event.triggers)
        templates = own.messages.get(webhook_event.event)
        payload = orjson.loads(own.payload(webhook_event.content_type, webhook_event.data))
        if templates and templates.applies(payload):
            event["text"] = _ADDRESS.sub("(address)", templates.message(payload).text)
        events.append(event)
    own.definition.answer(request)
    return events


def _made() -> dict[str, list[dict[str, Any]]]:
    return {
        file: became(name, headers, body) for file, name, headers, body in _files() if name in WITH_WEBHOOKS
    }


@pytest.mark.parametrize(
    "name", sorted({re.sub(r"\d+$", "", path.name) for path in SHARED.glob("*")} or {"none"})
)
def test_every_file_becomes_what_it_did(name: str) -> None:
    files = [each for each in _files() if each[1] == name]
    if not files:
        pytest.skip("the folder with real payloads is not beside the repository")
    known = json.loads(SNAPSHOT.read_text("utf-8"))
    faults: list[str] = []
    for file, _, headers, body in files:
        try:
            actual = became(name, headers, body)
        except Exception as error:  # noqa: BLE001 -- none may raise, and all are to be seen
            faults.append(f"{file}: {error!r}")
            continue
        if actual != known.get(file):
            faults.append(f"{file}: {actual}, not {known.get(file)}")
    assert not faults, "\n".join(faults)


# GitHub


def _octokit() -> list[Example]:
    try:
        return octokit_examples()
    except Unavailable as reason:
        pytest.skip(str(reason))


def _shared() -> list[Example]:
    examples = shared_examples()
    if not examples:
        pytest.skip("the folder with real payloads is not beside the repository")
    return examples


@pytest.fixture(scope="module", params=[_octokit, _shared], ids=["octokit", "shared"])
def examples(request: pytest.FixtureRequest) -> list[Example]:
    found: list[Example] = request.param()
    return found


_BEGINNINGS = (
    *("Someone ", "The webhook of ", "Workflow ", "The check suite ", "The merge queue "),
    *("The deployment ", "[The deployment]("),
)
"""Of messages without their sender."""


def test_every_event_is_in_the_manifest(examples: list[Example]) -> None:
    github = provider("github")
    events = Counter(example.event for example in examples)
    assert not [event for event in events if event not in github.handled and event not in github.ignored]
    assert events.keys() & github.handled
    assert events.keys() & github.ignored


def test_every_handled_one_reads_well(examples: list[Example]) -> None:
    messages = provider("github").messages
    found: list[str] = []
    shown = 0
    for example in examples:
        if example.event in messages:
            message = messages[example.event].message(json.loads(example.body))
            shown += 1
            found += [f"{example.name}: {flaw}" for flaw in flaws(message)]
            assert message.author.name == "GitHub"
            assert message.author.icon_url
            assert "](https://" in message.text or "organization" in message.text, message.text
    assert shown
    assert not found


def test_without_its_sender_each_is_still_a_sentence(examples: list[Example]) -> None:
    messages = provider("github").messages
    for example in examples:
        if example.event in messages:
            payload = json.loads(example.body) | {"sender": None, "pusher": None}
            message = messages[example.event].message(payload)
            assert not flaws(message)
            assert message.text.startswith(_BEGINNINGS), message.text
            assert message.author.icon_url is None


def test_without_any_one_field_each_is_still_a_sentence() -> None:
    messages = provider("github").messages
    found = {
        f"{example.name} without {path}: {flaw}"
        for example in _shared()
        if example.event in messages
        for path, payload in without_each(json.loads(example.body), depth=2)
        for flaw in flaws(messages[example.event].message(payload))
    }
    assert not found


if __name__ == "__main__":
    text = json.dumps(_made(), indent=1, sort_keys=True, ensure_ascii=False)
    SNAPSHOT.write_text(text + "\n", "utf-8")

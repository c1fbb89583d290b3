"""Webhooks that GitHub really sent or publishes as examples: each is known, and reads well if it is shown."""

import json
from collections import Counter

import pytest

from shared.catalog.registry import providers
from tests.providers.prose import flaws, without_each
from tests.support.github_payloads import Example, Unavailable, octokit_examples, shared_examples

GITHUB = providers()["github"]


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


def test_every_event_is_in_the_manifest(examples: list[Example]) -> None:
    events = Counter(example.event for example in examples)
    assert not [event for event in events if event not in GITHUB.handled and event not in GITHUB.ignored]
    assert events.keys() & GITHUB.handled.keys()
    assert events.keys() & GITHUB.ignored


def test_every_handled_one_reads_well(examples: list[Example]) -> None:
    found: list[str] = []
    shown = 0
    for example in examples:
        if example.event in GITHUB.handled:
            message = GITHUB.handled[example.event].message(json.loads(example.body))
            shown += 1
            found += [f"{example.name}: {flaw}" for flaw in flaws(message)]
            assert message.author.name == "GitHub"
            assert message.author.icon_url
            assert "](https://" in message.text or "organization" in message.text, message.text
    assert shown
    assert not found


def test_without_its_sender_each_is_still_a_sentence(examples: list[Example]) -> None:
    for example in examples:
        if example.event in GITHUB.handled:
            payload = json.loads(example.body) | {"sender": None, "pusher": None}
            message = GITHUB.handled[example.event].message(payload)
            assert not flaws(message)
            assert message.text.startswith(("Someone ", "The webhook of ")), message.text
            assert message.author.icon_url is None


def test_without_any_one_field_each_is_still_a_sentence() -> None:
    found = {
        f"{example.name} without {path}: {flaw}"
        for example in _shared()
        if example.event in GITHUB.handled
        for path, payload in without_each(json.loads(example.body), depth=2)
        for flaw in flaws(GITHUB.handled[example.event].message(payload))
    }
    assert not found

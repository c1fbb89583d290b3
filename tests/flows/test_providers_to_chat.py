"""Every provider's webhook becomes a chat message: over HTTP and Kafka, by the endpoint's test delivery."""

from pathlib import Path
from typing import Any

import httpx

from shared.manifests.fixtures import Fixture, default_settings, read_fixtures
from shared.manifests.registry import Provider, provider_folders, registry
from shared.manifests.scheme_signers import scheme_signers
from tests.support.backends import Bus
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub, hub_with
from tests.support.tap import Tap

KEYS_OF_THE_PLATFORM = frozenset(
    {
        "aws-sns",
        "discord_interactions",
        "discord_webhook_events",
        "dyte",
        "gmail",
        "paypal",
        "plaid",
        "sendgrid",
    }
)
"""Their webhooks are signed with a private key, which only the platform has."""


hub = hub_with(services=("gateway", "sync"), workspace="flow")


def test_the_first_message_of_each(hub: Hub, bus: Bus) -> None:
    tap = Tap(bus, "chat.inbound")
    current = [item for item in registry().providers.values() if item.messages]
    assert len(current) > 30
    expected: dict[str, list[str]] = {}
    unsigned: set[str] = set()
    polled: set[str] = set()
    for provider in current:
        cases = {case.name: _texts(case) for case in read_fixtures(_folder(provider))}
        event = next((event for texts in cases.values() for event, text in texts if text), None)
        if event is None:
            polled.add(provider.id)
            continue
        endpoint = _endpoint(hub, provider, event)
        answer = httpx.post(
            f"{hub.url('gateway')}/api/inbound-endpoints/{endpoint}/test",
            json={"event": event},
            headers={"authorization": f"Bearer {hub.admin_key}"},
            timeout=30,
        )
        if answer.status_code == 409:
            unsigned.add(provider.id)
            continue
        payload = answer.json()
        assert payload["status"] < 300, (provider.id, payload)
        expected[endpoint] = [text for _, text in cases[payload["fixture"]] if text]
    assert unsigned <= KEYS_OF_THE_PLATFORM
    assert polled <= {item.id for item in current if item.manifest.polling}
    assert len(expected) > 25

    def messages() -> dict[str, list[str]]:
        results: dict[str, list[str]] = {}
        for record in tap.look():
            results.setdefault(record.data["origin"]["endpoint_id"], []).append(record.data["text"])
        return {endpoint: texts for endpoint, texts in results.items() if endpoint in expected}

    eventually(lambda: sum(map(len, messages().values())) >= sum(map(len, expected.values())), 30)
    assert messages() == expected


def test_a_quiet_event_is_shown_where_it_is_named(hub: Hub, bus: Bus) -> None:
    tap = Tap(bus, "chat.inbound")
    selections = {
        "all": ["*"],
        "named": ["star"],
        "prefix": ["sta*"],
        "both": ["*", "star"],
        "other": ["push"],
    }
    endpoints = {
        name: hub.github_endpoint(channel_id="general", events=events) for name, events in selections.items()
    }
    sent = [
        _github(name) for name in ("star_created", "workflow_run_requested", "workflow_run_succeeded", "push")
    ]
    for endpoint in endpoints.values():
        for case in sent:
            headers = signed(endpoint["secret"], case.headers["x-github-event"], case.body)
            path = f"{hub.url('gateway')}/api/webhooks/github/{endpoint['id']}"
            assert httpx.post(path, content=case.body, headers=headers).status_code == 202
    expected = {
        "all": ["workflow_run", "push"],  # of workflow runs, only those that ended
        "named": ["star"],
        "prefix": ["star"],
        "both": ["star", "workflow_run", "push"],
        "other": ["push"],
    }

    def shown() -> dict[str, list[str]]:
        origins = [record.data["origin"] for record in tap.look()]
        return {
            name: [origin["event"] for origin in origins if origin["endpoint_id"] == endpoint["id"]]
            for name, endpoint in endpoints.items()
        }

    eventually(lambda: sum(map(len, shown().values())) >= sum(map(len, expected.values())), 30)
    assert shown() == expected


def _github(name: str) -> Fixture:
    folder = _folder(registry().providers["github"])
    return next(case for case in read_fixtures(folder) if case.name == name)


def _folder(provider: Provider) -> Path:
    return next(Path(str(folder)) for folder in provider_folders() if folder.name == provider.id)


def _texts(case: Fixture) -> list[tuple[str, str]]:
    """Each event of a recorded webhook with the text of its message, '' where it makes none."""
    return [
        (item["event"], item.get("message", {}).get("text", "")) for item in case.expected.get("events", ())
    ]


def _endpoint(hub: Hub, provider: Provider, *events: str) -> str:
    """A new endpoint with a channel that also shows `events`; with a secret where the provider makes it."""
    webhook = provider.manifest.webhook
    assert webhook
    body: dict[str, Any] = {
        "provider": provider.id,
        "name": provider.id,
        "channel_id": "general",
        "events": ["*", *events],
        "settings": default_settings(provider),
    }
    shared = [item.secret for item in scheme_signers(provider) if item.key == item.secret.encode()]
    if webhook.secret.source in ("theirs", "handshake") and shared:
        body["secret"] = shared[0]
    return str(hub.call("POST", "/api/inbound-endpoints", body, expect=201)["id"])

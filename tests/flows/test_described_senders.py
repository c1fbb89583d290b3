"""The provider `generic`: its events become messages, by the workspace's templates or by default."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import httpx
import pytest

from shared.contracts.topics import CHAT_INBOUND
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.tap import Tap

TEMPLATE = {"text": "{{ who | bold }} built {{ number }}", "title": "{{ title }}", "url": "{{ url | url }}"}
PAYLOAD = {
    "event": "build.done",
    "who": "Ada",
    "number": 7,
    "title": "Build [7]",
    "url": "https://ci.example/7",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    workspace = f"described-{token_hex(4)}"
    started = Hub(folder, bus, store, services=("gateway", "sync"), workspace=workspace, entrance=True)
    try:
        yield started.start()
    finally:
        started.stop()


class Endpoint:
    """An endpoint of `generic` with a channel of its own."""

    def __init__(self, hub: Hub, bus: Bus, **fields: Any) -> None:
        self._hub, self.channel = hub, f"c-{token_hex(6)}"
        body = {"provider": "generic", "name": "Builds", "channel_id": self.channel, **fields}
        created = hub.call("POST", "/api/inbound-endpoints", body, expect=201)
        self.id, self._url, self._secret = created["id"], created["url"], created["secret"]
        self._tap = Tap(bus, CHAT_INBOUND.name)

    def change(self, source: Any, expect: int = 200) -> Any:
        return self._hub.call("PATCH", f"/api/inbound-endpoints/{self.id}", {"source": source}, expect=expect)

    def send(self, payload: Any, content_type: str = "application/json") -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        signature = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"x-webhook-signature": signature, "content-type": content_type}
        path = self._url.partition("/api/")[2]
        answer = httpx.post(
            f"{self._hub.url('gateway')}/api/{path}", content=body, headers=headers, timeout=10
        )
        assert answer.status_code == 202, answer.text

    def messages(self, count: int) -> list[dict[str, Any]]:
        def own() -> list[dict[str, Any]]:
            return [record.data for record in self._tap.look() if record.key == self.channel.encode()]

        eventually(lambda: len(own()) >= count)
        assert len(own()) == count
        return own()


def preview(hub: Hub, expect: int = 200, **body: Any) -> Any:
    return hub.call("POST", "/api/messages/preview", {"provider": "generic", **body}, expect=expect)


def test_without_a_template_every_event_is_a_readable_message(hub: Hub, bus: Bus) -> None:
    endpoint = Endpoint(hub, bus)
    endpoint.send({"title": "Disk is full", "url": "https://a.example/1", "severity": "high"})
    endpoint.send({"event": "job.done", "id": 7})
    endpoint.send(b"plain words", "text/plain")
    endpoint.send(b"title=From+a+form", "application/x-www-form-urlencoded")
    endpoint.send(b"", "text/plain")
    texts = [message["text"] for message in endpoint.messages(5)]
    assert texts == [
        "[**Disk is full**](https://a.example/1)",
        "**job.done**",
        "plain words",
        "**From a form**",
        "**received**",
    ]
    first = endpoint.messages(5)[0]
    assert first["author"]["name"] == "Builds"
    assert first["embeds"][0]["fields"] == [{"name": "severity", "value": "high", "inline": True}]


def test_a_template_counts_for_the_next_event_after_the_answer(hub: Hub, bus: Bus) -> None:
    endpoint = Endpoint(hub, bus, source={"message": TEMPLATE})
    endpoint.send(PAYLOAD)
    endpoint.messages(1)
    for number in range(5):
        endpoint.change({"message": {"text": f"version {number} of {{{{ title }}}}"}})
        endpoint.send(PAYLOAD)
        endpoint.messages(number + 2)
    endpoint.change(None)
    endpoint.send(PAYLOAD)
    messages = endpoint.messages(7)
    assert messages[0]["text"] == "**Ada** built 7"
    assert messages[0]["embeds"][0]["title"] == "Build [7]"
    assert messages[0]["embeds"][0]["url"] == "https://ci.example/7"
    assert [message["text"] for message in messages[1:6]] == [
        f"version {number} of Build \\[7\\]" for number in range(5)
    ]
    assert messages[6]["text"] == "[**Build \\[7\\]**](https://ci.example/7)"


def test_a_template_that_fails_is_no_silence(hub: Hub, bus: Bus) -> None:
    endpoint = Endpoint(
        hub, bus, source={"message": {"text": "{% for i in a %}{{ b | excerpt: 9, 4000 }}{% endfor %}"}}
    )
    endpoint.send({"title": "Still here", "a": list(range(50)), "b": "x" * 9000})
    endpoint.send({"title": "And here"})
    assert [message["text"] for message in endpoint.messages(2)] == ["**Still here**", "**And here**"]
    eventually(lambda: "message.incomplete" in hub.log_text("sync"))


def test_the_preview_is_the_message_that_is_published(hub: Hub, bus: Bus) -> None:
    source = {"message": TEMPLATE, "event": "{json:event}"}
    endpoint = Endpoint(hub, bus, source=source)
    endpoint.send(PAYLOAD)
    [message] = endpoint.messages(1)
    [shown] = preview(hub, payload=PAYLOAD, source=source, name="Builds")["events"]
    assert (shown["event"], shown["outcome"], shown["reason"]) == ("build.done", "relayed", None)
    for field in ("text", "embeds", "attachments"):
        assert shown["message"][field] == message[field]
    # The author's id is derived from the endpoint's, and the preview is of none.
    assert {**shown["message"]["author"], "id": ""} == {**message["author"], "id": ""}
    [default] = preview(hub, payload=PAYLOAD)["events"]
    assert default["message"]["text"] == "[**Build \\[7\\]**](https://ci.example/7)"
    [failed] = preview(hub, payload={}, source={"message": {"text": "{{ who }}"}})["events"]
    assert failed["outcome"] == "relayed"
    assert "nothing to show" in failed["reason"]


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"message": {"text": "{{ a"}}, "source.message.text"),
        ({"message": {"text": "x", "body": "{{ a | no_such }}"}}, "source.message.body"),
        ({"message": {"text": "x" * 2001}}, "source.message.text"),
        ({"message": {}}, "source.message.text"),
    ],
)
def test_a_template_that_is_not_valid_is_refused(hub: Hub, bus: Bus, source: Any, field: str) -> None:
    body = {"provider": "generic", "name": "x", "source": source}
    for refused in (
        hub.call("POST", "/api/inbound-endpoints", body, expect=422),
        Endpoint(hub, bus).change(source, expect=422),
        preview(hub, 422, payload={}, source=source),
    ):
        assert [item["field"] for item in refused["errors"]] == [field]


def test_only_a_described_sender_has_a_source_in_the_preview(hub: Hub) -> None:
    body = {"provider": "github", "event": "push", "payload": {}, "source": {}}
    refused = hub.call("POST", "/api/messages/preview", body, expect=422)
    assert [item["field"] for item in refused["errors"]] == ["source"]

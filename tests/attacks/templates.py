"""Tenants whose message templates cost everybody's time, call everybody, or reach for files."""

import hashlib
import hmac
import json
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

import httpx

from shared.contracts.topics import CHAT_INBOUND
from tests.attacks.attack import Attack, Setup
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.tap import Tap

_SETUP: Final = Setup(services=("gateway", "sync"))
_PAYLOAD: Final = {
    "title": "still readable",
    "a": list(range(50)),
    "m": "https://a.example/ *x* `y` " * 20_000,
    "p": [{"a": "\x01" * 4000}] * 5,
    "deep": {"a": {"a": {"a": {"a": {}}}}},
    "call": "@everyone <!here> [x](https://evil.example)",
}
_COSTLY: Final = {
    "loops over long texts": "{% for i in a %}{% assign x = m | excerpt: 100, 4000 %}{% endfor %}",
    "doubles a text": "{% assign x = m %}{% for i in a %}{% assign x = x | append: x %}{% endfor %}",
    "nests loops": "{% for i in a %}{% for j in a %}{% for k in a %}x{% endfor %}{% endfor %}{% endfor %}",
    "compares all the time": "{%for i in a%}" + "{%if m contains deep%}{%endif%}" * 60 + "{%endfor%}",
    "writes without end": "{% for i in a %}" + "x" * 1900 + "{% endfor %}",
    "names people without end": "{% for i in a %}{{ p | names: " + "'a'," * 300 + "'a' }}{% endfor %}",
    "calls a filter wrongly": "{{ p | names: 5 }}",
    "parses much Markdown": "{% for i in a %}{{ m | markdown: 99, 4000 }}{% endfor %}",
    "replaces": "{% for i in a %}{{ m | replace: 'x', m }}{% endfor %}",
}
_REFUSED: Final = {
    "includes a file": "{% include '/etc/passwd' %}",
    "renders a file": "{% render 'x' %}",
    "ends nowhere": "{% for i in a %}",
    "uses a filter that multiplies": "{{ a | join: m }}",
    "is long": "x" * 2001,
    "nests deeply": "{% if a %}" * 90 + "x" + "{% endif %}" * 90,
}


class _Endpoint:
    """An endpoint of a workspace, and what reaches its channel."""

    def __init__(self, hub: Hub, text: str | None) -> None:
        self._hub, self._channel = hub, f"c-{token_hex(6)}"
        body: dict[str, Any] = {"provider": "generic", "name": "@everyone", "channel_id": self._channel}
        if text is not None:
            body["source"] = {"message": {"text": text, "body": text, "title": text}}
        created = hub.call("POST", "/api/inbound-endpoints", body, key=hub.other_workspace(), expect=201)
        self._url, self._secret = created["url"], created["secret"]
        self._tap = Tap(hub.bus, CHAT_INBOUND.name)

    def send(self, payload: Any) -> None:
        body = json.dumps(payload).encode()
        signature = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
        path = self._url.partition("/api/")[2]
        url = f"{self._hub.url('gateway')}/api/{path}"
        answer = httpx.post(url, content=body, headers={"x-webhook-signature": signature}, timeout=30)
        assert answer.status_code == 202, answer.text

    def messages(self, count: int) -> list[dict[str, Any]]:
        def own() -> list[dict[str, Any]]:
            return [record.data for record in self._tap.look() if record.key == self._channel.encode()]

        eventually(lambda: len(own()) >= count)
        return own()


def _costs_only_itself(text: str) -> Callable[[Hub], None]:
    """Its own messages come all the same, and another workspace's message comes behind them."""

    def attempt(hub: Hub) -> None:
        attacker, other = _Endpoint(hub, text), _Endpoint(hub, None)
        for _ in range(5):
            attacker.send(_PAYLOAD)
        other.send({"title": "of another workspace"})
        assert other.messages(1)[0]["text"] == "**of another workspace**"
        for message in attacker.messages(5):
            assert message["text"].strip()
            assert len(json.dumps(message)) < 20_000

    return attempt


def _is_refused(text: str) -> Callable[[Hub], None]:
    def attempt(hub: Hub) -> None:
        body = {"provider": "generic", "name": "x", "source": {"message": {"text": text}}}
        errors = hub.call("POST", "/api/inbound-endpoints", body, expect=422)["errors"]
        assert [error["field"] for error in errors] == ["source.message.text"]
        assert "root:" not in json.dumps(errors)

    return attempt


def _calls_everybody(hub: Hub) -> None:
    """By the template, by a value, and by the endpoint's name."""
    for text in (None, "{{ call }}", "@everyone <!here> {{ title }}", "{{ call | append: '' }}"):
        endpoint = _Endpoint(hub, text)
        endpoint.send(_PAYLOAD)
        endpoint.send({"title": _PAYLOAD["call"], "status": _PAYLOAD["call"], "@here": _PAYLOAD["call"]})
        for message in endpoint.messages(2):
            shown = json.dumps([message["author"], message["text"], message["embeds"]])
            assert "@everyone" not in shown
            assert "@here" not in shown
            assert "<!" not in shown
            markdown = [message["text"], *(embed["description"] or "" for embed in message["embeds"])]
            assert "[x](https" not in "".join(markdown)


ATTACKS: Final = (
    *(
        Attack(f"a message template {name}", _costs_only_itself(text), _SETUP)
        for name, text in _COSTLY.items()
    ),
    *(Attack(f"a message template {name}", _is_refused(text), _SETUP) for name, text in _REFUSED.items()),
    Attack("a message template that calls everybody", _calls_everybody, _SETUP),
)

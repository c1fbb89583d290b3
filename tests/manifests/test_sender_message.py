"""Messages of described senders: the workspace's templates, their bounds, and the default without them."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.errors import Invalid
from shared.manifests.message_templates import RenderedMessage
from shared.manifests.registry import registry
from shared.manifests.sender_description import MAX_TEMPLATE_CHARACTERS
from shared.manifests.sender_message import SenderMessages, default_message
from shared.wire.message_template import MessageTemplateError
from shared.wire.tenant_template import TenantTemplate, bounded_payload, tenant_environment

WEBHOOK = registry().providers["generic"].manifest.webhook
JSON = "application/json"


def shown(templates: Mapping[str, str], payload: Any, *, event: str = "e") -> tuple[RenderedMessage, str]:
    described = SenderMessages(WEBHOOK, {"message": dict(templates)})
    return described.message(event, JSON, json.dumps(payload).encode(), "Builds")


def facts(message: RenderedMessage) -> dict[str, str]:
    return {field.name: field.value for embed in message.embeds for field in embed.fields}


def test_a_template_makes_the_message_and_its_card() -> None:
    message, problem = shown(
        {
            "text": "{{ who.name | bold }} finished {{ title | link: url }} ({{ event_name }})",
            "title": "{{ title }}",
            "url": "{{ url | url }}",
            "body": "{{ log | excerpt: 2 }}",
            "color": "{% if ok %}#00ff00{% else %}#ff0000{% endif %}",
        },
        {
            "who": {"name": "Ada"},
            "title": "Build 7",
            "url": "https://ci.example/7",
            "log": "a\nb\nc",
            "ok": True,
        },
        event="build.finished",
    )
    assert problem == ""
    assert message.author.name == "Builds"
    assert message.text == "**Ada** finished [Build 7](https://ci.example/7) (build.finished)"
    [card] = message.embeds
    assert (card.title, str(card.url), card.color) == ("Build 7", "https://ci.example/7", "#00ff00")
    assert card.description == "a\nb\n… (1 more line)"


def test_a_template_shows_markdown_of_people_as_such() -> None:
    message, problem = shown(
        {
            "text": "{{ who | names: 'login' }} wrote",
            "title": "t",
            "body": "{{ text | markdown }}\n\n{{ wiki | wiki }}",
        },
        {
            "who": [{"login": "ada"}, {"login": "b_b"}],
            "text": "- **a** [x](https://a.example)\n\n```py\ncode\n```",
            "wiki": "*b* [x|https://b.example]",
        },
    )
    assert problem == ""
    assert message.text == "**ada**, **b\\_b** wrote"
    assert message.embeds[0].description == (
        "- **a** [x](https://a.example)\n\n```py\ncode\n```\n**b** [x](https://b.example)"
    )


@pytest.mark.parametrize("template", ["{{ p | names: 5 }}", "{{ p | names: p }}", "{{ p | link }}"])
def test_a_filter_with_wrong_arguments_gives_the_default_message(template: str) -> None:
    message, problem = shown({"text": template}, {"title": "Build 7", "p": [{"a": "b"}]})
    assert problem.startswith("text: ")
    assert message.text == "**Build 7**"


@pytest.mark.parametrize("value", ["[x](https://evil.example)", "<script>", "**b**", "@everyone", "<!here>"])
def test_a_value_without_a_filter_is_only_text(value: str) -> None:
    template = "x {{ a }} {{ a | append: a }} {% echo a %} {% liquid\n echo a\n %}"
    message, problem = shown({"text": template}, {"a": value})
    assert problem == ""
    assert "[x](" not in message.text
    assert "**b**" not in message.text
    assert "<!" not in message.text
    assert "@everyone" not in message.text
    assert "<script" not in message.text.replace("\\<script", "")


@pytest.mark.parametrize(
    "text", ["@everyone {{ a }}", "<!here> x", "{{ '@everyone' | url_encode | md }} @here"]
)
def test_a_template_itself_calls_nobody(text: str) -> None:
    message, _ = shown({"text": text}, {"a": "x"})
    assert "@everyone" not in message.text
    assert "@here" not in message.text
    assert "<!" not in message.text


@pytest.mark.parametrize(
    ("templates", "field"),
    [
        ({"text": "{{ a"}, "text"),
        ({"text": "{{ a | no_such }}"}, "text"),
        ({"text": "{% include 'x' %}"}, "text"),
        ({"text": "{% render 'x' %}"}, "text"),
        ({"text": "x", "body": "{% for %}"}, "body"),
        ({"text": "x" * (MAX_TEMPLATE_CHARACTERS + 1)}, "text"),
        ({"text": ""}, "text"),
        ({"title": "x"}, "text"),
        ({"text": "x", "footer": "x"}, "footer"),
        ({"text": 5}, "text"),
    ],
)
def test_a_template_that_is_not_valid_is_refused_with_its_place(templates: Any, field: str) -> None:
    with pytest.raises(Invalid) as error:
        SenderMessages(WEBHOOK, {"message": templates})
    assert [item.field for item in error.value.errors] == [f"source.message.{field}"]


COSTLY = {
    "filters in a loop": "{% for i in a %}{% assign x = m | excerpt: 100, 4000 %}{% endfor %}",
    "nested loops": "{% for i in a %}{% for j in a %}x{% endfor %}{% endfor %}",
    "doubling": "{% assign x = m %}{% for i in a %}{% assign x = x | append: x %}{% endfor %}",
    "much output": "{% for i in a %}" + "x" * 400 + "{% endfor %}",
    "captures": "{% for i in a %}{% capture x %}{{ m | excerpt: 99, 4000 }}{% endcapture %}{% endfor %}",
    "names": "{% for i in a %}{{ p | names: 'a', 'a', 'a', 'a', 'a' }}{% endfor %}",
    "many names": "{{ p | names: " + "'a'," * 400 + "'a' }}",
    "much Markdown": "{% for i in a %}{{ m | markdown }}{% endfor %}",
    "replacements": "{% for i in a %}{{ m | replace: 'x', m }}{% endfor %}",
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_template_that_costs_too_much_gives_the_default_message(name: str) -> None:
    people = [{"a": "\x01" * 4000}] * 5
    payload = {"title": "Disk is full", "a": list(range(50)), "m": "x" * 900_000, "p": people}
    message, problem = shown({"text": COSTLY[name]}, payload)
    assert problem
    assert "x" * 100 not in problem
    assert message.text.startswith("**Disk is full**")


@pytest.mark.parametrize(
    "text", ["{{ missing }}", "**{{ missing }}**", "{% if missing %}x{% endif %}", "\u200b!"]
)
def test_a_template_with_nothing_to_show_gives_the_default_message(text: str) -> None:
    message, problem = shown({"text": text}, {"title": "Build 7"})
    assert problem == "text: the template has nothing to show for this payload"
    assert message.text == "**Build 7**"


def test_a_bad_color_gives_the_default_message_and_a_bad_link_costs_only_itself() -> None:
    message, problem = shown({"text": "x", "title": "t", "color": "{{ a }}"}, {"a": "red", "title": "T"})
    assert "color" in problem
    assert message.text == "**T**"
    message, problem = shown(
        {"text": "x", "title": "t", "url": "{{ a | url }}"}, {"a": "javascript:alert(1)"}
    )
    assert (problem, message.embeds[0].url) == ("", None)


def test_a_template_sees_a_bounded_payload() -> None:
    deep: Any = "leaf"
    for _ in range(50):
        deep = {"a": deep}
    bounded = bounded_payload(
        {
            "text": "x" * 9000,
            "list": list(range(1000)),
            "many": {str(n): n for n in range(1000)},
            "deep": deep,
        }
    )
    assert len(bounded["text"]) == 4000
    assert bounded["text"].endswith("x…")
    assert len(bounded["list"]) == len(bounded["many"]) == 200
    assert "leaf" not in json.dumps(bounded)
    assert len(json.dumps(bounded_payload({str(n): [0] * 200 for n in range(200)}))) < 20_000


def test_the_budget_of_filters_is_that_of_one_message() -> None:
    template = TenantTemplate("{{ a | md: 4000 }}" * 9, "text", tenant_environment({}))
    payload = {"a": "x" * 4000}
    for _ in range(3):
        with pytest.raises(MessageTemplateError, match="limit"):
            template.render(payload)
    message, problem = shown(
        {"text": "t", "body": "{{ a | md }}" * 6, "title": "{{ a | md }}" * 6},
        {"title": "Build 7", **payload},
    )
    assert "40000 characters" in problem
    assert message.text == "**Build 7**"
    small = TenantTemplate("{{ a | md }}" * 9, "text", tenant_environment({}))
    for _ in range(20):
        assert small.render(payload)


@pytest.mark.parametrize(
    ("payload", "event", "text", "expected"),
    [
        ({"title": "Build 7"}, "e", "**Build 7**", {}),
        ({"subject": "Hi", "url": "https://a.example/x"}, "e", "[**Hi**](https://a.example/x)", {}),
        ({"message": "It *works*"}, "received", "It \\*works\\*", {}),
        ({"message": "It works"}, "build.done", "**build.done**\nIt works", {}),
        (
            {"text": "See https://a.example/1", "html_url": "https://a.example/2"},
            "received",
            "[**Open**](https://a.example/2)\nSee <https://a.example/1>",
            {},
        ),
        (
            {"name": "Disk", "status": "firing", "severity": "high", "host": {"name": "web-1"}},
            "e",
            "**Disk**",
            {"status": "firing", "severity": "high", "host": "web-1"},
        ),
        ({"alert": {"title": "Disk", "description": "full"}}, "e", "**Disk**\nfull", {}),
        ({"title": "@everyone <!here>"}, "e", "**\\@\u200beveryone \\@\u200bhere**", {}),
        ({"data": {"attributes": {"title": "Deep"}}}, "received", "**Deep**", {}),
        ({"data": {"attributes": {"title": "Deep"}}}, "job.done", "**job.done**", {"attributes": "Deep"}),
        (
            {"alerts": [{"title": "Disk", "url": "https://a.example"}, {"title": "2"}], "status": "firing"},
            "received",
            "[**Disk**](https://a.example)",
            {"status": "firing"},
        ),
        ({"data": {"items": [{"id": 7}]}}, "received", "**received**", {"id": "7"}),
        ({}, "received", "**received**", {}),
        ({"a": 1, "ok": True, "list": [1]}, "job.done", "**job.done**", {"a": "1", "ok": "true"}),
    ],
)
def test_the_default_message_is_readable(
    payload: dict[str, Any], event: str, text: str, expected: dict[str, str]
) -> None:
    message = default_message(payload, event, "Builds")
    assert message.text == text
    assert facts(message) == expected
    assert message.author.name == "Builds"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["title", "text", "url", "status", "host", "x"]) | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["title", "name", "text", "url", "status", "host", "data"]), VALUES))
def test_every_payload_has_a_message(payload: dict[str, Any]) -> None:
    message = default_message(bounded_payload(payload), "received", "x")
    assert message.text.strip()
    for template in (
        "{{ title }} {{ text | md }} {{ data.url | url }}",
        "{% for i in data %}{{ i }}{% endfor %}",
    ):
        rendered, _ = shown({"text": template, "body": "{{ text | excerpt }}", "url": "{{ url }}"}, payload)
        assert rendered.text.strip()


def test_the_sender_of_a_form_has_the_fields_of_its_description() -> None:
    source = {"body": {"form_field": "payload"}, "message": {"text": "{{ title }}"}}
    message, problem = SenderMessages(WEBHOOK, source).message(
        "e", "application/x-www-form-urlencoded", b"payload=%7B%22title%22%3A%22hi%22%7D", "x"
    )
    assert (message.text, problem) == ("hi", "")

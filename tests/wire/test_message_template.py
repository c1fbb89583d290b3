"""Message templates on payloads of strangers: bounds hold, and nothing forges a link or a mention."""

import re
from time import process_time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.wire.message_template import MessageTemplate, MessageTemplateError
from shared.wire.template_filters import MAX_TEMPLATE_CHARACTERS

ESCAPED = re.compile(r"\\[\\`*_{}\[\]<>#|~@&:+]")
ACTIVE = re.compile(r"[\\`*_{}\[\]<>#|~@&]")
LINK = re.compile(  # what this language writes for a URL; tests/wire/test_links.py holds it against parsers
    r"(?<!\\)(?:<(?:https?|mailto):[^\s<>]+>|\[(?:\\.|[^\[\]\\])+\]\((?:<https?:[^\s<>]+>|https?:[^\s<>()]+)\))",
    re.IGNORECASE,
)


NOTE = re.compile(r"(?:\n?… | )\([\d,]+ more (?:line|character)s?\)\Z")
"""What an excerpt says of the text that it leaves out."""


def render(source: str, **payload: Any) -> str:
    return MessageTemplate(source).render(payload)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in (1..100000000) %}x{% endfor %}",
        "{% for i in (1..100) %}{% for j in (1..100) %}{% endfor %}{% endfor %}",
        "{% assign a = 'xxxxxxxxxx' %}{% for i in (1..100) %}{% assign a = a | append: a %}{% endfor %}",
        "{% for i in (1..900) %}{% capture a %}{{ a }}xxxxxxxxxxxxxxxxxxxx{% endcapture %}{% endfor %}",
        "{% for i in (1..900) %}{{ long }}{% endfor %}",
        "{{ long | replace: 'x', long }}",
        "{{ long | replace: '', long }}",
        "{{ (1..100000000) | join: ',' }}",
        "{{ (1..100000000) | reverse | first }}",
        "{{ 2 | times: 99999999999999999999 }}",
        "{{ long | split: '' | sort | uniq | map: 'x' }}",
        "{% include 'x' %}",
        "{% render 'x' %}",
        "{% extends 'x' %}",
        "{% tablerow i in (1..5000) %}x{% endtablerow %}",
        "{% if a %}" * 300 + "{% endif %}" * 300,
        "{{ a" + "[a" * 2000 + "]" * 2000 + " }}",
        "{{ 'now' | date: '%99999999d' }}",
        "{{ a",
        "{% for %}",
        "{{ a | no_such_filter }}",
        "x" * (MAX_TEMPLATE_CHARACTERS + 1),
    ],
)
def test_a_hostile_template_is_refused_at_once(source: str) -> None:
    started = process_time()
    with pytest.raises(MessageTemplateError) as error:
        render(source, long="x" * 5000, a=[1])
    assert process_time() - started < 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in (1..1000) %}{% endfor %}" * 500,
        "{{ (1..100000000) | size }}{{ (1..100000000) | first }}{{ (1..100000000) | md }}",
        "{% assign x = (1..1000000000) %}{% for i in x limit: 5 reversed %}{{ i }}{% endfor %}",
        "{{ huge | md }}{{ huge | url }}{{ huge | link: huge }}{{ huge | excerpt: 9, 900 }}",
        "{{ comments | excerpt }}{{ breaks | excerpt }}{{ blanks | md }}{{ stars | excerpt: 5, 9999999 }}",
        "{{ huge | excerpt: -1, -1 }}{{ huge | md: 0 }}{{ huge | md: -9 }}{{ huge | subject }}",
        "{{ a.__class__.__mro__ }}{{ a.__init__.__globals__ }}{{ a.keys }}{{ a.items }}",
    ],
)
def test_a_costly_template_is_bounded(source: str) -> None:
    started = process_time()
    text = render(
        source,
        huge="http://" + "a" * 3_000_000,
        comments="<!--" * 500_000,
        breaks="\n" * 3_000_000 + "x",
        blanks=" " * 3_000_000 + "x",
        stars="**a" * 500_000,
        a={"x": 1},
    )
    assert process_time() - started < 3
    assert len(text) <= MAX_TEMPLATE_CHARACTERS
    assert "object" not in text


@given(st.text(max_size=300))
@example("](https://evil.example) [x](y)")
@example("@everyone <!channel> <@U1> &commat;all &#64;all")
@example("a\nb\r\nc\u2028d\u202ee\x00f\x1bg")
@example("\\")
@example("\\](x")
def test_md_leaves_nothing_that_markdown_acts_on(value: str) -> None:
    for text in (render("{{ v | md }}", v=value), render("{{ v | link: 'ftp://x' }}", v=value)):
        assert not ACTIVE.search(ESCAPED.sub("", LINK.sub("", text)))
        assert "\n" not in text
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", text)
        assert len(ESCAPED.sub("x", LINK.sub("", text))) <= 200


def plain_target(link: str) -> str:
    return link.rpartition("](")[2].strip("<>()") if "](" in link else link.strip("<>")


@given(st.text(max_size=300), st.text(max_size=300))
@example("x", "https://a.example/(b)")
@example("x", "https://a.example/) [y](https://evil.example/")
@example("x", "javascript:alert(1)")
@example("x", "https://user@evil.example/")
@example("x", "HTTPS://A.example")
def test_a_link_is_one_link_or_none(label: str, target: str) -> None:
    text = render("{{ l | link: t }}", l=label, t=target)
    if LINK.fullmatch(text):
        host = re.match(r"https?://[^\s()<>@/?#]+(?=[/?#]|$)", plain_target(text), re.IGNORECASE)
        assert host, text
    else:
        assert not ACTIVE.search(ESCAPED.sub("", LINK.sub("", text)))


@given(st.text(max_size=600), st.integers(-2, 8), st.integers(-2, 300))
@example("a\n===\nb\n---\n", 5, 100)
@example("# [x](y)\n* @all\n<!-- -->\n**b**", 5, 100)
def test_an_excerpt_is_short_and_harmless(value: str, lines: int, characters: int) -> None:
    noted = LINK.sub("", render("{{ v | excerpt: n, c }}", v=value, n=lines, c=characters))
    text = NOTE.sub("", noted)
    plain = ESCAPED.sub("x", re.sub(r"(?m)^\\(?=[-=+: ]+…?$)", "", text))
    assert not ACTIVE.search(plain)
    assert len(text.splitlines()) <= max(lines, 1)
    assert len(plain.replace("\n", "")) <= max(characters, 1) + 2 * max(lines, 1)
    assert not re.search(r"(?m)^[-=+]+$", noted), "a line of dashes makes a heading of the line above it"


@pytest.mark.parametrize(
    ("source", "value", "text"),
    [
        ("{{ v | md }}", None, ""),
        ("{{ v | md }}", 42, "42"),
        ("{{ v | md }}", True, ""),
        ("{{ v | md }}", {"a": 1}, ""),
        ("{{ v | md }}", ["a"], ""),
        ("{{ v | md: 5 }}", "a long one", "a lo…"),
        ("{{ v | bold }}", "x_y", "**x\\_y**"),
        ("{{ v | bold }}", "", ""),
        ("{{ v | bold }}", None, ""),
        ("{{ v | url }}", "https://a.example/x?y=(1)#z", "https://a.example/x?y=(1)#z"),
        ("{{ v | url }}", "https://a.example/a b", "https://a.example/a%20b"),
        ("{{ v | link: 'https://a.example/(b)' }}", "x", "[x](<https://a.example/(b)>)"),
        ("{{ 'https://a.example' | link: 'https://a.example' }}", None, "<https://a.example>"),
        ("{{ v | url }}", "//a.example", ""),
        ("{{ v | url }}", None, ""),
        ("{{ v | link: 'https://a.example' }}", "#1 [x]", "[\\#1 \\[x\\]](https://a.example)"),
        ("{{ v | link: 'https://a.example' }}", None, ""),
        ("{{ v | subject }}", "\n first line \nsecond", "first line"),
        (
            "{{ v | excerpt: 2 }}",
            "<!-- fill in\nthe form -->\n## What\n\n* this\n* that",
            "What\n- this\n… (1 more line)",
        ),
        ("{{ v | md }}", "see https://a.example/b#c-1_d.", "see <https://a.example/b#c-1_d>."),
        (
            "{{ v | excerpt }}",
            "**https://a.example/**/b** <https://a.example>",
            "<https://a.example/**/b> <https://a.example>",
        ),
        ("{{ v | excerpt: 5, 10 }}", "0123456789abc\nx", "012345678… (5 more characters)"),
        ("{{ v | excerpt }}", None, ""),
        ("{{ v | replace: '_', ' ' }}", "a_b_c", "a b c"),
    ],
)
def test_filters(source: str, value: object, text: str) -> None:
    assert render(source, v=value) == text


def test_the_layout_of_a_template_is_for_its_reader() -> None:
    source = """
      {% if a %}
        one
        {{ a }}
      {% endif %}

      - two   three
      {{ none }}

      {{ lines }}
    """
    assert render(source, a=1, lines="x\ny") == "one 1\n- two three\nx\ny"


def test_errors_name_the_template() -> None:
    with pytest.raises(MessageTemplateError, match=r"^handled\.push\.text: "):
        MessageTemplate("{% if %}", "handled.push.text")
    with pytest.raises(MessageTemplateError, match=r"^title: output stream limit reached$"):
        MessageTemplate("{{ v }}", "title").render({"v": "x" * 30_000})

"""Markdown that people wrote: it is shown as it is meant, only its links are active, and it is cut well."""

import re
from html import unescape
from time import process_time
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.manifests.registry import template_environment
from shared.richtext.excerpt import fit_markdown
from shared.wire.message_template import MessageTemplate, MessageTemplateError
from shared.wire.template_filters import MAX_TEMPLATE_CHARACTERS
from tests.support.markdown import STRUCTURE, shown

WHOLE = MessageTemplate("{{ v | markdown: 100, 9000 }}")
SHORT = MessageTemplate("{{ v | markdown: 4, 60 }}")
WITH_WIKI = template_environment()
WIKI = MessageTemplate("{{ v | wiki: 100, 9000 }}", environment=WITH_WIKI)

ELEMENTS = STRUCTURE | {"strong", "em", "del", "s", "code", "pre", "blockquote", "ul", "ol", "li", "hr"}
TABLE = {"table", "thead", "tbody", "tr", "th", "td"}


def rewritten(text: str) -> str:
    return WHOLE.render({"v": text})


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("**bold** __bold__ *em* _em_ ~~gone~~", "**bold** **bold** _em_ _em_ ~~gone~~"),
        ("***both*** **a *b* c**", "_**both**_ **a _b_ c**"),
        ("**over\ntwo**", "**over\ntwo**"),
        ("a_b_c 2*3*4 \\*x\\*", "a\\_b\\_c &#50;_3_&#52; \\*x\\*"),
        ("# Title\n\nSetext\n===\n## **Bold** `c`", "**Title**\n\n**Setext**\n\n**Bold `c`**"),
        ("`a*b` ``a`b`` `@everyone` `@decorator`", "`a*b` ``a`b`` `@\u200beveryone` `@decorator`"),
        ("[text](https://a.example/x_(y) 'title')", "[text](<https://a.example/x_(y)>)"),
        ("[**b** `c`](https://a.example)", "[**b** `c`](https://a.example)"),
        ("[one\ntwo](https://a.example)", "[one two](https://a.example)"),
        ("[ref][1] [1]\n\n[1]: https://a.example", "[ref](https://a.example) [1](https://a.example)"),
        (
            "[mail](mailto:a@b.example) <a@b.example>",
            "[mail](mailto:a@b.example) [a@b.example](mailto:a@b.example)",
        ),
        ("[a](/x) [b](#y) [c](../z) [d](//e.example)", "a b c d"),
        ("[a](javascript:alert(1)) [b](data:text/html,x) [c](file:///etc)", "a b c"),
        ("[a](https://user@evil.example) [b](https://a\\@evil.example)", "a b"),
        ("[https://bank.example](https://evil.example/x)", "<https://evil.example/x>"),
        ("[](https://a.example)", "<https://a.example>"),
        ("https://a.example/*a*/_b_c", "<https://a.example/*a*/_b_c>"),
        ("www.a.example/x_y", "[www.a.example/x\\_y](http://www.a.example/x_y)"),
        (
            "![alt *x*](https://a.example/i.png) ![](https://a.example/j.png)",
            "[alt x](https://a.example/i.png) [image](https://a.example/j.png)",
        ),
        (
            "![rel](i.png) [![badge](https://a.example/i.svg)](https://b.example)",
            "rel [badge](https://b.example)",
        ),
        ("a <b>c</b> <img src=x onerror=alert(1)> d<br>e <!-- f -->", "a **c**  d\ne"),
        ("<script>alert(1)</script>\n\n<style>a{}</style>\n\nx", "x"),
        (
            "<details><summary>Sum &amp; <b>more</b></summary>\n\ninner\n\n</details>",
            "Sum & **more**\n\ninner",
        ),
        (
            "hi @everyone, @here <!channel> &commat;all #1",
            "hi \\@\u200beveryone, \\@\u200bhere \\@\u200bchannel \\@\u200ball #1",
        ),
        ("- a\n- b\n  - c\n    1. d\n    2. e\n\n  more", "- a\n- b\n  - c\n\n    1. d\n    2. e\n\n  more"),
        ("3. a\n4. b", "3. a\n4. b"),
        ("- [ ] a\n- [x] b [ ]", "- ☐ a\n- ☑ b \\[ \\]"),
        ("> a\n> > b\n>\n> - c\n\nd", "> a\n>\n> > b\n>\n> - c\n\nd"),
        ("> [!WARNING]\n> mind", "> **Warning**\n> mind"),
        ("```py\ndef f():\n    return 1\n\n\nx  y\n```", "```py\ndef f():\n    return 1\n\n\nx  y\n```"),
        ("~~~\n```\n~~~\n\n    indented\n      more", "````\n```\n````\n\n```\nindented\n  more\n```"),
        ("```\n@everyone <!here>\n```", "```\n@\u200beveryone @\u200bhere\n```"),
        ("```\nnever closed", "```\nnever closed\n```"),
        (
            "- a\n  ```\n  code\n  ```\n> ```\n> quoted",
            "- a\n\n  ```\n  code\n  ```\n\n> ```\n> quoted\n> ```",
        ),
        (
            "|a|b|\n|-|:-:|\n|`x`|[l](https://a.example)|\n|c \\| d|",
            "**a** | **b**\n`x` | [l](https://a.example)\nc | d",
        ),
        ("|a|\n|-|\n|`x\\|y`|", "```\na\n---\nx|y\n```"),
        ("a\n\n***\n\nb", "a\n\n\\---\n\nb"),
        (
            "1986\\. A year\n\\- no list\n\\# no heading\n\\=",
            "1986\\. A year\n\\- no list\n\\# no heading\n\\=",
        ),
        ("a\\\nb  \nc", "a\nb\nc"),
        ("", ""),
    ],
)
def test_it_means_the_same(written: str, expected: str) -> None:
    assert rewritten(written) == expected
    # It is not read in another way when it is read again.
    assert rewritten(expected.replace("@\u200b", "@")) == expected


@pytest.mark.parametrize(
    ("wiki", "expected"),
    [
        ("h1. Title\r\ntext", "**Title**\n\ntext"),
        (
            "*bold* _em_ -gone- +ins+ ??cite?? {{a_b}} *a _b_*",
            "**bold** _em_ ~~gone~~ ++ins++ _cite_ `a_b` **a _b_**",
        ),
        ("snake_case_name 2 * 3 * 4 a-b-c", "snake\\_case\\_name 2 \\* 3 \\* 4 a-b-c"),
        (
            "[text|https://a.example/x_y] [https://b.example]",
            "[text](https://a.example/x_y) <https://b.example>",
        ),
        ("[https://a.example|https://a.example|smart-link]", "<https://a.example>"),
        ("[x|javascript:alert(1)] [y|#anchor] [z|PRJ-1]", "x y z"),
        ("[~ann] [~accountid:5b:1] [^a.txt]", "\\@ann \\@someone a.txt"),
        (
            "!shot.png|thumbnail! !https://a.example/i.png! wow! yes!",
            "shot.png [image](https://a.example/i.png) wow! yes!",
        ),
        ("* a\n** b\n*# c\n# d\n# e\nend", "- a\n  - b\n\n  1) c\n\n1) d\n2) e\n\nend"),
        ("- a\n-- dash", "- a\n\n\\-- dash"),
        ("{quote}\na\n* b\n{quote}\nbq. c", "> a\n>\n> - b\n\n> c"),
        ("{code:title=x.py|python}\ndef f(): {quote}\n{code}", "```\ndef f(): {quote}\n```"),
        ("{code:java}\n@Test\n  x\n{code}\nend", "```java\n@Test\n  x\n```\n\nend"),
        ("{noformat}*a*{noformat}", "```\n*a*\n```"),
        ("{panel:title=Note}\nin\n{panel}", "**Note**\n\nin"),
        ("{color:red}a{color} \\*b\\* \\!", "a \\*b\\* !"),
        ("||a||b||\n|1|[x|https://a.example]|", "**a** | **b**\n1 | [x](https://a.example)"),
        ("|1|2|", "```\n1 | 2\n```"),
        ("a\\\\b\n----\nc", "a\nb\n\n\\---\n\nc"),
        ("# a\n\n1. x <b>y</b> `z` @everyone", "1. a\n\n1\\. x \\<b>y\\</b> \\`z\\` \\@\u200beveryone"),
        ("", ""),
    ],
)
def test_wiki_markup_becomes_markdown(wiki: str, expected: str) -> None:
    assert WIKI.render({"v": wiki}) == expected


PIECES = [
    "**",
    "*",
    "_",
    "~~",
    "`",
    "``",
    "```",
    "~~~",
    "[",
    "](",
    ")",
    "!",
    "<",
    ">",
    "<b>",
    "</b>",
    "<!--",
    "-->",
    "<br>",
    "https://a.example/x",
    "javascript:alert(1)",
    "[x](javascript:alert(1))",
    "[x](https://a.example)",
    "![i](https://a.example/i)",
    "[https://bank.example](https://evil.example)",
    "[r]",
    "\n\n[r]: https://a.example\n",
    "@everyone",
    "<!channel>",
    "&commat;all",
    "&#10;",
    "&#32;",
    "&nbsp;",
    "\n",
    "\n\n",
    "    ",
    "\t",
    "- ",
    "1. ",
    "7) ",
    "> ",
    "# ",
    "===\n",
    "---\n",
    "|",
    "|a|b|\n|-|-|\n|c|",
    "\\",
    "word",
    "a b",
    "1",
    "\u202e",
    "\x00",
    "\x0e",
    "\u2028",
    "{code}",
    "{{",
    "}}",
    "h1. ",
    "||",
    "{quote}",
    "[a|b]",
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=120))
@example("".join(PIECES))
@example("\n".join(PIECES))
@example("`a|[x](javascript:alert(1))`|\n|-|-|\n|`b|[x](javascript:alert(1))`|")
@example("`a`<b></b>``b`[x](javascript:alert(1))``")
@example("\\`<b></b>``b`[x](javascript:alert(1))``")
@example("\\![i](https://a.example/i)")
@example("<!-- ```\n[x](javascript:alert(1))\n```")
@example("&#32;&#32;&#32;&#32;code&NewLine;# heading")
@example("https://a.example/x&#10;-->")
def test_nothing_of_a_stranger_is_active_but_links(text: str) -> None:
    for template in (WHOLE, SHORT, WIKI):
        written = template.render({"v": text})
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", written)
        texts = re.sub(r"<https?:[^>]*>|\]\(.*?\)", "", written)
        assert not re.search(r"(?<![\\/.\w])@(everyone|here|all)\b", texts)
        by_parser = shown(written)
        # mistune writes the `&` of an address as it is, so HTML decodes an entity in it once more.
        once_more = {unquote(unescape(href)) for _, href in by_parser["markdown-it"].links}
        for name, seen in by_parser.items():
            assert seen.elements <= ELEMENTS | TABLE, f"{name}: {written!r}"
            assert not seen.nested, name
            for visible, href in seen.links:
                assert re.match(r"https?://|mailto:", href, re.IGNORECASE), f"{name}: {written!r}"
                assert visible != "https://bank.example" or href == visible, name
                is_decoded_again = name.startswith("mistune") and unquote(href) in once_more
                assert "\n" not in unquote(href) or is_decoded_again, f"{name}: {written!r}"


@pytest.mark.parametrize(
    ("text", "lines", "characters", "expected"),
    [
        ("one\ntwo\nthree", 2, 100, "one\ntwo\n\n… (1 more line)"),
        ("one\n\ntwo\n\n```\n\n```\n", 2, 100, "one\n\ntwo"),
        ("a" * 30 + "\n" + "b" * 30, 9, 40, "a" * 30 + "\n\n… (1 more line)"),
        (
            "a\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            9,
            40,
            "a\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb… (22 more characters)",
        ),
        ("many words that do not fit here\nand more", 9, 20, "many words that do… (21 more characters)"),
        ("**bold words that do not fit**", 9, 20, "**bold words that do**… (8 more characters)"),
        (
            "x [label of a link](https://a.example/long) y z",
            9,
            12,
            "x [label of…](https://a.example/long) (11 more characters)",
        ),
        ("```py\na = 1\nb = 2\nc = 3\n```\nend", 2, 100, "```py\na = 1\nb = 2\n```\n\n… (2 more lines)"),
        ("- x\n  ```\n  a\n  b\n  ```", 2, 100, "- x\n\n  ```\n  a\n  ```\n\n… (1 more line)"),
        (
            "```\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n```",
            9,
            20,
            "```\nxxxxxxxxxxxxxxxxxxx…\n```\n\n… (31 more characters)",
        ),
        ("a\n\n```\nb\n```", 1, 100, "a\n\n… (1 more line)"),
        ("|a|b|\n|-|-|\n|1|2|\n|3|4|\n|5|6|", 3, 100, "```\na | b\n--+--\n1 | 2\n```\n\n… (2 more lines)"),
        ("x\n\n|a|b|\n|-|-|\n|1|2|", 2, 100, "x\n\n```\na | b\n```\n\n… (2 more lines)"),
        ("- a\n- b\n- c", 2, 100, "- a\n- b\n\n… (1 more line)"),
        ("> a\n> b", 1, 100, "> a\n\n… (1 more line)"),
        ("a\n" + "line\n" * 2000, 2, 100, "a\nline\n\n… (1,999 more lines)"),
    ],
)
def test_an_excerpt_has_whole_lines_and_says_what_is_missing(
    text: str, lines: int, characters: int, expected: str
) -> None:
    assert (
        MessageTemplate("{{ v | markdown: n, c }}").render({"v": text, "n": lines, "c": characters})
        == expected
    )


@pytest.mark.parametrize(
    ("markdown", "maximum", "expected"),
    [
        ("short", 10, "short"),
        ("one\ntwo\nthree four", 16, "one…"),
        ("one two three four five", 18, "one two…"),
        ("```py\na = 1\nb = 2\n" + "c = 3\n" * 9 + "```", 40, "```py\na = 1\nb = 2\nc = 3…\n```"),
        ("> ```\n> a\n> b\n" + "> c\n" * 9 + "> ```", 30, "> ```\n> a\n> b…\n> ```"),
        ("- ```\n  a\n  b\n  ```\n- " + "x" * 40, 36, "- ```\n  a\n  b…\n  ```"),
        ("**" + "x" * 30 + "**", 20, "**xxxxxxx**…"),
        (
            "see [the page](https://a.example/x) and some more text",
            50,
            "see [the page](https://a.example/x) and…",
        ),
        ("see <https://a.example/long/path/of/a/page> and more", 37, "see…"),
        ("a\\_b\\_c " * 10, 30, "a\\_b\\_c a\\_b\\_c…"),
    ],
)
def test_written_markdown_is_cut_between_lines(markdown: str, maximum: int, expected: str) -> None:
    assert fit_markdown(markdown, maximum, "…") == expected
    assert len(expected) <= maximum


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.integers(5, 200))
def test_what_is_cut_is_as_harmless_as_the_whole(text: str, maximum: int) -> None:
    cut = fit_markdown(rewritten(text), maximum, "…")
    assert len(cut) <= maximum
    for name, seen in shown(cut).items():
        assert seen.elements <= ELEMENTS | TABLE, f"{name}: {cut!r}"
        for _visible, href in seen.links:
            assert re.match(r"https?://|mailto:", href, re.IGNORECASE), f"{name}: {cut!r}"


def test_names_of_people_are_listed() -> None:
    people = [{"login": "a_b"}, {"user": {"name": "B"}}, {"login": ""}, None, {"login": 3}, {"login": "f"}, 7]
    template = MessageTemplate("{{ v | names: 'login', 'user.name' }}")
    assert template.render({"v": people}) == "**a\\_b**, **B**, **3**, 2 more"
    assert template.render({"v": people[:2]}) == "**a\\_b**, **B**"
    assert template.render({"v": "x"}) == template.render({}) == ""


def test_links_with_long_targets_do_not_make_a_long_message() -> None:
    written = rewritten(f"[a](https://a.example/{'x' * 900}) " * 50)
    assert written.count("](https") == 2
    assert len(written) < 4000


def test_layout_survives_a_phrase_and_a_capture() -> None:
    code = "```\na  b\n\n  c\n```"
    phrase = MessageTemplate("  {% capture said %}{{ v | markdown }}{% endcapture %} {{ said }} ")
    assert (
        MessageTemplate("x\n\n{{ said }}").render({"said": phrase.render_phrase({"v": code})}) == f"x\n{code}"
    )


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "![[",
        "*a ",
        "_a*",
        "**a",
        "`",
        "<",
        "<!--",
        "> ",
        "- ",
        "1. > ",
        "|a",
        "http:",
        "https://a/",
        "[a](",
        "&amp;",
        "[x]: /y\n",
        "<a@b.c>",
        "~~a*",
        "\\",
        "a\n",
        "x",
        "{{",
        "||",
        "*_a-",
        "{code}",
        "[a|",
        "!a.",
        "??a",
    ],
)
def test_a_hostile_text_of_25_megabytes_is_bounded(piece: str) -> None:
    text = piece * (25_000_000 // len(piece))
    for source in (
        "{{ v | markdown: 8, 700 }}",
        "{{ v | wiki: 8, 700 }}",
        "{{ v | markdown: 99999, 99999999 }}",
    ):
        started = process_time()
        assert (
            len(MessageTemplate(source, environment=WITH_WIKI).render({"v": text})) <= MAX_TEMPLATE_CHARACTERS
        )
        assert process_time() - started < 2


def test_a_template_parses_a_bounded_amount() -> None:
    source = "{% for i in (1..1000) %}{{ v | markdown }}{% endfor %}"
    with pytest.raises(MessageTemplateError, match="too much Markdown in one template"):
        MessageTemplate(source).render({"v": "[" * 3000})

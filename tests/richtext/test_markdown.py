"""The Markdown between providers and the chat: what is read, what is written, and that both agree."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.richtext.build import MAX_TEXT_CHARACTERS, canonical, visible_text
from shared.richtext.markdown import parse_markdown, render_markdown
from shared.richtext.tree import (
    MAX_DEPTH,
    Bold,
    ChannelMention,
    Code,
    CodeBlock,
    CustomEmoji,
    Document,
    EveryoneMention,
    GroupMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Loss,
    Paragraph,
    Quote,
    Spoiler,
    Strike,
    Text,
    Time,
    Underline,
    UserMention,
)
from tests.richtext.trees import HOSTILE, depth, documents


def paragraph(*nodes: Inline) -> Document:
    return Document((Paragraph(nodes),))


@settings(max_examples=150, deadline=None)
@given(documents())
def test_what_is_rendered_is_parsed_to_the_same_tree(document: Document) -> None:
    assert parse_markdown(render_markdown(document).text) == document


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | st.sampled_from("\n \n*_[](>-`|"), max_size=20).map("".join))
def test_any_text_is_parsed_to_a_canonical_tree_that_survives_rendering(text: str) -> None:
    document = parse_markdown(text)

    assert canonical(document) == document
    assert depth(document) <= MAX_DEPTH
    assert parse_markdown(render_markdown(document).text) == document


@pytest.mark.parametrize(
    ("markdown", "nodes"),
    [
        ("*a*", (Italic((Text("a"),)),)),
        ("__a__", (Bold((Text("a"),)),)),
        ("***a***", (Italic((Bold((Text("a"),)),)),)),
        (
            "~~a~~ ||b|| ++c++",
            (Strike((Text("a"),)), Text(" "), Spoiler((Text("b"),)), Text(" "), Underline((Text("c"),))),
        ),
        ("snake_case_name", (Text("snake_case_name"),)),
        ("2 * 3 * 4", (Text("2 * 3 * 4"),)),
        ("*a `b*` c", (Text("*a "), Code("b*"), Text(" c"))),
        ("*a [b*](https://x.example)", (Text("*a "), Link("https://x.example", (Text("b*"),)))),
        (
            "a  \nb\\\nc\nd",
            (Text("a"), LineBreak(), Text("b"), LineBreak(), Text("c"), LineBreak(), Text("d")),
        ),
        ("<b>x</b>", (Text("<b>x</b>"),)),
        ("<https://x.example/a_b_>", (Link("https://x.example/a_b_", (Text("https://x.example/a_b_"),)),)),
        ("[a](javascript:alert(1))", (Text("a"),)),
        ("[a](/relative)", (Text("a"),)),
        ("[a](https://real.example@evil.example)", (Text("a"),)),
        ("![a *b*](https://x.example/i.png)", (Link("https://x.example/i.png", (Text("a b"),)),)),
        (
            "[[a](https://x.example)](https://y.example)",
            (Text("["), Link("https://x.example", (Text("a"),)), Text("](https://y.example)")),
        ),
        ("![:party:](emoji:E1)", (CustomEmoji("party", "E1"),)),
        ("[@Ann *x*](mention://user/slack:T1:U%2F1)", (UserMention("slack:T1:U/1", "Ann x"),)),
        ("[#general](mention://channel/C1)", (ChannelMention("C1", "general"),)),
        ("[@team](mention://group/G1)", (GroupMention("G1", "team"),)),
        ("[@x](mention://here)", (EveryoneMention("here"),)),
        ("[@x](mention://nobody/1)", (Text("@x"),)),
        ("@everyone", (Text("@everyone"),)),
        ("&lt;&#64;&#xD800;&nope;", (Text("<@\ufffd&nope;"),)),
        ("# Title\n", (Bold((Text("Title"),)),)),
        ("***", (Text("---"),)),
    ],
)
def test_reads_the_marks_of_a_line(markdown: str, nodes: tuple[Inline, ...]) -> None:
    assert parse_markdown(markdown) == paragraph(*nodes)


def test_reads_blocks() -> None:
    document = parse_markdown("> q\n\n- a\n  - b\n\n3. c\n\n```py x\n\nd\n```\n|a|*b*|\n|-|-|\n|long|2|")

    def line(text: str) -> Paragraph:
        return Paragraph((Text(text),))

    assert document.blocks == (
        Quote((line("q"),)),
        ListBlock(((line("a"), ListBlock(((line("b"),),))),)),
        ListBlock(((line("c"),),), ordered=True, start=3),
        CodeBlock("\nd", "py"),
        CodeBlock("a    | b\n-----+--\nlong | 2"),
    )


LINES = st.sampled_from(
    [
        *(
            "- a",
            "* b",
            "+ c",
            "1. d",
            "2. e",
            "1) f",
            "7. g",
            "g\\",
            "**h**",
            "- **i",
            "j**",
            "-",
            "1.",
            "- -",
        ),
        *("* 1.", "", " ", "- ", "-k", "  l", " - m", "-  n", "1234567890. o", ":-", "--", "- 1. p"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=8).map("\n".join))
def test_simple_lists_are_read_as_the_library_reads_them(text: str) -> None:
    by_library = parse_markdown(f"{text}\n\n> a quote is not simple")

    assert parse_markdown(text).blocks == by_library.blocks[:-1]


def test_a_moment_is_rendered_as_its_fallback() -> None:
    rendered = render_markdown(paragraph(Time(0, "*noon*")))

    assert rendered.text == r"\*noon\*"
    assert rendered.losses == (Loss("time", "plain text"),)


def test_text_without_meaning_is_not_escaped() -> None:
    text = "Hello Ann, it's 10:30 (UTC+1): a-b, x=1 & 5 > 3 # done!"

    assert render_markdown(paragraph(Text(text))).text == text


def test_a_long_text_is_cut_with_a_mark() -> None:
    (block,) = parse_markdown("a" * 1_000_000).blocks

    assert isinstance(block, Paragraph)
    text = visible_text(block.children)
    assert len(text) == MAX_TEXT_CHARACTERS
    assert text.endswith("a…")


def test_text_in_surplus_nesting_stays() -> None:
    nested = parse_markdown("> " * 50 + "the end")

    assert "the end" in render_markdown(nested).text
    assert depth(nested) <= MAX_DEPTH

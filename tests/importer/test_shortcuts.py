"""Most messages are one line without marks: what reads and renders them sooner gives the same."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.providers.slack.blocks import parse_body, parse_whole_body
from shared.providers.slack.mrkdwn import is_plain, parse_marked, parse_mrkdwn, simple_line
from shared.providers.slack.rich_text import Budget
from shared.richtext.build import canonical, only_text
from shared.richtext.markdown_render import render_markdown
from shared.richtext.mentions import has_mentions, mentioned, resolve_mentions
from shared.richtext.tree import Document, Paragraph, Text

_SIGNS: Final = "aZ9 .,-+=#>|()!?@\\\t\u00a0\u2028\u200b\x00é😀<&*_~`:\n\ud800"
_PARTS: Final = st.sampled_from(
    [
        "www.",
        "http://a.b",
        "https://example.com/x",
        "&gt; ",
        "&lt;",
        ":tada:",
        "<@U1>",
        "<https://example.com/x?a=1|job 7>",
        "<https://example.com/x?a=1|*again*>",
        "<http:///|b>",
        "```",
        "1. ",
        "- ",
        "# ",
    ]
)
TEXTS: Final = st.one_of(
    st.text(st.sampled_from(_SIGNS), max_size=30),
    st.lists(_PARTS | st.text(st.sampled_from(_SIGNS), max_size=8), max_size=5).map("".join),
    st.text(max_size=40),
    st.text(st.sampled_from("abc .,-1+=#>|!"), max_size=30),
)
_LEAF: Final = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "text", "text", "emoji", "user"]), "text": TEXTS | st.none()},
    optional={
        "style": st.sampled_from(
            [
                *(None, {}, 7, {"bold": True}, {"bold": True}, {"italic": True}, {"bold": False}),
                *({"code": True}, {"bold": True, "strike": True}),
            ]
        ),
        "user_id": st.sampled_from(["U1", "U1", "u"]),
    },
)
_SECTION: Final = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["rich_text_section", "rich_text_section", "rich_text_quote", "other"]),
        "elements": st.lists(_LEAF, max_size=4),
    },
    optional={"border": st.sampled_from([0, 1])},
)
BLOCKS: Final = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["rich_text", "rich_text", "section"]),
            "elements": st.lists(_SECTION, max_size=2),
        }
    ),
    max_size=2,
)
_NAMES: Final = st.one_of(
    st.sampled_from(["", "Ada", " Ada ", "a\nb", "*x*", "\x00"]),
    st.text(st.sampled_from(_SIGNS), max_size=4),
)


@given(TEXTS)
def test_a_plain_text_of_slack_is_read_as_any_other(text: str) -> None:
    budget, same = Budget(), Budget()
    assert parse_mrkdwn(text, budget) == parse_marked(text, same)
    assert budget == same


@pytest.mark.parametrize(("characters", "runs"), [(5, 100), (100, 1), (100, 0), (0, 100)])
@given(text=st.text(st.sampled_from("ab "), max_size=12))
def test_a_plain_text_takes_no_more_than_is_left(characters: int, runs: int, text: str) -> None:
    budget, same = Budget(characters, runs), Budget(characters, runs)
    assert parse_mrkdwn(text, budget) == parse_marked(text, same)
    assert budget == same


@given(BLOCKS, TEXTS, st.sampled_from([None, "me_message"]))
def test_rich_text_of_slack_is_read_as_any_other(blocks: Any, text: str, subtype: str | None) -> None:
    message = {"blocks": blocks, "text": text, "subtype": subtype}
    found = parse_body(message)
    assert found == parse_whole_body(message)
    assert found.is_canonical
    assert canonical(Document(found.blocks)) == found


@given(BLOCKS, _NAMES, _NAMES, st.booleans())
def test_mentions_are_replaced_in_a_canonical_tree_as_in_any_other(
    blocks: Any, user_id: str, name: str, links: bool
) -> None:
    """The tree need not be made canonical again where a name or an id changes nothing about that."""

    def replaced(body: Document) -> Document:
        return resolve_mentions(
            body,
            user=lambda _: (user_id if links else "", name),
            channel=lambda _: ("", ""),
            groups=False,
            mass_mentions=False,
        )

    body = parse_body({"blocks": blocks})
    found = replaced(body)
    assert found.is_canonical
    assert found == replaced(Document(body.blocks)) == canonical(Document(found.blocks))


@given(TEXTS)
def test_a_text_is_rendered_as_in_any_other_document(text: str) -> None:
    document = canonical(Document((Paragraph((Text(text),)),)))
    unchecked = Document(document.blocks)  # which is not known to be canonical, and has no shortcut
    assert only_text(unchecked) is None
    assert render_markdown(document) == render_markdown(unchecked)
    assert has_mentions(document) == bool(mentioned(unchecked).users)


@pytest.mark.parametrize("text", ["hello there", "1 > 2, - or = #?", "a\tb", "é 😀", "wwww and ww"])
def test_the_shortcut_is_taken(text: str) -> None:
    assert is_plain(text)
    block = {
        "type": "rich_text",
        "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": text}]}],
    }
    assert only_text(parse_body({"blocks": [block]})) == text
    assert only_text(parse_body({"text": text})) == text


@pytest.mark.parametrize(
    "text", ["", " ", "*b*", "a\nb", "<@U1>", ":tada:", "&amp;", "WWW.a.b", "\x00", "\u2028"]
)
def test_what_has_marks_is_read_in_full(text: str) -> None:
    assert not is_plain(text)


@pytest.mark.parametrize("text", ["<@U1>", "<@U1> built <https://a.b/c|job 7>, again"])
def test_links_and_mentions_in_a_line_take_the_shortcut(text: str) -> None:
    assert simple_line(text)


@pytest.mark.parametrize(
    "text", ["*b* <@U1>", "<@U1>\n", "<@U1|ada>", "<https://a.b>", "<https://a.b|x><https://a.b|y>"]
)
def test_what_the_shortcut_would_read_otherwise_does_not_take_it(text: str) -> None:
    assert simple_line(text) is None

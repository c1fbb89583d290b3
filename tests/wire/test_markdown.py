"""URLs in messages: two parsers find each as it was, and text of strangers makes nothing but links."""

import re
from time import process_time
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.richtext.autolinks import split_links
from shared.richtext.excerpt import fit_markdown
from shared.richtext.fragments import plain_text
from shared.richtext.urls import MAX_URL_CHARACTERS
from shared.wire.message_template import MessageTemplate
from tests.support.markdown import STRUCTURE, shown

MD = MessageTemplate("{{ v | md: 5000 }}")
BOLD = MessageTemplate("{{ v | bold }}")
SUBJECT = MessageTemplate("{{ v | subject: 5000 }}")
EXCERPT = MessageTemplate("{{ v | excerpt: 9, 5000 }}")
LINK = MessageTemplate("before {{ label | link: target }} after")
ANYWHERE = [MD, SUBJECT, EXCERPT]

REAL = [
    "https://github.com/o/r/issues/12#issuecomment-1",
    "https://github.com/o/r/blob/main/__init__.py#L1-L2",
    "https://en.wikipedia.org/wiki/Rust_(programming_language)",
    "https://example.com/*a*/_b_/~c~/@user/[d]?e={f}&copy=1&g=$h!i,j;k:l",
    "https://example.com/?a=1&amp;b=2&copy;=3",
    "http://localhost:3000/a^b|",
    "https://de.wikipedia.org/wiki/Köln",
    "https://例え.jp/パス",
    "HTTPS://EXAMPLE.COM",
    "https://medium.com/@someone/a-b-c",
    "https://example.com/a'b",
    "mailto:ann_b@example.com?subject=a_b",
]


@pytest.mark.parametrize("url", REAL)
@pytest.mark.parametrize(
    "around", ["{}", "see {} now", "({})", "**{}**", "“{}”.", "a: {}, b", "<{}>", "_{}_", "`{}`", "x\n{}\ny"]
)
def test_a_bare_url_is_a_link_byte_for_byte(url: str, around: str) -> None:
    url = url.removesuffix("|")
    for template in ANYWHERE:
        for name, seen in shown(template.render({"v": around.format(url)})).items():
            if template is SUBJECT and "\n" in around:
                continue
            texts = [text for text, _href in seen.links]
            assert texts == [url], f"{name}: {template.render({'v': around.format(url)})}"
            if url.isascii():
                assert seen.links[0][1].lower() == unquote(url).lower(), name


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("https://a.example/b.", ["https://a.example/b"]),
        ("https://a.example/b?!... or", ["https://a.example/b"]),
        ("https://a.example/b…", []),
        ("https://a.example/b...", []),
        ("(https://a.example/b)", ["https://a.example/b"]),
        ("(see https://a.example/b_(c))", ["https://a.example/b_(c)"]),
        ("[x](https://a.example/b)", ["https://a.example/b"]),
        ("https://a](evil)", ["https://a"]),
        ("https://a.example/[b](https://evil.example)", ["https://a.example/[b](https://evil.example)"]),
        ("<https://a.example/b|label>", ["https://a.example/b"]),
        ('"https://a.example/b"', ["https://a.example/b"]),
        ("https://a.example/b&gt; c", ["https://a.example/b"]),
        ("https://good.example\u200b.evil.example", ["https://good.example"]),
        ("https://good.example/\u202egpj.exe", ["https://good.example/"]),
        ("https://good.example/\u2066x", ["https://good.example/"]),
        ("https://a.example/b。次の文", ["https://a.example/b"]),
        ("https://user@evil.example/x", []),
        ("https://bank.example:443@evil.example/x", []),
        ("https://bank.example:pw@evil.example/x", []),
        ("https://bank.example%2f@evil.example/x", []),
        ("https://bank.example\\@evil.example/x", []),
        ("javascript:alert(1) data:text/html,x vbscript:x file:///etc ftp://a.example/x", []),
        ("git+https://a.example/x", []),
        ("javascript:https://a.example", ["https://a.example"]),
        ("https:// http://... https://", []),
        ("https://a.example/" + "b" * MAX_URL_CHARACTERS, []),
        ("www.a.example/b_c", ["http://www.a.example/b_c"]),
    ],
)
def test_a_url_ends_in_the_right_place(text: str, links: list[str]) -> None:
    assert [url for _visible, url in split_links(text) if url] == links
    assert "".join(visible for visible, _url in split_links(text)) == text
    for name, seen in shown(MD.render({"v": text})).items():
        assert [unquote(url) for url in links] == [href for _text, href in seen.links], name
        assert re.sub(r"[\u2066\u202e]", "", text) == seen.text, name


HOSTILE = [
    "[x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "[x]: https://evil.example",
    "<!channel> <!here> <@U1> @everyone @here",
    "`code` ``more` **bold** __bold__ *em* _em_ ~~gone~~ ~gone~",
    "<img src=x onerror=alert(1)> <script>alert(1)</script> <!-- x -->",
    "&commat;all &#64;all &lt;b&gt;",
    "https://a](evil) https://a](https://evil.example) [https://a](https://evil.example)",
    "https://a.example/`x` `https://a.example/`",
    "<https://a.example/ onclick=x> <https://a.example>x</a>",
    "\\https://a.example \\<https://a.example> \\\\[x](https://a.example)",
    "https://a.example/**b** https://a.example/_c _ https://d.example/_e_",
    "https://a.example/~b~ https://c.example/~d",
    "# a", "> a", "| a | b |\n| - | - |", "a\n===", "a\n---", "a\n:-:", "- - -", "***", "```\nx\n```",
]  # fmt: skip


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from([*HOSTILE, *REAL, " ", "\n", "\\", "*", "_", "]("])).map("".join)
)
@example("".join(HOSTILE))
@example("\n".join(HOSTILE))
def test_text_of_a_stranger_makes_nothing_but_its_own_links(text: str) -> None:
    for template in ANYWHERE:
        written = template.render({"v": text})
        for name, seen in shown(f"x {written}" if template is not EXCERPT else written).items():
            lists = {"ul", "ol", "li"} if template is EXCERPT else set()
            assert seen.elements <= STRUCTURE | lists, f"{name}: {written}"
            assert not seen.nested, name
            for visible, href in seen.links:
                assert re.match(r"https?://|mailto:", href, re.IGNORECASE), name
                assert visible.startswith("www.") or visible in text, f"{name}: {visible} is not in the text"


_WORDS = st.text(st.sampled_from("abc XYZ .,;!?*_[]()<>`\\#@&|~{}äß☕"), max_size=12)
_PATHS = st.text(st.sampled_from("abcXYZ0189-._~!$&'*+,;=:@/?#%[]{}^é"), max_size=40)


@st.composite
def texts_with_urls(draw: st.DrawFn) -> tuple[str, list[str]]:
    urls: list[str] = []
    text = draw(_WORDS)
    for _ in range(draw(st.integers(1, 4))):
        path = re.sub(r"[\[\]{}]|\.\.\.", "", draw(_PATHS)) + draw(
            st.sampled_from(["", "_(x)", "[1]", "{y}"])
        )
        urls.append(
            f"{draw(st.sampled_from(['https', 'http']))}://a.example/{path}{draw(st.sampled_from('z9/'))}"
        )
        text += f"{draw(st.sampled_from([' ', chr(10), ' (', ' <']))}{urls[-1]} {draw(_WORDS)}"
    return text, urls


@given(texts_with_urls())
def test_urls_in_any_position_are_found_intact(given_text: tuple[str, list[str]]) -> None:
    text, urls = given_text
    for template in (MD, EXCERPT):
        for name, seen in shown(template.render({"v": text})).items():
            found = [(unquote(visible), href) for visible, href in seen.links]  # markdown-it shows %41 as A
            assert found == [(unquote(url),) * 2 for url in urls], f"{name}: {template.render({'v': text})}"


@given(st.text(max_size=60), st.text(st.characters(codec="utf-8"), max_size=60))
@example("x", "(a) <b> \"c\" 'd' \\e `f` [g](https://evil.example) {h}|i^j")
@example("](https://evil.example)", ") [y](https://evil.example/")
@example("x", "&copy;&#64;&amp;")
@example("https://bank.example", "x")
@example("<https://bank.example>", "x")
def test_a_link_stays_one_link(label: str, path: str) -> None:
    url = f"https://a.example/{path}"
    written = LINK.render({"label": label, "target": url})
    for name, seen in shown(written).items():
        if "](" not in re.sub(r"\\.", "", written):  # no URL, or nothing to write on it
            assert (
                re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", path) or not plain_text(written)[7:-6].strip()
            )
            continue
        assert len(seen.links) == 1, f"{name}: {written}"
        assert not seen.nested, name
        assert seen.links[0][1] == unquote(url.strip()), name
        assert seen.elements <= STRUCTURE, f"{name}: {written}"
        assert seen.text.startswith("before "), name
        assert seen.text.endswith(" after"), name


def test_a_url_that_is_cut_leads_to_its_whole_address() -> None:
    url = "https://github.com/octocat/Hello-World/compare/v1.0.0...v2.0.0?a=b_c"
    for name, seen in shown(MessageTemplate("{{ v | md: 40 }}").render({"v": f"see {url} now"})).items():
        assert seen.links == [(f"{url[:35]}…", url)], name
        assert len(seen.text) == 40, name
    # Part of a host would pretend to be another one.
    hidden = "https://bank.example.evil.example/login"
    assert MessageTemplate("{{ v | md: 21 }}").render({"v": hidden}) == "…"
    for name, seen in shown(
        MessageTemplate("{{ v | excerpt: 3, 30 }}").render({"v": f"a\n{url}\nb"})
    ).items():
        assert seen.links == [(f"{url[:28]}…", url)], name


@given(st.text(max_size=80) | st.sampled_from([*REAL, *HOSTILE]), st.integers(4, 90))
def test_written_text_is_read_and_cut_between_its_marks(value: str, maximum: int) -> None:
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", " ", value).split())
    for template in (MD, BOLD, MessageTemplate("{{ v | link: 'https://a.example/(x)' }}")):
        written = template.render({"v": line})
        if len(line) <= 200:
            assert plain_text(written) == line
        cut = fit_markdown(written, maximum)
        assert len(cut) <= max(maximum, 0) or len(written) <= maximum
        for name, seen in shown(f"x {cut}").items():
            assert seen.elements <= STRUCTURE | {"strong"}, f"{name}: {cut}"


@pytest.mark.parametrize(
    "text",
    [
        *("https://a/" * 2000, "https://a)" * 2000, "https://a(/" * 1800, "https://a/" + "*" * 19_990),
        *("www." * 5000, "mailto:" + "a" * 19_990, "https://" + "a" * 19_990, "https://a/...." * 1400),
        *(
            ("https://a/" + "&amp;" * 300) * 12,
            "[" * 20_000,
            "[\\" * 10_000,
            "[a](" * 5000,
            "<https://" * 2200,
        ),
    ],
)
def test_finding_urls_takes_linear_time(text: str) -> None:
    started = process_time()
    assert "".join(visible for visible, _url in split_links(text)) == text
    plain_text(text)
    fit_markdown(text, 10_000)
    MD.render({"v": text})
    EXCERPT.render({"v": text})
    assert process_time() - started < 1

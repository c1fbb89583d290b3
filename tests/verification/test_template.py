"""Templates of text and signed content."""

import pytest

from shared.verification.match import Match
from shared.verification.request import SECRET_SETTING
from shared.verification.template import SignedContent, SourceTemplate
from shared.wire.template import TemplateError
from tests.verification.raw_requests import ADDRESS, request


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{query:a}", "1"),
        ("v0:{query:a}:{method}", "v0:1:POST"),
        ("{query:a}{query:a}", "11"),
        ("{query:none}", None),
        ("x{query:none}", None),
        ("x{query:empty}", None),
        ("{query:empty}", None),
        ("", ""),
        ("$[0]", "$[0]"),
    ],
)
def test_a_template(template: str, text: str | None) -> None:
    assert SourceTemplate(template).text(request(query=b"a=1&empty=")) == text


@pytest.mark.parametrize(
    "template", ["{", "}", "{method", "method}", "{{method}}", "{}", "{method}}", "a{b{c}}"]
)
def test_a_template_with_a_brace_too_many(template: str) -> None:
    for kind in (SourceTemplate, SignedContent):
        with pytest.raises(TemplateError):
            kind(template)


def test_what_a_template_puts_in_is_not_read_again() -> None:
    """A sender that puts a source into its data gets the text of it, not what it names."""
    inbound = request(query=b"a=%7Bsetting%3Asecret%7D", settings={SECRET_SETTING: "hidden"})
    assert SourceTemplate("{query:a}").text(inbound) == "{setting:secret}"
    assert SignedContent("{query:a}").content(inbound) == b"{setting:secret}"


def test_constant_templates_say_so() -> None:
    assert SourceTemplate("https://example.com/keys").constant
    assert not SourceTemplate("https://example.com/{query:a}").constant


def test_what_is_signed() -> None:
    raw = b"\xff\xfe not text at all \x00"
    inbound = request(body=raw, query=b"a=%C3%A4", headers={b"h": [b"caf\xe9"]})
    inbound.timestamp = "17"
    assert SignedContent("{body}").content(inbound) == raw
    assert SignedContent("v0:{timestamp}:{body}").content(inbound) == b"v0:17:" + raw
    assert (
        SignedContent("{method}{url}{body}").content(inbound)
        == b"POST" + ADDRESS.encode() + b"?a=%C3%A4" + raw
    )
    assert SignedContent("{query:a}|{header:h}").content(inbound) == "ä".encode() + b"|caf\xe9"
    assert SignedContent("{body}{secret}").content(inbound, b"s3") == raw + b"s3"
    assert SignedContent("x{query:none}{body}").content(inbound) is None
    assert SignedContent("{timestamp}{body}").content(request()) is None


def test_the_empty_body_is_signed_too() -> None:
    assert SignedContent("{body}").content(request(body=b"")) == b""
    assert SignedContent("a{body}").content(request(body=b"")) == b"a"


@pytest.mark.parametrize("source", ["body", "secret"])
def test_body_and_secret_are_in_no_answer(source: str) -> None:
    """They are for signed texts only: an answer or a match cannot name them."""
    with pytest.raises(TemplateError):
        SourceTemplate("{" + source + "}")
    with pytest.raises(TemplateError):
        Match({source: "x"})

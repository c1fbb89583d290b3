"""The grammar of templates, which is the same in every place of a manifest."""

from collections.abc import Callable

import pytest

from shared.manifests.connect_models import ApiRequest
from shared.verification.template import SignedContent, SourceTemplate
from shared.wire.request_template import MissingValue, RequestTemplate
from shared.wire.template import MAX_SOURCES, Template, TemplateError, has_sources

Compile = Callable[[str], object]
PLACES: dict[str, tuple[Compile, str]] = {
    "text": (SourceTemplate, "{json:a}"),
    "signed": (SignedContent, "{timestamp}"),
    "request": (RequestTemplate, "{param:shop}"),
}
"""Each place with one of its sources."""


def fault(compile_text: Compile, text: str) -> str:
    with pytest.raises(TemplateError) as caught:
        compile_text(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "}",
        "a{b{c}}",
        "{{client_id}}",
        "{method",
        "method}",
        "{}",
        "{unheard}",
        "{unheard:of}",
        "{json:}",
    ],
)
def test_a_fault_is_the_same_in_every_place(text: str) -> None:
    # The hint names a source of the place.
    [message] = {fault(compile_text, text).partition(" (did")[0] for compile_text, _ in PLACES.values()}
    assert "unbalanced brace" in message or "no such source" in message


@pytest.mark.parametrize(("compile_text", "source"), PLACES.values(), ids=PLACES)
def test_every_place_has_the_same_bound(compile_text: Compile, source: str) -> None:
    names = ("header:a{}", "param:a{}")
    name = names[source == "{param:shop}"]
    text = "".join(f"{{{name.format(n)}}}" for n in range(MAX_SOURCES))
    compile_text(text)
    assert f"use at most {MAX_SOURCES}" in fault(compile_text, text + source)


@pytest.mark.parametrize(
    ("compile_text", "text"),
    [
        (SourceTemplate, "{body}"),
        (SourceTemplate, "{client_id}"),
        (SignedContent, "{param:shop}"),
        (RequestTemplate, "{json:a}"),
        (RequestTemplate, "{body}"),
        (RequestTemplate, "{param:Shop}"),
        (RequestTemplate, "{param}"),
        (RequestTemplate, "{client_id:x}"),
    ],
)
def test_a_place_has_its_own_sources_and_no_other(compile_text: Compile, text: str) -> None:
    assert "no such source" in fault(compile_text, text)


def test_a_source_that_is_misspelled_gets_a_hint() -> None:
    assert "did you mean json:...?" in fault(SourceTemplate, "{jsn:a}")
    assert "did you mean sorted_form?" in fault(SignedContent, "{sorted-form}{body}")
    assert "did you mean client_secret?" in fault(RequestTemplate, "{client_secrt}")
    assert len(fault(SourceTemplate, "{" + "x" * 100_000 + "}")) < 200


def test_literals_and_sources_in_order() -> None:
    template = Template("a{one}{two}b", str.upper)
    assert (template.literals, template.names, template.values) == (
        ("a", "", "b"),
        ("one", "two"),
        ("ONE", "TWO"),
    )
    assert template.parts() == ["a", "ONE", "TWO", "b"]
    assert Template("", str).parts() == []
    assert has_sources("a{b}")
    assert not has_sources("a}b{")


# Requests


def test_a_request_has_its_values() -> None:
    template = RequestTemplate("https://{param:shop}.example.com/{account:id}?a={client_id}")
    values = {"param:shop": "s", "account:id": "a b", "client_id": "c/d"}
    assert template.names == ("param:shop", "account:id", "client_id")
    assert template(values) == "https://s.example.com/a b?a=c/d"
    assert template.url(values) == "https://s.example.com/a%20b?a=c%2Fd"
    assert RequestTemplate("{setting:base}/x").url({"setting:base": "https://a/b"}) == "https://a/b/x"


def test_a_value_is_not_read_as_a_template() -> None:
    assert RequestTemplate("{param:shop}")({"param:shop": "{client_secret}", "client_secret": "s3"}) == (
        "{client_secret}"
    )


def test_a_value_that_is_missing_or_empty() -> None:
    template = RequestTemplate("Bearer {access_token}")
    for values in ({}, {"access_token": ""}):
        assert template.render_or_empty(values) == ""
        with pytest.raises(MissingValue, match="access_token"):
            template(values)
        with pytest.raises(MissingValue, match="access_token"):
            template.url(values)


def test_the_texts_of_a_json_body_are_templates() -> None:
    ApiRequest.model_validate({"method": "POST", "url": "https://a", "json": {"a": ["{token}"], "{": 1}})
    with pytest.raises(ValueError, match=r"no such source: 'tokn'.*did you mean token"):
        ApiRequest.model_validate({"method": "POST", "url": "https://a", "json": {"a": [{"b": "{tokn}"}]}})

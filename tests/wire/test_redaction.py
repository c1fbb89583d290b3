"""Secrets that a provider repeats in a response are redacted, and huge responses are cut."""

import orjson
import pytest

from shared.manifests.oauth1 import OAuth1Flow
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.registry import registry
from shared.wire.bodies import FORM_CONTENT_TYPE, JSON_CONTENT_TYPE
from shared.wire.provider_http import ProviderResponse
from shared.wire.redaction import redact

TOKEN = "rt-" + "0123456789" * 40


@pytest.mark.parametrize("length", [6, 20, 300])
def test_the_beginning_of_a_secret_where_a_text_was_cut_off_is_hidden(length: int) -> None:
    assert redact(f"Invalid refresh token: {TOKEN[:length]}", [TOKEN]) == "Invalid refresh token: [hidden]"


def test_a_text_that_ends_in_a_few_letters_of_a_secret_stays() -> None:
    assert redact("it is rt-01", [TOKEN]) == "it is rt-01"


def test_a_long_token_in_a_refusal_is_hidden_although_the_refusal_is_cut_off() -> None:
    body = orjson.dumps({"error": f"no_{TOKEN}", "error_description": f"Invalid refresh token: {TOKEN}"})
    with pytest.raises(ProviderRejected) as error:
        registry().connectors["oidc"].parse_token_response(
            ProviderResponse(400, {"content-type": JSON_CONTENT_TYPE}, body)
        )
    for text in (error.value.code, error.value.detail):
        assert TOKEN[:6] not in redact(text, [TOKEN])


def test_a_form_of_thousands_of_fields_is_a_refusal() -> None:
    answer = ProviderResponse(200, {"content-type": FORM_CONTENT_TYPE}, b"a=1&" * 5000)
    for read in (registry().connectors["oidc"].parse_token_response, OAuth1Flow.parse_token_response):
        with pytest.raises(ProviderRejected, match="no_token"):
            read(answer)


def test_scopes_are_stored_up_to_a_limit() -> None:
    body = orjson.dumps({"access_token": "a", "scope": " ".join(map(str, range(100_000)))})
    tokens = (
        registry()
        .connectors["oidc"]
        .parse_token_response(ProviderResponse(200, {"content-type": JSON_CONTENT_TYPE}, body))
        .tokens
    )
    assert tokens is not None
    assert tokens.scopes == tuple(map(str, range(500)))

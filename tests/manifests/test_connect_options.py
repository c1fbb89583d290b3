"""The ways to connect an account, as a form shows them: those of the manifests, and fit for the calls."""

import re

import pytest

from shared.manifests.connect_options import ConnectField, ConnectOption, connect_options
from shared.manifests.field_validation import validate_fields
from shared.manifests.registry import registry

BASE = "https://hub.example.com"
CALLBACK = f"{BASE}/api/auth/oauth/callback"


def offered(name: str) -> dict[str, ConnectOption]:
    found = connect_options(name, registry().providers, registry().connectors, BASE)
    assert len({option.kind for option in found}) == len(found)
    return {option.kind: option for option in found}


def by_id(fields: tuple[ConnectField, ...]) -> dict[str, ConnectField]:
    return {field.id: field for field in fields}


def every_field(option: ConnectOption) -> tuple[ConnectField, ...]:
    of_app = (*option.app.fields, *option.app.settings) if option.app else ()
    return (*option.fields, *option.params, *of_app)


def check_every_option_and_no_other(name: str) -> None:
    connector = registry().connectors.get(name)
    expected: list[str] = []
    if connector is not None:
        expected += ["oauth2"] * bool(connector.oauth2) + ["oauth1"] * bool(connector.oauth1)
        expected += connector.manual_credentials
    assert list(offered(name)) == expected
    for option in offered(name).values():
        assert option.name
        assert option.about
        by_oauth = option.kind in ("oauth2", "oauth1")
        assert option.path == ("/api/auth/oauth/connect" if by_oauth else "/api/integrations")
        assert bool(option.fields) is not by_oauth
        assert (option.app_registered, option.app is not None) == (
            (False, True) if by_oauth else (None, False)
        )


def check_what_a_form_sends_is_accepted(name: str) -> None:
    """Whoever enters only what is required and has no default: what fits, or an example of it."""
    for kind, option in offered(name).items():
        connector = registry().connectors[name]
        settings = connector.manual_credentials[kind].fields if option.fields else connector.params
        fields = option.fields or option.params
        assert list(by_id(fields)) == list(settings)
        values = {
            field.id: field.example or settings[field.id].example
            for field in fields
            if field.required and not field.default and not field.generated
        }
        assert validate_fields(settings, values, place="fields").items() >= values.items()
        for preset in option.presets:
            assert preset.name
            assert not any(by_id(fields)[field].secret for field in preset.values)
            assert (
                validate_fields(settings, {**values, **preset.values}, place="fields").items()
                >= preset.values.items()
            )


def check_fields_describe_what_fits_and_nothing_secret(name: str) -> None:
    for option in offered(name).values():
        for field in every_field(option):
            assert field.name
            assert field.about
            for value in filter(None, (field.default, field.example, *field.options)):
                assert not field.secret
                assert re.fullmatch(field.pattern, value) if field.pattern else True


def check_patterns_work_in_javascript_too(name: str) -> None:
    """No group of Python's own, no flags within, no anchors of Python's own, nothing possessive."""
    only_here = re.compile(r"\(\?(?!:|=|!|<[=!])|\\[AZ]|[*+?}]\+")
    for option in offered(name).values():
        for field in every_field(option):
            assert not only_here.search(field.pattern), field


def test_mail_has_two_options_with_known_servers() -> None:
    found = offered("email")
    assert list(found) == ["smtp", "imap"]
    sending = found["smtp"]
    assert list(by_id(sending.fields)) == ["host", "port", "security", "username", "password"]
    security, password = (by_id(sending.fields)[name] for name in ("security", "password"))
    assert (security.options, security.default) == (("tls", "starttls", "none"), "tls")
    assert (password.secret, password.example, password.default) == (True, "", "")
    presets = {preset.id: preset for preset in sending.presets}
    assert presets["gmail"].name == "Gmail"
    assert presets["gmail"].values == {"host": "smtp.gmail.com", "port": "465", "security": "tls"}


def test_a_bot_is_connected_by_its_token_alone() -> None:
    [option] = offered("telegram").values()
    assert (option.kind, list(by_id(option.fields)), option.app) == ("bot_token", ["access_token"], None)


def test_what_the_person_gives_is_apart_from_what_the_operator_does() -> None:
    shop = offered("shopify")["oauth2"]
    assert by_id(shop.params)["shop"].required
    assert shop.fields == ()
    assert shop.app
    assert list(by_id(shop.app.fields)) == ["client_id", "client_secret"]
    server = offered("oidc")["oauth2"]
    assert server.params == ()
    assert server.app
    assert by_id(server.app.settings)["token_url"].required


def check_an_app_is_described_completely_and_once(name: str) -> None:
    for option in offered(name).values():
        if option.app is None:
            continue
        connector = registry().connectors[name]
        app = option.app
        assert app.provider == connector.app
        assert app.path == f"/api/platform-credentials/{connector.app}"
        assert app.redirect_uri == CALLBACK
        assert any(CALLBACK in step for step in app.setup_steps)
        assert not [step for step in app.setup_steps if "{" in step]
        assert by_id(app.fields)["client_secret"].required is connector.needs_secret
        assert list(by_id(app.settings)) == list(connector.settings)
        [shared] = [each.app for each in offered(connector.app).values() if each.app]
        assert app == shared


def test_an_app_whose_webhooks_have_a_secret_of_their_own_says_so() -> None:
    signing = {
        name
        for name in registry().providers
        for option in offered(name).values()
        if option.app and "signing_secret" in by_id(option.app.fields)
    }
    assert signing == {"slack", "zoom", "zalo", "stripe", "instagram", "twitter"}


def test_it_says_what_is_asked_for_and_what_is_chosen_afterwards() -> None:
    mail = offered("gmail")["oauth2"]
    assert mail.scopes == registry().connectors["gmail"].scopes
    assert "Google" in mail.about
    assert mail.choice is None
    assert offered("messenger")["oauth2"].choice == "the Page"


@pytest.mark.parametrize("name", registry().providers)
def test_the_connect_options_of_a_provider(name: str) -> None:
    check_every_option_and_no_other(name)
    check_what_a_form_sends_is_accepted(name)
    check_fields_describe_what_fits_and_nothing_secret(name)
    check_patterns_work_in_javascript_too(name)
    check_an_app_is_described_completely_and_once(name)

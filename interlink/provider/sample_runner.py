"""Runs the samples in `connect.yaml` and reports what a connector does differently."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl

from interlink.provider.request_comparison import request_faults
from interlink.provider.samples import (
    CODE,
    OAUTH1_VERIFIER,
    PKCE_VERIFIER,
    REQUEST_TOKEN,
    STATE,
    TOKENS,
    VALUES,
    CallbackSample,
    ClientSample,
    ManualCredentialSample,
    ResourcesSample,
    Sample,
    SampleAccount,
    SampleResource,
    SampleTokens,
)
from shared.contracts.errors import InterlinkError
from shared.manifests.accounts import AccountIdentity, manual_credential_values
from shared.manifests.connect_models import ManualCredential, ResourceToken
from shared.manifests.connector import Connector
from shared.manifests.oauth1 import OAuth1Flow, RequestToken
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
    UnreadableResponse,
    select_value,
)
from shared.manifests.token_response import TokenResponse, Tokens, parse_token
from shared.wire.provider_http import ProviderRequest, ProviderResponse

_ERROR_NAMES: Final[Mapping[type[Exception], str]] = {
    ProviderRejected: "Refused",
    GrantRevoked: "ConsentGone",
    InvalidClient: "ClientRefused",
    ProviderUnavailable: "PlatformBusy",
    UnreadableResponse: "Refused",
}
"""The names of errors in `connect.yaml`."""


def sample_faults(connector: Connector, sample: Sample) -> Iterator[str]:
    """Yield each difference between connector and samples, and each part without a sample."""
    values = sample_values(connector)
    if connector.oauth2:
        yield from _authorization_faults(connector, sample, values)
    if connector.connect.oauth1:
        yield from _oauth1_faults(OAuth1Flow(connector.connect.oauth1), connector, sample, values)
    elif sample.request_token or sample.requested:
        yield "request_token: the manifest has no OAuth 1.0a"
    if sample.callback:
        # Values that one step stores are available to the next.
        values |= _account_values(sample.callback.kept)
    yield from _account_faults(connector, sample, values)
    if sample.account:
        values |= _account_values(sample.account.whose.kept)
    yield from _resource_faults(connector, sample, values)
    if sample.choices and sample.choices.found:
        values |= _account_values(sample.choices.found[0].kept)
    yield from _token_request_faults(connector, sample, values)
    for name, responses, is_rejected in (
        ("expired", sample.expired, True),
        ("not_expired", sample.not_expired, False),
    ):
        for position, response in enumerate(responses):
            if connector.is_token_rejected(response.to_answer()) is not is_rejected:
                yield f"{name}.{position}: the token is {'not ' * is_rejected}rejected"
    if connector.connect.api.expired and not sample.expired:  # else `through` has the codes and the sample
        yield "expired: missing: add a response to a token that is no longer valid"
    yield from _manual_credentials_faults(connector, sample)


def connected_values(connector: Connector, sample: Sample) -> dict[str, str]:
    """Return the values of requests for the account of the samples."""
    values = {**sample_values(connector), **TOKENS}
    values |= _account_values(sample.callback.kept if sample.callback else {})
    if sample.account:
        values |= {"account:id": sample.account.whose.id, **_account_values(sample.account.whose.kept)}
    if sample.choices and sample.choices.found:
        values |= _account_values(sample.choices.found[0].kept)
    return values


def sample_values(connector: Connector) -> dict[str, str]:
    """Return the values of the samples' requests without tokens: settings have their examples."""
    settings = {
        f"setting:{name}": setting.example or setting.default for name, setting in connector.settings.items()
    }
    params = {
        f"param:{name}": setting.example or setting.default for name, setting in connector.params.items()
    }
    return {name: value for name, value in {**VALUES, **settings, **params}.items() if value}


def _account_values(values: Mapping[str, str]) -> dict[str, str]:
    return {f"account:{name}": value for name, value in values.items()}


def _authorization_faults(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    """Yield differences in the OAuth 2.0 flow: authorization request, callback, code exchange."""
    url = connector.authorize(values, state=STATE, verifier=PKCE_VERIFIER, scopes=connector.scopes)
    if url != sample.authorize:
        yield f"authorize: is {url}"
    flow = connector.connect.oauth2
    if flow is None:
        return
    rules = flow.callback
    if (rules.issuer or rules.hmac or rules.same or rules.keep) and not sample.callback:
        yield "callback: missing: add a sample, because the callback is checked or stored"
    if sample.callback:
        yield from _callback_faults(connector, sample.callback, values)
    yield from request_faults("exchange", sample.exchange, lambda: _exchange_request(connector, values))
    if flow.client.form_encoded or sample.client:
        yield from _client_authentication_faults(connector, sample.client, values)
    account = connector.account
    in_token = account is not None and account.person_in == "token"
    yield from _token_response_faults(
        connector.parse_token_response,
        sample,
        lambda document: connector.parse_person(None, token=document) if in_token else "",
    )


def _exchange_request(connector: Connector, values: Mapping[str, str]) -> ProviderRequest:
    assert connector.oauth2  # noqa: S101 -- checked by the caller
    return connector.exchange(values, code=CODE + connector.oauth2.callback.strip, verifier=PKCE_VERIFIER)


def _client_authentication_faults(
    connector: Connector, client: ClientSample | None, values: Mapping[str, str]
) -> Iterator[str]:
    """Yield differences for an app with special characters in its id and secret."""
    if client is None:
        yield "client: missing: add an id and a secret with special characters"
        return
    # Special characters show whether id and secret are form-encoded.
    special = {**values, "client_id": client.id, "client_secret": client.secret}
    authorization = _exchange_request(connector, special).headers.get("Authorization", "")
    if authorization != client.authorization:
        yield f"client.authorization: is {authorization!r}"


def _oauth1_faults(
    flow: OAuth1Flow, connector: Connector, sample: Sample, values: Mapping[str, str]
) -> Iterator[str]:
    """Yield differences in the OAuth 1.0a flow, which begins with a request of the hub."""
    request = RequestToken(*REQUEST_TOKEN)
    yield from request_faults(
        "request_token", sample.request_token, lambda: flow.request_token_request(values, state=STATE)
    )
    yield from _request_token_faults(flow, sample)
    page = flow.authorize(values, request.token, connector.scopes)
    if page != sample.authorize:
        yield f"authorize: is {page}"
    yield from request_faults(
        "exchange", sample.exchange, lambda: flow.access_token_request(values, request, OAUTH1_VERIFIER)
    )
    yield from _token_response_faults(flow.parse_token_response, sample, lambda _: "")


def _request_token_faults(flow: OAuth1Flow, sample: Sample) -> Iterator[str]:
    """Yield differences in the meaning of responses to the first leg."""
    if not any(sample_response.token for sample_response in sample.requested):
        yield "requested: missing: add a response with a request token"
    if not any(sample_response.refused for sample_response in sample.requested):
        yield "requested: missing: add a response with an error"
    for sample_response in sample.requested:
        location = f"requested: {sample_response.name}"
        try:
            request_token = flow.parse_request_token(sample_response.to_answer())
        except (ProviderUnavailable, ProviderRejected) as error:
            yield from _error_faults(location, error, sample_response.refused, sample_response.code)
        else:
            if sample_response.refused:
                yield f"{location}: is accepted"
            elif (request_token.token, request_token.secret) != (
                sample_response.token,
                sample_response.secret,
            ):
                yield f"{location}: the token is {request_token.token!r}, its secret {request_token.secret!r}"


def _callback_faults(
    connector: Connector, sample: CallbackSample, values: Mapping[str, str]
) -> Iterator[str]:
    try:
        stored = connector.validate_callback(parse_qsl(sample.query, keep_blank_values=True), values)
        if stored != sample.kept:
            yield f"callback.kept: is {stored}"
    except InterlinkError as error:
        yield f"callback.query: is rejected: {error}"
    for position, query in enumerate(sample.refused):
        try:
            connector.validate_callback(parse_qsl(query, keep_blank_values=True), values)
            yield f"callback.refused.{position}: is accepted"
        except ProviderRejected:
            continue


def _token_response_faults(
    parse: Callable[[ProviderResponse], TokenResponse], sample: Sample, person_in: Callable[[Any], str]
) -> Iterator[str]:
    """Yield differences in the meaning of the token endpoint's responses."""
    if not any(answer.tokens or answer.others for answer in sample.answers):
        yield "answers: missing: add a response with tokens"
    if not any(answer.refused for answer in sample.answers):
        yield "answers: missing: add a response with an error"
    for sample_response in sample.answers:
        location = f"answers: {sample_response.name}"
        try:
            result = parse(sample_response.to_answer())
        except (ProviderUnavailable, ProviderRejected) as error:
            yield from _error_faults(location, error, sample_response.refused, sample_response.code)
        else:
            if sample_response.refused:
                yield f"{location}: is accepted"
            elif _as_sample_tokens(result.tokens) != sample_response.tokens:
                yield f"{location}: tokens are {_as_sample_tokens(result.tokens)}"
            elif {
                name: _as_sample_tokens(tokens) for name, tokens in result.others.items()
            } != sample_response.others:
                yield f"{location}: others are {dict(result.others)}"
            elif (person := person_in(result.document)) != sample_response.person:
                yield f"{location}: person is {person!r}"


def _error_faults(
    location: str, error: ProviderUnavailable | ProviderRejected, expected: str | None, code: str
) -> Iterator[str]:
    """Yield a fault if a response was not rejected as the sample says."""
    name = _ERROR_NAMES[type(error)]
    if isinstance(error, ProviderUnavailable):
        if expected != name:
            yield f"{location}: is {name}"
    elif (name, error.code) != (expected, code):
        yield f"{location}: is {name} {error.code!r}"


def _as_sample_tokens(tokens: Tokens | None) -> SampleTokens | None:
    if tokens is None:
        return None
    return SampleTokens(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=tokens.expires_in,
        refresh_expires_in=tokens.refresh_expires_in,
        scopes=tokens.scopes,
    )


def _token_request_faults(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    """Yield differences in the requests for a long-lived token, refresh and revocation."""
    values = {**values, **TOKENS}
    if connector.connect.oauth2:
        yield from request_faults("longer", sample.longer, lambda: connector.long_lived_request(values))
        yield from request_faults("refresh", sample.refresh, lambda: connector.refresh_request(values))
    if connector.connect.oauth2 or connector.connect.oauth1:
        yield from request_faults("revoke", sample.revoke, lambda: connector.revoke_request(values))


def _account_faults(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    account = connector.connect.account
    if account is None or sample.account is None:
        if account or sample.account:
            yield "account: missing: add a sample" if account else "account: the manifest has none"
        return
    response = sample.account.to_answer()
    call = account.call
    yield from request_faults(
        "account.request",
        sample.account.request,
        lambda: connector.request(call, {**values, **TOKENS}) if call else None,
    )
    try:
        document = (
            connector.parse_api_response(response)
            if account.call
            else connector.parse_token_response(response).document
        )
        identity = connector.parse_account(account, document)
        if account.person_in == "account":
            identity = replace(identity, person=connector.parse_person(document, token=None))
        yield from _identity_faults("account.whose", identity, sample.account.whose)
    except InterlinkError as error:
        yield f"account: is rejected: {error}"


def _identity_faults(location: str, identity: AccountIdentity, expected: SampleAccount) -> Iterator[str]:
    actual = SampleAccount(
        id=identity.id,
        label=identity.label,
        url=identity.url,
        kept=dict(identity.attributes),
        person=identity.person,
    )
    if actual != expected:
        yield f"{location}: is {actual.model_dump(exclude_defaults=True)}"


def _resource_faults(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    # Resources of the provider in `through` may have samples too: requests after them need their values.
    expected = sample.choices
    choices = connector.account_selection if expected is not None else connector.connect.choices
    if choices is None or expected is None:
        if choices or expected:
            yield ("choices: missing: add a sample" if choices else "choices: the manifest has none")
        return
    yield from request_faults(
        "choices.request", expected.request, lambda: connector.request(choices.call, {**values, **TOKENS})
    )
    try:
        resources = connector.parse_resources(connector.parse_api_response(expected.to_answer()))
    except InterlinkError as error:
        yield f"choices: is rejected: {error}"
        return
    actual = tuple(
        SampleResource(id=resource.id, label=resource.label, kept=dict(resource.attributes))
        for resource in resources
    )
    if actual != expected.found:
        yield f"choices.found: is {[resource.model_dump() for resource in actual]}"
    elif choices.token or expected.token:
        yield from _resource_token_faults(connector, choices.token, expected, values)


def _resource_token_faults(
    connector: Connector, token: ResourceToken | None, sample: ResourcesSample, values: Mapping[str, str]
) -> Iterator[str]:
    if (expected := sample.token) is None or token is None:
        yield ("choices.token: missing: add a sample" if token else "choices.token: the manifest has none")
        return
    values = {**values, **_account_values(sample.found[0].kept), **TOKENS}
    yield from request_faults(
        "choices.token.request", expected.request, lambda: connector.request(token.call, values)
    )
    answer = connector.parse_api_response(expected.to_answer())
    if (actual := parse_token(select_value(token.access_token, answer))) != expected.access_token:
        yield f"choices.token.access_token: is {actual!r}"


def _manual_credentials_faults(connector: Connector, sample: Sample) -> Iterator[str]:
    for name in sorted(sample.entered.keys() - connector.manual_credentials.keys()):
        yield f"entered.{name}: the manifest has none"
    for name, kind in connector.manual_credentials.items():
        expected = sample.entered.get(name)
        if expected is None:
            yield f"entered.{name}: missing: add a sample"
            continue
        yield from (
            f"entered.{name}.{fault}" for fault in _manual_credential_faults(connector, kind, expected)
        )


def _manual_credential_faults(
    connector: Connector, kind: ManualCredential, expected: ManualCredentialSample
) -> Iterator[str]:
    try:
        values = manual_credential_values(kind, expected.fields)
    except ProviderRejected as error:
        yield f"fields: {error.detail}"
        return
    for name in sorted(expected.fields.keys() - kind.fields.keys()):
        yield f"fields.{name}: the manifest has none"
    account = kind.account
    call = account.call if account else None
    if account is None or call is None:
        if expected.request or expected.whose:
            yield "request: a login tests it: remove request and whose"
        return
    api = kind.api or connector.api
    yield from request_faults("request", expected.request, lambda: connector.request(call, values, api))
    try:
        identity = connector.parse_account(
            account, connector.parse_api_response(expected.to_answer(), api), values
        )
        if expected.whose is None:
            yield "whose: missing: add the expected account"
        else:
            yield from _identity_faults("whose", identity, expected.whose)
    except InterlinkError as error:
        yield f"body: is rejected: {error}"
    if not expected.refused:
        yield "refused: missing: add the provider's response to a wrong one"
    for position, answer in enumerate(expected.refused):
        try:
            connector.parse_account(account, connector.parse_api_response(answer.to_answer(), api), values)
            yield f"refused.{position}: is accepted"
        except InterlinkError:
            continue

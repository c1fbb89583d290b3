"""The runner of samples: where a connector does another thing than `connect.yaml` says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

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
    Sample,
    SampleAccount,
    SampleRequest,
    SampleResource,
    SampleTokens,
)
from shared.contracts.errors import InterlinkError
from shared.manifests.connect_models import ManualCredential
from shared.manifests.connector import (
    AccountIdentity,
    Connector,
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
    TokenResponse,
    Tokens,
    manual_credential_values,
)
from shared.manifests.oauth1 import OAuth1Flow, RequestToken
from shared.wire.provider_http import ProviderRequest, ProviderResponse

_PER_REQUEST_PARAMETERS: Final = frozenset({"oauth_nonce", "oauth_timestamp", "oauth_signature"})

_ERROR_NAMES: Final[Mapping[type[Exception], str]] = {
    ProviderRejected: "Refused",
    GrantRevoked: "ConsentGone",
    InvalidClient: "ClientRefused",
    ProviderUnavailable: "PlatformBusy",
}
"""The names of errors in `connect.yaml`."""


def sample_faults(connector: Connector, sample: Sample) -> Iterator[str]:
    """Where the connector does another thing than the samples say, or a part has no sample: a line each."""
    values = sample_values(connector)
    if connector.oauth2:
        yield from _authorization_faults(connector, sample, values)
    if connector.connect.oauth1:
        yield from _oauth1_faults(OAuth1Flow(connector.connect.oauth1), connector, sample, values)
    elif sample.request_token or sample.requested:
        yield "request_token: the manifest has no OAuth 1.0a"
    if sample.callback:
        values |= _account_values(sample.callback.kept)
    yield from _account_faults(connector, sample, values)
    if sample.account:
        values |= _account_values(sample.account.whose.kept)
    yield from _resource_faults(connector, sample, values)
    if sample.choices and sample.choices.found:
        values |= _account_values(sample.choices.found[0].kept)
    yield from _token_request_faults(connector, sample, values)
    for name, answers, refused in (
        ("expired", sample.expired, True),
        ("not_expired", sample.not_expired, False),
    ):
        for position, answer in enumerate(answers):
            if connector.is_token_rejected(answer.to_answer()) is not refused:
                yield f"{name}.{position}: the token is {'not ' * refused}refused"
    if "api" in connector.connect.model_fields_set and connector.api.expired and not sample.expired:
        yield "expired: missing: an answer that says that the token is not good any more"
    yield from _manual_credentials_faults(connector, sample)


def connected_values(connector: Connector, sample: Sample) -> dict[str, str]:
    """What requests are filled with once the account of the samples is connected."""
    values = {**sample_values(connector), **TOKENS}
    values |= _account_values(sample.callback.kept if sample.callback else {})
    if sample.account:
        values |= {"account:id": sample.account.whose.id, **_account_values(sample.account.whose.kept)}
    if sample.choices and sample.choices.found:
        values |= _account_values(sample.choices.found[0].kept)
    return values


def sample_values(connector: Connector) -> dict[str, str]:
    """What the requests of the samples are filled with beside tokens: settings are as their examples."""
    settings = {f"setting:{name}": each.example or each.default for name, each in connector.settings.items()}
    params = {f"param:{name}": each.example or each.default for name, each in connector.params.items()}
    return {name: value for name, value in {**VALUES, **settings, **params}.items() if value}


def _account_values(kept: Mapping[str, str]) -> dict[str, str]:
    return {f"account:{name}": value for name, value in kept.items()}


def _authorization_faults(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    """The way out, and back."""
    made = connector.authorize(values, state=STATE, verifier=PKCE_VERIFIER, scopes=connector.scopes)
    if made != sample.authorize:
        yield f"authorize: is {made}"
    flow = connector.connect.oauth2
    if flow is None:
        return
    wanted = flow.callback
    if (wanted.issuer or wanted.hmac or wanted.same or wanted.keep) and not sample.callback:
        yield "callback: missing: what comes back is checked, or kept"
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
    assert connector.oauth2  # noqa: S101 -- the caller has looked
    return connector.exchange(values, code=CODE + connector.oauth2.callback.strip, verifier=PKCE_VERIFIER)


def _client_authentication_faults(
    connector: Connector, client: ClientSample | None, values: Mapping[str, str]
) -> Iterator[str]:
    """An app with other characters in its id and secret than those of all other samples."""
    if client is None:
        yield "client: missing: how an id and a secret with other characters are sent"
        return
    special = {**values, "client_id": client.id, "client_secret": client.secret}
    made = _exchange_request(connector, special).headers.get("Authorization", "")
    if made != client.authorization:
        yield f"client.authorization: is {made!r}"


def _oauth1_faults(
    flow: OAuth1Flow, connector: Connector, sample: Sample, values: Mapping[str, str]
) -> Iterator[str]:
    """The way out of OAuth 1.0a, which begins with a request of ours, and the way back."""
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
    """What the answers to the first leg mean."""
    if not any(each.token for each in sample.requested):
        yield "requested: none gives a request token"
    if not any(each.refused for each in sample.requested):
        yield "requested: none is an error"
    for answer in sample.requested:
        where = f"requested: {answer.name}"
        try:
            made = flow.parse_request_token(answer.to_answer())
        except (ProviderUnavailable, ProviderRejected) as error:
            yield from _error_faults(where, error, answer.refused, answer.code)
        else:
            if answer.refused:
                yield f"{where}: is taken"
            elif (made.token, made.secret) != (answer.token, answer.secret):
                yield f"{where}: the token is {made.token!r}, its secret {made.secret!r}"


def _callback_faults(
    connector: Connector, sample: CallbackSample, values: Mapping[str, str]
) -> Iterator[str]:
    try:
        kept = connector.validate_callback(parse_qsl(sample.query, keep_blank_values=True), values)
        if kept != sample.kept:
            yield f"callback.kept: is {kept}"
    except InterlinkError as error:
        yield f"callback.query: is refused: {error}"
    for position, query in enumerate(sample.refused):
        try:
            connector.validate_callback(parse_qsl(query, keep_blank_values=True), values)
            yield f"callback.refused.{position}: is taken"
        except ProviderRejected:
            continue


def _token_response_faults(
    granted: Callable[[ProviderResponse], TokenResponse], sample: Sample, person_in: Callable[[Any], str]
) -> Iterator[str]:
    """What the token endpoint's answers mean."""
    if not any(each.tokens or each.others for each in sample.answers):
        yield "answers: none gives tokens"
    if not any(each.refused for each in sample.answers):
        yield "answers: none is an error"
    for answer in sample.answers:
        where = f"answers: {answer.name}"
        try:
            made = granted(answer.to_answer())
        except (ProviderUnavailable, ProviderRejected) as error:
            yield from _error_faults(where, error, answer.refused, answer.code)
        else:
            if answer.refused:
                yield f"{where}: is taken"
            elif _as_sample_tokens(made.tokens) != answer.tokens:
                yield f"{where}: tokens are {_as_sample_tokens(made.tokens)}"
            elif {name: _as_sample_tokens(each) for name, each in made.others.items()} != answer.others:
                yield f"{where}: others are {dict(made.others)}"
            elif (person := person_in(made.document)) != answer.person:
                yield f"{where}: person is {person!r}"


def _error_faults(
    where: str, error: ProviderUnavailable | ProviderRejected, wanted: str | None, code: str
) -> Iterator[str]:
    """Whether an answer was refused as the sample says."""
    kind = _ERROR_NAMES[type(error)]
    if isinstance(error, ProviderUnavailable):
        if wanted != kind:
            yield f"{where}: is {kind}"
    elif (kind, error.code) != (wanted, code):
        yield f"{where}: is {kind} {error.code!r}"


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
    """What is asked for with the tokens."""
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
            yield "account: missing: whose account it is" if account else "account: the manifest has none"
        return
    answer = sample.account.to_answer()
    asked = account.call
    yield from request_faults(
        "account.request",
        sample.account.request,
        lambda: connector.request(asked, {**values, **TOKENS}) if asked else None,
    )
    try:
        document = (
            connector.parse_api_response(answer)
            if account.call
            else connector.parse_token_response(answer).document
        )
        made = connector.parse_account(account, document)
        if account.person_in == "account":
            made = replace(made, person=connector.parse_person(document, token=None))
        yield from _identity_faults("account.whose", made, sample.account.whose)
    except InterlinkError as error:
        yield f"account: is refused: {error}"


def _identity_faults(where: str, made: AccountIdentity, wanted: SampleAccount) -> Iterator[str]:
    shown = SampleAccount(
        id=made.id, label=made.label, url=made.url, kept=dict(made.kept), person=made.person
    )
    if shown != wanted:
        yield f"{where}: is {shown.model_dump(exclude_defaults=True)}"


def _resource_faults(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    choices, wanted = connector.connect.choices, sample.choices
    if choices is None or wanted is None:
        if choices or wanted:
            yield (
                "choices: missing: what there is to choose of"
                if choices
                else "choices: the manifest has none"
            )
        return
    yield from request_faults(
        "choices.request", wanted.request, lambda: connector.request(choices.call, {**values, **TOKENS})
    )
    try:
        found = connector.parse_resources(connector.parse_api_response(wanted.to_answer()))
    except InterlinkError as error:
        yield f"choices: is refused: {error}"
        return
    shown = tuple(SampleResource(id=each.id, label=each.label, kept=dict(each.kept)) for each in found)
    if shown != wanted.found:
        yield f"choices.found: is {[each.model_dump() for each in shown]}"


def _manual_credentials_faults(connector: Connector, sample: Sample) -> Iterator[str]:
    for name in sorted(sample.entered.keys() - connector.entered.keys()):
        yield f"entered.{name}: the manifest has none"
    for name, kind in connector.entered.items():
        wanted = sample.entered.get(name)
        if wanted is None:
            yield f"entered.{name}: missing"
            continue
        yield from (f"entered.{name}.{fault}" for fault in _manual_credential_faults(connector, kind, wanted))


def _manual_credential_faults(
    connector: Connector, kind: ManualCredential, wanted: ManualCredentialSample
) -> Iterator[str]:
    try:
        values = manual_credential_values(kind, wanted.fields)
    except ProviderRejected as error:
        yield f"fields: {error.detail}"
        return
    for name in sorted(wanted.fields.keys() - kind.fields.keys()):
        yield f"fields.{name}: the manifest has none"
    account = kind.account
    call = account.call if account else None
    if account is None or call is None:
        if wanted.request or wanted.whose:
            yield "request: it is tried out by a login"
        return
    api = kind.api or connector.api
    yield from request_faults("request", wanted.request, lambda: connector.request(call, values, api))
    try:
        found = connector.parse_account(
            account, connector.parse_api_response(wanted.to_answer(), api), values
        )
        if wanted.whose is None:
            yield "whose: missing"
        else:
            yield from _identity_faults("whose", found, wanted.whose)
    except InterlinkError as error:
        yield f"body: is refused: {error}"
    if not wanted.refused:
        yield "refused: missing: what the platform answers to a wrong one"
    for position, answer in enumerate(wanted.refused):
        try:
            connector.parse_account(account, connector.parse_api_response(answer.to_answer(), api), values)
            yield f"refused.{position}: is taken"
        except InterlinkError:
            continue


def request_faults(
    where: str, wanted: SampleRequest | None, make: Callable[[], ProviderRequest | None]
) -> Iterator[str]:
    """The parts of the request that is made which are not as the sample says."""
    try:
        made = make()
    except InterlinkError as error:
        yield f"{where}: cannot be made: {error}"
        return
    if made is None or wanted is None:
        if made:
            yield f"{where}: missing: {made.method} {made.url}"
        elif wanted:
            yield f"{where}: the manifest makes no such request"
        return
    headers, signed = _split_oauth1_header(made.headers) if wanted.signed else (made.headers, {})
    shown = {
        "method": (wanted.method, made.method),
        "url": (wanted.url, made.url),
        "headers": (_lowercase_names(wanted.headers), _lowercase_names(headers)),
        "signed": (wanted.signed, signed),
        "body": (wanted.body, made.body.decode()),
    }
    for part, (expected, is_) in shown.items():
        if expected != is_:
            yield f"{where}.{part}: is {is_!r}"


def _split_oauth1_header(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The other headers, and the parameters of `Authorization: OAuth` that are the same each time."""
    others = dict(headers)
    scheme, _, listed = others.pop("Authorization", "").partition(" ")
    pairs = (each.partition("=") for each in listed.split(", ")) if scheme == "OAuth" else ()
    named = {unquote(name): unquote(value.strip('"')) for name, _, value in pairs}
    return others, {name: value for name, value in named.items() if name not in _PER_REQUEST_PARAMETERS}


def _lowercase_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}

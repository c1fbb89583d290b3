"""The runner of samples: where a connector does another thing than `connect.yaml` says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from shared.catalog.connect import Entered
from shared.catalog.connector import Connector, Granted, PlatformBusy, Refused, Tokens, Whose, entered_values
from shared.catalog.samples import (
    CODE,
    PERMISSION,
    REQUEST,
    STATE,
    TOKENS,
    VALUES,
    VERIFIER,
    CallbackSample,
    ClientSample,
    EnteredSample,
    Sample,
    SampleCall,
    SampleChoice,
    SampleTokens,
    SampleWhose,
)
from shared.catalog.three_legged import RequestToken, ThreeLegged
from shared.contracts.errors import InterlinkError
from shared.wire.oauth import Answered, Call

_NEW_EACH_TIME: Final = frozenset({"oauth_nonce", "oauth_timestamp", "oauth_signature"})


def sample_faults(connector: Connector, sample: Sample) -> Iterator[str]:
    """Where the connector does another thing than the samples say, or a part has no sample: a line each."""
    values = given(connector)
    if connector.oauth2:
        yield from _dance(connector, sample, values)
    if connector.connect.oauth1:
        yield from _three_legs(ThreeLegged(connector.connect.oauth1), connector, sample, values)
    elif sample.request_token or sample.requested:
        yield "request_token: the manifest has no OAuth 1.0a"
    if sample.callback:
        values |= _account(sample.callback.kept)
    yield from _whose(connector, sample, values)
    if sample.account:
        values |= _account(sample.account.whose.kept)
    yield from _choices(connector, sample, values)
    if sample.choices and sample.choices.found:
        values |= _account(sample.choices.found[0].kept)
    yield from _requests(connector, sample, values)
    for name, answers, refused in (
        ("expired", sample.expired, True),
        ("not_expired", sample.not_expired, False),
    ):
        for position, answer in enumerate(answers):
            if connector.token_refused(answer.answered()) is not refused:
                yield f"{name}.{position}: the token is {'not ' * refused}refused"
    if "api" in connector.connect.model_fields_set and connector.api.expired and not sample.expired:
        yield "expired: missing: an answer that says that the token is not good any more"
    yield from _entered(connector, sample)


def connected(connector: Connector, sample: Sample) -> dict[str, str]:
    """What requests are filled with once the account of the samples is connected."""
    values = {**given(connector), **TOKENS}
    values |= _account(sample.callback.kept if sample.callback else {})
    if sample.account:
        values |= {"account:id": sample.account.whose.id, **_account(sample.account.whose.kept)}
    if sample.choices and sample.choices.found:
        values |= _account(sample.choices.found[0].kept)
    return values


def given(connector: Connector) -> dict[str, str]:
    """What the requests of the samples are filled with beside tokens: settings are as their examples."""
    settings = {f"setting:{name}": each.example or each.default for name, each in connector.settings.items()}
    params = {f"param:{name}": each.example or each.default for name, each in connector.params.items()}
    return {name: value for name, value in {**VALUES, **settings, **params}.items() if value}


def _account(kept: Mapping[str, str]) -> dict[str, str]:
    return {f"account:{name}": value for name, value in kept.items()}


def _dance(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    """The way out, and back."""
    made = connector.authorize(values, state=STATE, verifier=VERIFIER, scopes=connector.scopes)
    if made != sample.authorize:
        yield f"authorize: is {made}"
    flow = connector.connect.oauth2
    if flow is None:
        return
    wanted = flow.callback
    if (wanted.issuer or wanted.hmac or wanted.same or wanted.keep) and not sample.callback:
        yield "callback: missing: what comes back is checked, or kept"
    if sample.callback:
        yield from _callback(connector, sample.callback, values)
    yield from differs("exchange", sample.exchange, lambda: _exchange(connector, values))
    if flow.client.form_encoded or sample.client:
        yield from _client(connector, sample.client, values)
    account = connector.account
    in_token = account is not None and account.person_in == "token"
    yield from _answers(
        connector.granted,
        sample,
        lambda document: connector.person(None, token=document) if in_token else "",
    )


def _exchange(connector: Connector, values: Mapping[str, str]) -> Call:
    assert connector.oauth2  # noqa: S101 -- the caller has looked
    return connector.exchange(values, code=CODE + connector.oauth2.callback.strip, verifier=VERIFIER)


def _client(connector: Connector, client: ClientSample | None, values: Mapping[str, str]) -> Iterator[str]:
    """An app with other characters in its id and secret than those of all other samples."""
    if client is None:
        yield "client: missing: how an id and a secret with other characters are sent"
        return
    special = {**values, "client_id": client.id, "client_secret": client.secret}
    made = _exchange(connector, special).headers.get("Authorization", "")
    if made != client.authorization:
        yield f"client.authorization: is {made!r}"


def _three_legs(
    flow: ThreeLegged, connector: Connector, sample: Sample, values: Mapping[str, str]
) -> Iterator[str]:
    """The way out of OAuth 1.0a, which begins with a request of ours, and the way back."""
    request = RequestToken(*REQUEST)
    yield from differs("request_token", sample.request_token, lambda: flow.first(values, state=STATE))
    yield from _requested(flow, sample)
    page = flow.authorize(values, request.token, connector.scopes)
    if page != sample.authorize:
        yield f"authorize: is {page}"
    yield from differs("exchange", sample.exchange, lambda: flow.third(values, request, PERMISSION))
    yield from _answers(flow.granted, sample, lambda _: "")


def _requested(flow: ThreeLegged, sample: Sample) -> Iterator[str]:
    """What the answers to the first leg mean."""
    if not any(each.token for each in sample.requested):
        yield "requested: none gives a request token"
    if not any(each.refused for each in sample.requested):
        yield "requested: none is an error"
    for answer in sample.requested:
        where = f"requested: {answer.name}"
        try:
            made = flow.request_token(answer.answered())
        except (PlatformBusy, Refused) as error:
            yield from _not_refused(where, error, answer.refused, answer.code)
        else:
            if answer.refused:
                yield f"{where}: is taken"
            elif (made.token, made.secret) != (answer.token, answer.secret):
                yield f"{where}: the token is {made.token!r}, its secret {made.secret!r}"


def _callback(connector: Connector, sample: CallbackSample, values: Mapping[str, str]) -> Iterator[str]:
    try:
        kept = connector.check_callback(parse_qsl(sample.query, keep_blank_values=True), values)
        if kept != sample.kept:
            yield f"callback.kept: is {kept}"
    except InterlinkError as error:
        yield f"callback.query: is refused: {error}"
    for position, query in enumerate(sample.refused):
        try:
            connector.check_callback(parse_qsl(query, keep_blank_values=True), values)
            yield f"callback.refused.{position}: is taken"
        except Refused:
            continue


def _answers(
    granted: Callable[[Answered], Granted], sample: Sample, person_in: Callable[[Any], str]
) -> Iterator[str]:
    """What the token endpoint's answers mean."""
    if not any(each.tokens or each.others for each in sample.answers):
        yield "answers: none gives tokens"
    if not any(each.refused for each in sample.answers):
        yield "answers: none is an error"
    for answer in sample.answers:
        where = f"answers: {answer.name}"
        try:
            made = granted(answer.answered())
        except (PlatformBusy, Refused) as error:
            yield from _not_refused(where, error, answer.refused, answer.code)
        else:
            if answer.refused:
                yield f"{where}: is taken"
            elif _shown(made.tokens) != answer.tokens:
                yield f"{where}: tokens are {_shown(made.tokens)}"
            elif {name: _shown(each) for name, each in made.others.items()} != answer.others:
                yield f"{where}: others are {dict(made.others)}"
            elif (person := person_in(made.document)) != answer.person:
                yield f"{where}: person is {person!r}"


def _not_refused(where: str, error: PlatformBusy | Refused, wanted: str | None, code: str) -> Iterator[str]:
    """Whether an answer was refused as the sample says."""
    kind = type(error).__name__
    if isinstance(error, PlatformBusy):
        if wanted != kind:
            yield f"{where}: is {kind}"
    elif (kind, error.code) != (wanted, code):
        yield f"{where}: is {kind} {error.code!r}"


def _shown(tokens: Tokens | None) -> SampleTokens | None:
    if tokens is None:
        return None
    return SampleTokens(
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_in=tokens.expires_in,
        refresh_expires_in=tokens.refresh_expires_in,
        scopes=tokens.scopes,
    )


def _requests(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    """What is asked for with the tokens."""
    values = {**values, **TOKENS}
    if connector.connect.oauth2:
        yield from differs("longer", sample.longer, lambda: connector.longer(values))
        yield from differs("refresh", sample.refresh, lambda: connector.refreshing(values))
    if connector.connect.oauth2 or connector.connect.oauth1:
        yield from differs("revoke", sample.revoke, lambda: connector.revoking(values))


def _whose(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    account = connector.connect.account
    if account is None or sample.account is None:
        if account or sample.account:
            yield "account: missing: whose account it is" if account else "account: the manifest has none"
        return
    answer = sample.account.answered()
    asked = account.call
    yield from differs(
        "account.request",
        sample.account.request,
        lambda: connector.request(asked, {**values, **TOKENS}) if asked else None,
    )
    try:
        document = connector.read(answer) if account.call else connector.granted(answer).document
        made = connector.whose(account, document)
        if account.person_in == "account":
            made = replace(made, person=connector.person(document, token=None))
        yield from _is("account.whose", made, sample.account.whose)
    except InterlinkError as error:
        yield f"account: is refused: {error}"


def _is(where: str, made: Whose, wanted: SampleWhose) -> Iterator[str]:
    shown = SampleWhose(id=made.id, label=made.label, url=made.url, kept=dict(made.kept), person=made.person)
    if shown != wanted:
        yield f"{where}: is {shown.model_dump(exclude_defaults=True)}"


def _choices(connector: Connector, sample: Sample, values: Mapping[str, str]) -> Iterator[str]:
    choices, wanted = connector.connect.choices, sample.choices
    if choices is None or wanted is None:
        if choices or wanted:
            yield (
                "choices: missing: what there is to choose of"
                if choices
                else "choices: the manifest has none"
            )
        return
    yield from differs(
        "choices.request", wanted.request, lambda: connector.request(choices.call, {**values, **TOKENS})
    )
    try:
        found = connector.choices_of(connector.read(wanted.answered()))
    except InterlinkError as error:
        yield f"choices: is refused: {error}"
        return
    shown = tuple(SampleChoice(id=each.id, label=each.label, kept=dict(each.kept)) for each in found)
    if shown != wanted.found:
        yield f"choices.found: is {[each.model_dump() for each in shown]}"


def _entered(connector: Connector, sample: Sample) -> Iterator[str]:
    for name in sorted(sample.entered.keys() - connector.entered.keys()):
        yield f"entered.{name}: the manifest has none"
    for name, kind in connector.entered.items():
        wanted = sample.entered.get(name)
        if wanted is None:
            yield f"entered.{name}: missing"
            continue
        yield from (f"entered.{name}.{fault}" for fault in _kind(connector, kind, wanted))


def _kind(connector: Connector, kind: Entered, wanted: EnteredSample) -> Iterator[str]:
    try:
        values = entered_values(kind, wanted.fields)
    except Refused as error:
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
    yield from differs("request", wanted.request, lambda: connector.request(call, values, api))
    try:
        found = connector.whose(account, connector.read(wanted.answered(), api), values)
        if wanted.whose is None:
            yield "whose: missing"
        else:
            yield from _is("whose", found, wanted.whose)
    except InterlinkError as error:
        yield f"body: is refused: {error}"
    if not wanted.refused:
        yield "refused: missing: what the platform answers to a wrong one"
    for position, answer in enumerate(wanted.refused):
        try:
            connector.whose(account, connector.read(answer.answered(), api), values)
            yield f"refused.{position}: is taken"
        except InterlinkError:
            continue


def differs(where: str, wanted: SampleCall | None, make: Callable[[], Call | None]) -> Iterator[str]:
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
    headers, signed = _signed(made.headers) if wanted.signed else (made.headers, {})
    shown = {
        "method": (wanted.method, made.method),
        "url": (wanted.url, made.url),
        "headers": (_lower(wanted.headers), _lower(headers)),
        "signed": (wanted.signed, signed),
        "body": (wanted.body, made.body.decode()),
    }
    for part, (expected, is_) in shown.items():
        if expected != is_:
            yield f"{where}.{part}: is {is_!r}"


def _signed(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The other headers, and the parameters of `Authorization: OAuth` that are the same each time."""
    others = dict(headers)
    scheme, _, listed = others.pop("Authorization", "").partition(" ")
    pairs = (each.partition("=") for each in listed.split(", ")) if scheme == "OAuth" else ()
    named = {unquote(name): unquote(value.strip('"')) for name, _, value in pairs}
    return others, {name: value for name, value in named.items() if name not in _NEW_EACH_TIME}


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}

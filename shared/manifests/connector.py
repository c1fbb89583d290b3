"""A manifest's `connect`, compiled: requests that connect an account, and what their answers mean. No I/O."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hmac import compare_digest
from itertools import islice
from math import isfinite
from typing import Any, Final

from shared.contracts.errors import InterlinkError, Malformed, RetryLater
from shared.manifests.connect_models import (
    Account,
    AccountMapping,
    AccountSelection,
    Api,
    ApiRequest,
    ConnectSpec,
    JmesPath,
    ManualCredential,
    OAuth2,
    RequestTemplateText,
    TokenMapping,
    TokenRefresh,
)
from shared.wire.bodies import FORM_CONTENT_TYPE, JSON_CONTENT_TYPE, parse_json
from shared.wire.expressions import Expression, ExpressionError
from shared.wire.oauth import ClientCredentials, authorization_url, code_challenge, sorted_query_hmac
from shared.wire.provider_http import (
    ProviderRequest,
    ProviderResponse,
    basic_authorization,
    build_request,
    parse_form,
)
from shared.wire.request_template import MissingValue, RequestTemplate
from shared.wire.retry_after import parse_retry_after

_SUCCESS_VALUES: Final = (None, False, 0, "", "0", "ok", "OK", "success")
_INVALID_CLIENT_CODES: Final = frozenset({"invalid_client", "unauthorized_client"})
_INVALID_GRANT: Final = "invalid_grant"
_MAX_LIFETIME_S: Final = 20 * 365 * 24 * 3600.0
_MAX_TOKEN_LENGTH: Final = 16 * 1024
_MAX_DETAIL_LENGTH: Final = 200
_MAX_VALUE_LENGTH: Final = 1024
_MAX_RESOURCES: Final = 500
_MAX_SCOPES: Final = 500


class ProviderRejected(InterlinkError):
    """The platform says no. `code` is its word for it; `detail` may be shown, no secret is in it."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class GrantRevoked(ProviderRejected):
    """The grant has ended: only the person can give another one."""


class InvalidClient(ProviderRejected):
    """The platform does not take the app's own id and secret: an operator has to mend them."""


class ProviderUnavailable(RetryLater):
    """The platform could not answer; the same request may succeed after `retry_after` seconds."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one grant; lifetimes are seconds from the answer, None where there is no known end."""

    access_token: str
    refresh_token: str = ""
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """What a token endpoint gave. `others` are further tokens of the same consent, by name."""

    tokens: Tokens | None
    others: Mapping[str, Tokens]
    document: Any
    """The whole answer: it has secrets in it, and is not kept."""


@dataclass(frozen=True, slots=True)
class AccountIdentity:
    """The account that was connected."""

    id: str
    label: str
    url: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)
    person: str = ""
    """Who of a team the token acts for; '' where `id` names the person, or no person is behind the token."""


@dataclass(frozen=True, slots=True)
class AccountResource:
    """One place of an account that a connection can be of."""

    id: str
    label: str
    kept: Mapping[str, str]


def manual_credential_values(kind: ManualCredential, given: Mapping[str, str]) -> dict[str, str]:
    """What requests are filled with for a credential that somebody entered.

    Raises `ProviderRejected`: the first field that is missing or does not fit its pattern.
    """
    values: dict[str, str] = {}
    for name, setting in kind.fields.items():
        text = given.get(name) or setting.default
        if not text:
            if setting.required:
                raise ProviderRejected("missing", f"{setting.name} is missing")
            continue
        fits = re.fullmatch(setting.pattern, text) if setting.pattern else None
        if setting.pattern and not fits:
            raise ProviderRejected("malformed", f"{setting.name} does not look like one")
        values[f"field:{name}"] = text
        found = fits.groupdict() if fits else {}
        values |= {f"field:{part}": value for part, value in found.items() if value}
        if name == "access_token":
            values[name] = text
    return values


class Connector:
    """How accounts of one provider are connected.

    `app` is the provider whose registered app is used: another one where `through` says so.
    """

    def __init__(self, provider: str, connect: ConnectSpec, base: ConnectSpec | None = None) -> None:
        self.provider = provider
        self.app = connect.through or provider
        source = base or connect
        own = connect.model_fields_set
        self.connect = connect
        self.oauth2 = source.oauth2
        self.oauth1 = source.oauth1
        self.params = {**source.params, **connect.params}
        self.settings = source.settings
        self.api: Api = connect.api if "api" in own else source.api
        self.account: Account | None = connect.account or source.account
        self.choices: AccountSelection | None = connect.choices or source.choices
        account = self.account
        self._probe: ApiRequest | None = (account and account.call) or connect.probe or source.probe
        self.entered: Mapping[str, ManualCredential] = {each.id: each for each in connect.entered}
        flow = source.oauth2 or source.oauth1
        self.scopes = tuple(dict.fromkeys((*(flow.scopes if flow else ()), *connect.scopes)))
        """What is asked for when nobody says otherwise."""

    @property
    def needs_secret(self) -> bool:
        """Whether an app without a client secret is of no use."""
        return self.oauth1 is not None or (self.oauth2 is not None and self.oauth2.client.auth != "none")

    @property
    def revokes_all_grants(self) -> bool:
        """Whether revoking ends all that the app may do for the account, not only the grant."""
        revoke = self.oauth2.revoke if self.oauth2 else self.oauth1.revoke if self.oauth1 else None
        return revoke is not None and revoke.everything

    @property
    def revokes_by_access_token(self) -> bool:
        """Whether the platform wants a living access token to end the grant."""
        revoke = self.oauth2.revoke if self.oauth2 else None
        return revoke is not None and revoke.by == "access_token"

    @property
    def refresh(self) -> TokenRefresh:
        return self.oauth2.refresh if self.oauth2 else _NO_REFRESH

    def api_for(self, kind: str) -> Api:
        """How the API is called with a credential of this kind."""
        way = self.entered.get(kind)
        return way.api if way is not None and way.api is not None else self.api

    def probe_for(self, kind: str) -> ApiRequest | None:
        """A request that shows whether a credential of this kind works; None where there is none."""
        way = self.entered.get(kind)
        if way is None:
            return self._probe
        return way.account.call if way.account else None

    # The dance

    def authorize(
        self, values: Mapping[str, str], *, state: str, verifier: str, scopes: Sequence[str]
    ) -> str:
        """Where the person is sent; `values` has `client_id`, `redirect_uri`, settings and params.

        Raises `MissingValue`.
        """
        flow = self._flow()
        parameters = {
            flow.client.id_name: values["client_id"],
            "redirect_uri": values["redirect_uri"],
            "state": state,
        }
        if scopes:
            parameters["scope"] = flow.scope_separator.join(scopes)
        if flow.pkce == "S256":
            parameters |= {"code_challenge": code_challenge(verifier), "code_challenge_method": "S256"}
        url = RequestTemplate(flow.authorize_url).url(values)
        return authorization_url(url, parameters | _fill_all(flow.authorize, values))

    def validate_callback(
        self, query: Sequence[tuple[str, str]], values: Mapping[str, str]
    ) -> dict[str, str]:
        """What to keep of the parameters that came back.

        Raises `ProviderRejected`: they are not the platform's.
        """
        flow = self._flow()
        got = dict(query)
        wanted = flow.callback
        issuer = RequestTemplate(wanted.issuer).render_or_empty(values)
        if issuer and got.get("iss") != issuer:
            raise ProviderRejected("wrong_issuer", "the answer is not from the platform that was asked")
        for name, text in wanted.same.items():
            if got.get(name) != RequestTemplate(text)(values):
                raise ProviderRejected("wrong_answer", f"{name} is not what was asked for")
        if wanted.hmac:
            secret = values.get("client_secret", "")
            if not secret:
                raise ProviderRejected(
                    "no_secret", "what came back cannot be checked: the app has no client secret"
                )
            expected = sorted_query_hmac(query, wanted.hmac, secret)
            if not compare_digest(expected.encode(), got.get(wanted.hmac, "").encode()):
                raise ProviderRejected("wrong_signature", f"the answer's {wanted.hmac} is wrong")
        return {name: got[name][:_MAX_VALUE_LENGTH] for name in wanted.keep if got.get(name)}

    def exchange(self, values: Mapping[str, str], *, code: str, verifier: str) -> ProviderRequest:
        """The request that makes tokens of a code. Raises `MissingValue`."""
        flow = self._flow()
        strip = flow.callback.strip
        pairs = {
            "grant_type": "authorization_code",
            "code": code.removesuffix(strip) if strip else code,
        }
        if flow.redirect_uri:
            pairs["redirect_uri"] = values["redirect_uri"]
        if flow.pkce == "S256":
            pairs["code_verifier"] = verifier
        return self._token_request(flow.token_url, pairs | _fill_all(flow.exchange, values), values)

    def long_lived_request(self, values: Mapping[str, str]) -> ProviderRequest | None:
        """The request that makes a token that lives longer of the first one, where the platform has it."""
        flow = self._flow()
        return self.request(flow.longer, values) if flow.longer else None

    def refresh_request(self, values: Mapping[str, str]) -> ProviderRequest | None:
        """The request that makes the tokens anew; None where there is no such thing.

        Raises `MissingValue`.
        """
        flow = self._flow()
        refresh = flow.refresh
        if refresh.by == "none":
            return None
        if refresh.request is not None:
            return self.request(refresh.request, values)
        if not values.get("refresh_token"):
            return None
        pairs = {"grant_type": "refresh_token", "refresh_token": values["refresh_token"]}
        if refresh.redirect_uri:
            pairs["redirect_uri"] = values["redirect_uri"]
        return self._token_request(
            refresh.url or flow.token_url, pairs | _fill_all(refresh.parameters, values), values
        )

    def revoke_request(self, values: Mapping[str, str]) -> ProviderRequest | None:
        """The request that ends the grant; None where the platform has none."""
        revoke = self.oauth2.revoke if self.oauth2 else self.oauth1.revoke if self.oauth1 else None
        if revoke is None:
            return None
        wanted = values.get(revoke.by) or values.get("access_token", "")
        return self.request(revoke.request, {**values, "token": wanted})

    def request(
        self, request: ApiRequest, values: Mapping[str, str], api: Api | None = None
    ) -> ProviderRequest:
        """A request of the manifest with its values. Raises `MissingValue`."""
        api = api or self.api
        headers = {"Accept": JSON_CONTENT_TYPE}
        query: dict[str, str] = {}
        if request.token:
            headers |= _fill_all(api.headers, values)
            query |= _fill_all(api.query, values)
            if api.basic:
                headers["Authorization"] = basic_authorization(
                    *(RequestTemplate(text).render_or_empty(values) for text in api.basic)
                )
        headers |= _fill_all(request.headers, values)
        query |= _fill_all(request.query, values)
        if request.basic:
            name, password = request.basic
            headers["Authorization"] = basic_authorization(
                RequestTemplate(name).render_or_empty(values),
                RequestTemplate(password).render_or_empty(values),
                form_encoded=self._form_encoded and "client_id" in RequestTemplate(name).names,
            )
        url = RequestTemplate(request.url).url(values)
        if query:
            url = build_request("GET", url, {}, list(query.items()), "form").url
        if request.graphql:
            return build_request(request.method, url, headers, [("query", request.graphql)], "json")
        if request.json_ is not None:
            return _json_request(request, url, headers, values)
        if request.form is not None:
            return build_request(
                request.method, url, headers, list(_fill_all(request.form, values).items()), "form"
            )
        return ProviderRequest(request.method, url, headers)

    # What came back

    def parse_token_response(self, answer: ProviderResponse) -> TokenResponse:
        """The tokens of a token endpoint's answer.

        Raises `ProviderRejected` (and its kinds), `ProviderUnavailable`.
        """
        flow = self._flow()
        document = _parse_document(answer)
        said = flow.answer
        code = _error_code(_select(said.error, document))
        if code or answer.status >= 400:
            raise self._token_error(code or f"http_{answer.status}", document, answer)
        others = {
            name: tokens
            for name, grant in said.others.items()
            if (tokens := _parse_tokens(grant, document, flow))
        }
        tokens = _parse_tokens(said, document, flow)
        if tokens is None and not others:
            raise ProviderRejected("no_token", "the platform's answer has no token")
        return TokenResponse(tokens, others, document)

    def api_error_code(self, answer: ProviderResponse, api: Api | None = None) -> str:
        """The code of a failure of the platform's API; empty when there is none."""
        api = api or self.api
        code = ""
        with suppress(ProviderRejected, ProviderUnavailable):  # no JSON: its status tells
            code = _error_code(_select(api.error, _parse_document(answer)))
        return code or (f"http_{answer.status}" if answer.status >= 400 else "")

    def is_token_rejected(self, answer: ProviderResponse, api: Api | None = None) -> bool:
        """Whether the platform does not take the token any more: it has to be made anew, once."""
        api = api or self.api
        code = self.api_error_code(answer, api)
        return code in api.expired or (answer.status == 401 and code not in api.forbidden)

    def revocation_error(self, answer: ProviderResponse) -> str:
        """The code of a refusal to end the grant, by the API or the token endpoint; empty when it is done."""
        code = self.api_error_code(answer)
        if not code and self.oauth2:
            with suppress(ProviderRejected, ProviderUnavailable):  # no JSON: its status has told
                code = _error_code(_select(self.oauth2.answer.error, _parse_document(answer)))
        return code

    def missing_scopes(self, asked: Iterable[str], granted: Iterable[str]) -> list[str]:
        """The scopes that were asked for and not granted; none when the platform does not say what it did."""
        found = set(granted)
        if not found or self.oauth2 is None:
            return []
        for scope in tuple(found):
            for pattern, meant in self.oauth2.scope_means.items():
                if match := re.fullmatch(pattern, scope):
                    found.update(match.expand(each) for each in meant)
        found.update(self.oauth2.scope_untold)
        return [scope for scope in asked if scope not in found]

    def parse_account(
        self, kept: AccountMapping, document: Any, values: Mapping[str, str] | None = None
    ) -> AccountIdentity:
        """The account that an answer is about; `values` are what was entered, where it was.

        Raises `ProviderRejected`: nothing says whose account it is.
        """
        values = values or {}
        name = _as_text(_select_optional(kept.id, document)) or RequestTemplate(kept.id_text).render_or_empty(
            values
        )
        if not name:
            raise ProviderRejected("no_account", "the platform does not say whose account it is")
        return AccountIdentity(
            id=name,
            label=_as_text(_select_optional(kept.label, document))
            or RequestTemplate(kept.label_text).render_or_empty(values)
            or name,
            url=_as_text(_select_optional(kept.url, document)),
            kept=_select_values(kept.keep, document),
        )

    def parse_person(self, document: Any, *, token: Any) -> str:
        """Return who of the account the token acts for; '' for nobody, or where the account is the person.

        `document` is the answer that names the account, and `token` the token endpoint's.
        """
        if self.account is None:
            return ""
        return _as_text(
            _select_optional(self.account.person, token if self.account.person_in == "token" else document)
        )

    def stored_person(self, account: Mapping[str, Any]) -> str | None:
        """Return who a stored account is of; None where it was stored without that and nothing tells."""
        if "person" in account:
            return str(account["person"])
        if self.account is None or not self.account.person:
            return ""
        same = (name for name, each in self.account.keep.items() if each == self.account.person)
        found = (account.get("kept", {}).get(name) for name in same)
        return next((str(person) for person in found if person), None)

    def parse_api_response(self, answer: ProviderResponse, api: Api | None = None) -> Any:
        """The JSON of an API's answer. Raises `ProviderRejected`, `ProviderUnavailable`."""
        api = api or self.api
        code = self.api_error_code(answer, api)
        if answer.status == 429 or answer.status >= 500 or code in api.busy:
            raise _unavailable(answer)
        if code:
            raise ProviderRejected(code)
        return _parse_document(answer)

    def parse_resources(self, document: Any) -> list[AccountResource]:
        """What a person may choose of. Raises `ProviderRejected`: nothing."""
        wanted = self.choices
        assert wanted is not None  # noqa: S101 -- the caller has looked
        items = _select(wanted.items, document)
        if not isinstance(items, list) or not items:
            raise ProviderRejected("nothing_to_choose", f"the account has none: {wanted.about}")
        found = []
        for item in items[:_MAX_RESOURCES]:
            name = _as_text(_select(wanted.id, item))
            if name:
                label = _as_text(_select(wanted.label, item)) or name
                found.append(AccountResource(name, label, _select_values(wanted.keep, item)))
        return found

    # The parts

    @property
    def _form_encoded(self) -> bool:
        """Whether the app's id and secret are form-encoded in HTTP Basic."""
        return self.oauth2 is not None and self.oauth2.client.form_encoded

    def _flow(self) -> OAuth2:
        if self.oauth2 is None:
            raise MissingValue(f"{self.provider} is not connected by OAuth 2")
        return self.oauth2

    def _token_request(
        self, url: RequestTemplateText, pairs: Mapping[str, str], values: Mapping[str, str]
    ) -> ProviderRequest:
        flow = self._flow()
        form = flow.client
        headers = _fill_all(flow.headers, values)
        fields = dict(pairs)
        client = ClientCredentials(values["client_id"], values.get("client_secret", ""))
        if form.auth == "basic":
            headers["Authorization"] = basic_authorization(
                client.id, client.secret, form_encoded=self._form_encoded
            )
        else:
            fields[form.id_name] = client.id
            if form.secret_header:
                headers[form.secret_header] = client.secret
            elif form.auth == "body":
                fields[form.secret_name] = client.secret
        return build_request(
            "POST", RequestTemplate(url).url(values), headers, list(fields.items()), form.encoding
        )

    def _token_error(self, code: str, document: Any, answer: ProviderResponse) -> InterlinkError:
        flow = self._flow()
        detail = _as_text(_select(flow.answer.description, document))[:_MAX_DETAIL_LENGTH]
        if answer.status == 429 or answer.status >= 500 or code == "temporarily_unavailable":
            return _unavailable(answer)
        gone = flow.refresh.reconnect
        if code in (_INVALID_GRANT, *flow.code_refused, *gone) or detail.startswith(gone):
            return GrantRevoked(code, detail)  # whatever the code says in general
        if code in _INVALID_CLIENT_CODES or code in flow.client.refused:
            return InvalidClient(code, detail)
        return ProviderRejected(code, detail)


_NO_REFRESH: Final = TokenRefresh(by="none")


def _unavailable(answer: ProviderResponse) -> ProviderUnavailable:
    said = answer.headers.get("retry-after", "")
    try:
        wait = float(said)
    except ValueError:
        wait = parse_retry_after(said, datetime.now(UTC)) or 0.0  # a date
    wait = wait if isfinite(wait) else 0.0
    return ProviderUnavailable(
        f"the platform answered {answer.status}", retry_after=min(max(wait, 1.0), 3600.0)
    )


def _fill_all(texts: Mapping[str, RequestTemplateText], values: Mapping[str, str]) -> dict[str, str]:
    """The texts whose values are there."""
    made = ((name, RequestTemplate(text).render_or_empty(values)) for name, text in texts.items())
    return {name: text for name, text in made if text}


def _json_request(
    request: ApiRequest, url: str, headers: dict[str, str], values: Mapping[str, str]
) -> ProviderRequest:
    fields = _fill_nested(request.json_, values)
    return build_request(request.method, url, headers, list(fields.items()), "json")


def _fill_nested(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return RequestTemplate(value).render_or_empty(values)
    if isinstance(value, dict):
        return {name: _fill_nested(each, values) for name, each in value.items()}
    if isinstance(value, list):
        return [_fill_nested(each, values) for each in value]
    return value


def _parse_document(answer: ProviderResponse) -> Any:
    """JSON, or a form where the platform says so.

    Raises `ProviderRejected`, or `ProviderUnavailable` for an error page.
    """
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM_CONTENT_TYPE:
        return parse_form(answer.body)
    if not answer.body.strip():
        return {}
    try:
        return parse_json(answer.body)
    except Malformed:
        if answer.status >= 500 or answer.status == 429:
            raise _unavailable(answer) from None
        if answer.status >= 400:
            raise ProviderRejected(f"http_{answer.status}") from None
        raise ProviderRejected("not_json", "the platform's answer is not JSON") from None


def _select(selection: JmesPath, document: Any) -> Any:
    try:
        return Expression(selection).apply(document)
    except ExpressionError:
        return None


def _select_optional(selection: JmesPath, document: Any) -> Any:
    """The same; nothing for no selection."""
    return _select(selection, document) if selection else None


def _error_code(value: Any) -> str:
    """A platform's error code as text; empty for what means that all is well."""
    if value in _SUCCESS_VALUES:
        return ""
    if value is True:
        return "error"
    return _as_text(value)[:100] or "error"


def _as_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    return value[:_MAX_VALUE_LENGTH] if isinstance(value, str) else ""


def _select_values(selections: Mapping[str, JmesPath], document: Any) -> dict[str, str]:
    found = ((name, _as_text(_select(selection, document))) for name, selection in selections.items())
    return {name: text for name, text in found if text}


def _parse_tokens(grant: TokenMapping, document: Any, flow: OAuth2) -> Tokens | None:
    access = _parse_token(_select(grant.access_token, document))
    if not access:
        return None
    said = _parse_seconds(_select(grant.expires_in, document))
    lifetime = flow.lifetime_s if said is None else said
    return Tokens(
        access_token=access,
        refresh_token=_parse_token(_select(grant.refresh_token, document)),
        expires_in=lifetime or None,
        refresh_expires_in=_parse_seconds(_select(grant.refresh_expires_in, document)) or None,
        scopes=_parse_scopes(_select(grant.scope, document), flow.scope_separator),
    )


def _parse_token(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= _MAX_TOKEN_LENGTH and value.isprintable() else ""


def _parse_seconds(value: Any) -> float | None:
    """Zero is for ever; None when it is not said, or is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return min(seconds, _MAX_LIFETIME_S) if isfinite(seconds) and seconds >= 0 else None


def _parse_scopes(value: Any, separator: str) -> tuple[str, ...] | None:
    """Platforms answer with other separators than they are asked with."""
    if isinstance(value, str):
        words: Iterable[Any] = value.replace(",", " ").replace(separator, " ").split()
    elif isinstance(value, list):
        words = value
    else:
        return None
    return tuple(islice(dict.fromkeys(str(word)[:200] for word in words if word), _MAX_SCOPES))

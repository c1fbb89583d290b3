"""A manifest's `connect`, compiled: requests that connect an account, and their responses. No I/O."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hmac import compare_digest
from typing import Any, Final

from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.api_requests import build_api_request, fill_all
from shared.manifests.connect_models import (
    Account,
    AccountMapping,
    AccountSelection,
    Api,
    ApiRequest,
    ConnectSpec,
    ManualCredential,
    OAuth2,
    RequestTemplateText,
    TokenRefresh,
)
from shared.manifests.provider_response import (
    MAX_VALUE_LENGTH,
    ProviderRejected,
    ProviderUnavailable,
    UnreadableResponse,
    as_text,
    error_code,
    parse_document,
    provider_unavailable,
    select_optional,
    select_value,
    select_values,
)
from shared.manifests.scopes import scopes_by_purpose
from shared.manifests.token_response import TokenResponse, parse_tokens, token_error
from shared.wire.oauth import ClientCredentials, authorization_url, code_challenge, sorted_query_hmac
from shared.wire.provider_http import ProviderRequest, ProviderResponse, basic_authorization, build_request
from shared.wire.request_template import MissingValue, RequestTemplate

_MAX_RESOURCES: Final = 500


class Connector:
    """The OAuth requests, responses and manual credentials of one provider.

    `app` is the id of the provider whose OAuth app is used: another provider if the manifest says `through`.
    """

    def __init__(self, provider: str, connect: ConnectSpec, base: ConnectSpec | None = None) -> None:
        self.provider = provider
        self.app = connect.through or provider
        source = base or connect
        self.connect = connect
        self.oauth2 = source.oauth2
        self.oauth1 = source.oauth1
        self.params = {**source.params, **connect.params}
        self.settings = source.settings
        # The fields that are set replace those of `through`.
        own = {name: getattr(connect.api, name) for name in connect.api.model_fields_set}
        self.api: Api = source.api.model_copy(update=own)
        self.account: Account | None = connect.account or source.account
        self.account_selection: AccountSelection | None = connect.choices or source.choices
        account = self.account
        self._probe: ApiRequest | None = (account and account.call) or connect.probe or source.probe
        self.manual_credentials: Mapping[str, ManualCredential] = {
            credential.id: credential for credential in connect.entered
        }
        flow = source.oauth2 or source.oauth1
        self.scopes = tuple(dict.fromkeys((*(flow.scopes if flow else ()), *connect.scopes)))
        """Scopes that are requested unless the caller names others."""
        self.purposes = scopes_by_purpose(connect, base)
        """Scopes that are requested for a purpose."""

    @property
    def needs_secret(self) -> bool:
        """True if an app needs a client secret."""
        return self.oauth1 is not None or (self.oauth2 is not None and self.oauth2.client.auth != "none")

    @property
    def revokes_all_grants(self) -> bool:
        """True if revoking one grant ends every grant of the app for the account."""
        revoke = self.oauth2.revoke if self.oauth2 else self.oauth1.revoke if self.oauth1 else None
        return revoke is not None and revoke.everything

    @property
    def revokes_by_access_token(self) -> bool:
        """True if the revocation request needs a valid access token."""
        revoke = self.oauth2.revoke if self.oauth2 else None
        return revoke is not None and revoke.by == "access_token"

    @property
    def refresh(self) -> TokenRefresh:
        """Settings for the refresh of tokens; `by` is "none" for OAuth 1.0a and manual credentials."""
        return self.oauth2.refresh if self.oauth2 else _NO_REFRESH

    def api_for(self, kind: str) -> Api:
        """Return how the API is called with a credential of this kind."""
        credential = self.manual_credentials.get(kind)
        return credential.api if credential is not None and credential.api is not None else self.api

    def probe_for(self, kind: str) -> ApiRequest | None:
        """Return a request that shows whether a credential of this kind works; None without one."""
        credential = self.manual_credentials.get(kind)
        if credential is None:
            return self._probe
        return credential.account.call if credential.account else None

    # Requests

    def authorize(
        self,
        values: Mapping[str, str],
        *,
        state: str,
        verifier: str,
        scopes: Sequence[str],
        user_scopes: Sequence[str] | None = None,
    ) -> str:
        """Return the URL of the authorization request, which the user's browser opens.

        `values` has `client_id`, `redirect_uri`, the app's settings and the params. `user_scopes` are those
        of the person beside `scopes`; None for those of the app's settings. Raises `MissingValue` if the
        provider has no OAuth 2.0 or the URL needs a value that is missing.
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
        parameters |= fill_all(flow.authorize, values)
        if flow.user_scopes is not None and user_scopes is not None:
            parameters.pop(flow.user_scopes.parameter, None)
            if user_scopes:
                parameters[flow.user_scopes.parameter] = flow.scope_separator.join(user_scopes)
        return authorization_url(url, parameters)

    def validate_callback(
        self, query: Sequence[tuple[str, str]], values: Mapping[str, str]
    ) -> dict[str, str]:
        """Check the parameters of the callback and return those to store with the account.

        Raises `ProviderRejected` if the issuer, an expected parameter or the signature is wrong.
        """
        flow = self._flow()
        parameters = dict(query)
        rules = flow.callback
        # An empty issuer is not checked: it depends on a setting that is not set.
        issuer = RequestTemplate(rules.issuer).render_or_empty(values)
        if issuer and parameters.get("iss") != issuer:
            raise ProviderRejected("wrong_issuer", "the callback's issuer is not the provider that was asked")
        for name, text in rules.same.items():
            if parameters.get(name) != RequestTemplate(text)(values):
                raise ProviderRejected("wrong_answer", f"{name} is not the value that was expected")
        if rules.hmac:
            secret = values.get("client_secret", "")
            if not secret:
                raise ProviderRejected(
                    "no_secret", "the callback cannot be verified: the app has no client secret"
                )
            # Compare in constant time: the parameters come from the browser.
            expected = sorted_query_hmac(query, rules.hmac, secret)
            if not compare_digest(expected.encode(), parameters.get(rules.hmac, "").encode()):
                raise ProviderRejected("wrong_signature", f"the callback's {rules.hmac} is wrong")
        return {name: parameters[name][:MAX_VALUE_LENGTH] for name in rules.keep if parameters.get(name)}

    def exchange(self, values: Mapping[str, str], *, code: str, verifier: str) -> ProviderRequest:
        """Return the request that exchanges the code for tokens. Raises `MissingValue`."""
        flow = self._flow()
        suffix = flow.callback.strip
        pairs = {
            "grant_type": "authorization_code",
            "code": code.removesuffix(suffix) if suffix else code,
        }
        if flow.redirect_uri:
            pairs["redirect_uri"] = values["redirect_uri"]
        if flow.pkce == "S256":
            pairs["code_verifier"] = verifier
        return self._token_request(flow.token_url, pairs | fill_all(flow.exchange, values), values)

    def long_lived_request(self, values: Mapping[str, str]) -> ProviderRequest | None:
        """Return the request that exchanges the first token for a long-lived one; None without one."""
        flow = self._flow()
        return self.request(flow.longer, values) if flow.longer else None

    def refresh_request(self, values: Mapping[str, str]) -> ProviderRequest | None:
        """Return the request that refreshes the tokens; None if they cannot be refreshed.

        Raises `MissingValue` if the URL needs a value that is missing.
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
            refresh.url or flow.token_url, pairs | fill_all(refresh.parameters, values), values
        )

    def revoke_request(self, values: Mapping[str, str]) -> ProviderRequest | None:
        """Return the request that revokes the grant; None if the provider has none."""
        revoke = self.oauth2.revoke if self.oauth2 else self.oauth1.revoke if self.oauth1 else None
        if revoke is None:
            return None
        # Without a refresh token, the access token stands for the grant.
        token = values.get(revoke.by) or values.get("access_token", "")
        return self.request(revoke.request, {**values, "token": token})

    def request(
        self, request: ApiRequest, values: Mapping[str, str], api: Api | None = None
    ) -> ProviderRequest:
        """Fill a request of the manifest with values. Raises `MissingValue`."""
        return build_api_request(request, values, api or self.api, form_encoded=self._form_encoded)

    # Responses

    def parse_token_response(self, response: ProviderResponse) -> TokenResponse:
        """Return the tokens of a token endpoint's response.

        Raises `GrantRevoked`, `InvalidClient` or another `ProviderRejected` if the provider returned an
        error, `UnreadableResponse` if it returned neither error nor token, and `ProviderUnavailable` if the
        request may succeed later.
        """
        flow = self._flow()
        document = parse_document(response)
        mapping = flow.answer
        code = error_code(select_value(mapping.error, document))
        if code or response.status >= 400:
            raise token_error(flow, code or f"http_{response.status}", document, response)
        others = {
            name: tokens
            for name, grant in mapping.others.items()
            if (tokens := parse_tokens(grant, document, flow))
        }
        tokens = parse_tokens(mapping, document, flow)
        if tokens is None and not others:
            raise UnreadableResponse("no_token", "the provider's response has no token")
        return TokenResponse(tokens, others, document)

    def api_error_code(self, response: ProviderResponse, api: Api | None = None) -> str:
        """Return the error code of an API response; '' for success."""
        api = api or self.api
        code = ""
        with suppress(ProviderRejected, ProviderUnavailable):  # not JSON: the status decides
            code = error_code(select_value(api.error, parse_document(response)))
        return code or (f"http_{response.status}" if response.status >= 400 else "")

    def is_token_rejected(self, response: ProviderResponse, api: Api | None = None) -> bool:
        """Return whether the API rejected the access token. Refresh it once and try again."""
        api = api or self.api
        code = self.api_error_code(response, api)
        return code in api.expired or (response.status == 401 and code not in api.forbidden)

    def revocation_error(self, response: ProviderResponse) -> str:
        """Return the error code of a revocation response, by either set of rules; '' for success."""
        code = self.api_error_code(response)
        if not code and self.oauth2:
            with suppress(ProviderRejected, ProviderUnavailable):  # not JSON: the status has decided
                code = error_code(select_value(self.oauth2.answer.error, parse_document(response)))
        return code

    def parse_account(
        self, mapping: AccountMapping, document: Any, values: Mapping[str, str] | None = None
    ) -> AccountIdentity:
        """Return the account that a response describes. `values` are those of manual credentials.

        Raises `ProviderRejected` if the response has no account id.
        """
        values = values or {}
        account_id = as_text(select_optional(mapping.id, document)) or RequestTemplate(
            mapping.id_text
        ).render_or_empty(values)
        if not account_id:
            raise ProviderRejected("no_account", "the provider's response has no account id")
        return AccountIdentity(
            id=account_id,
            label=as_text(select_optional(mapping.label, document))
            or RequestTemplate(mapping.label_text).render_or_empty(values)
            or account_id,
            url=as_text(select_optional(mapping.url, document)),
            attributes=select_values(mapping.keep, document),
        )

    def parse_person(self, document: Any, *, token: Any) -> str:
        """Return the id of the person that the token acts for; '' if there is none or it is the account id.

        `document` is the response that names the account, and `token` the token endpoint's response.
        """
        if self.account is None:
            return ""
        return as_text(
            select_optional(self.account.person, token if self.account.person_in == "token" else document)
        )

    def stored_person(self, person: str | None, attributes: Mapping[str, str]) -> str | None:
        """Return the person of a stored account; None if it was stored without one and no value has it.

        `person` and `attributes` are what is stored.
        """
        if person is not None:
            return person
        if self.account is None or not self.account.person:
            return ""
        # A value stored under the same selection is the person.
        names = (name for name, selection in self.account.keep.items() if selection == self.account.person)
        stored = (attributes.get(name) for name in names)
        return next((value for value in stored if value), None)

    def parse_api_response(self, response: ProviderResponse, api: Api | None = None) -> Any:
        """Return the JSON of an API response. Raises `ProviderRejected` or `ProviderUnavailable`."""
        api = api or self.api
        code = self.api_error_code(response, api)
        if response.status == 429 or response.status >= 500 or code in api.busy:
            raise provider_unavailable(response)
        if code:
            raise ProviderRejected(code)
        return parse_document(response)

    def parse_resources(self, document: Any) -> list[AccountResource]:
        """Return the resources that a user can select. Raises `ProviderRejected` if there is none."""
        selection = self.account_selection
        assert selection is not None  # noqa: S101 -- the caller has looked
        items = select_value(selection.items, document)
        if not isinstance(items, list) or not items:
            raise ProviderRejected(
                "nothing_to_choose", f"the account has nothing to select: {selection.about}"
            )
        resources = []
        # Resources without an id cannot be stored: skip them.
        for item in items[:_MAX_RESOURCES]:
            resource_id = as_text(select_value(selection.id, item))
            if resource_id:
                label = as_text(select_value(selection.label, item)) or resource_id
                resources.append(AccountResource(resource_id, label, select_values(selection.keep, item)))
        return resources

    # Helpers

    @property
    def _form_encoded(self) -> bool:
        """True if client id and secret are form-encoded in HTTP Basic."""
        return self.oauth2 is not None and self.oauth2.client.form_encoded

    def _flow(self) -> OAuth2:
        if self.oauth2 is None:
            raise MissingValue(f"{self.provider} has no OAuth 2.0")
        return self.oauth2

    def _token_request(
        self, url: RequestTemplateText, pairs: Mapping[str, str], values: Mapping[str, str]
    ) -> ProviderRequest:
        flow = self._flow()
        client_rules = flow.client
        headers = fill_all(flow.headers, values)
        fields = dict(pairs)
        client = ClientCredentials(values["client_id"], values.get("client_secret", ""))
        if client_rules.auth == "basic":
            headers["Authorization"] = basic_authorization(
                client.id, client.secret, form_encoded=self._form_encoded
            )
        else:
            fields[client_rules.id_name] = client.id
            if client_rules.secret_header:
                headers[client_rules.secret_header] = client.secret
            elif client_rules.auth == "body":
                fields[client_rules.secret_name] = client.secret
        return build_request(
            "POST", RequestTemplate(url).url(values), headers, list(fields.items()), client_rules.encoding
        )


_NO_REFRESH: Final = TokenRefresh(by="none")

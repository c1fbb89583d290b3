"""How accounts of a provider are connected: the models of a manifest's `connect`.

Texts with values in braces are in the language of `shared/wire/request_template.py`. Values are selected from
responses by JMESPath (`shared/wire/expressions.py`). A parameter whose value is missing is left out.
"""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from shared.manifests.base import ManifestModel
from shared.wire.expressions import Expression, ExpressionError
from shared.wire.request_template import MissingValue, RequestTemplate

ProviderId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
SettingName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


def _validate_request_template(text: str) -> str:
    try:
        RequestTemplate(text)
    except MissingValue as error:
        raise ValueError(str(error)) from None
    return text


def _validate_jmespath(text: str) -> str:
    try:
        Expression(text)
    except ExpressionError as error:
        raise ValueError(str(error)) from None
    return text


def _validate_regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(str(error)) from None
    return text


Pattern = Annotated[str, AfterValidator(_validate_regex)]
"""A regular expression that has to match the whole text."""

RequestTemplateText = Annotated[str, AfterValidator(_validate_request_template)]
"""A text with values in braces: `{client_id}`, `{param:shop}`."""

JmesPath = Annotated[str, AfterValidator(_validate_jmespath)]
"""A JMESPath expression over a JSON response."""

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

TOKEN_NAMES: Final = frozenset({"access_token", "refresh_token"})
"""Names of an account's tokens in requests."""


class Setting(ManifestModel):
    """A value that a user enters."""

    name: str
    about: str
    pattern: str = ""
    secret: bool = False
    required: bool = False
    generated: bool = False
    """Whether the hub generates a missing value: a free text that is entered at the provider."""
    default: str = ""
    example: str = ""
    """A valid value, for documents and fixtures."""


class ApiRequest(ManifestModel):
    """A request to the provider. `token` adds the account's token, as `Api` describes."""

    method: Method = "GET"
    url: RequestTemplateText
    token: bool = True
    basic: tuple[RequestTemplateText, RequestTemplateText] | None = None
    """User name and password of HTTP Basic."""
    headers: dict[str, RequestTemplateText] = {}
    query: dict[str, RequestTemplateText] = {}
    form: dict[str, RequestTemplateText] | None = None
    json_: dict[str, Any] | None = Field(None, alias="json")
    """Texts in it are filled, at any depth."""
    graphql: str = ""
    """A query that is sent as JSON, without filling in values."""

    @model_validator(mode="after")
    def _one_body(self) -> "ApiRequest":
        bodies = (self.form is not None, self.json_ is not None, bool(self.graphql))
        if sum(bodies) > 1 or (any(bodies) and self.method == "GET"):
            raise ValueError("use one of form, json and graphql, and none of them with GET")
        return self


class Api(ManifestModel):
    """How the provider's API is called with an account's token."""

    base: RequestTemplateText = ""
    """The beginning of the API's URLs."""
    headers: dict[str, RequestTemplateText] = {"Authorization": "Bearer {access_token}"}
    query: dict[str, RequestTemplateText] = {}
    basic: tuple[RequestTemplateText, RequestTemplateText] | None = None
    """User name and password of HTTP Basic, in place of the header `Authorization`."""
    error: JmesPath = "error"
    """Error code in a response of any status: null, false, 0, "", "0" and "ok" mean success."""
    expired: tuple[str, ...] = ()
    """Error codes that, like 401, mean that the token is no longer valid."""
    forbidden: tuple[str, ...] = ()
    """Error codes of a 401 with a valid token that lacks a permission."""
    busy: tuple[str, ...] = ()
    """Error codes that, like 429, mean that the same request may succeed later."""


class AccountMapping(ManifestModel):
    """Values that are selected from a response and stored with the account, by name."""

    id: JmesPath = ""
    """The provider's permanent id of the account."""
    label: JmesPath = ""
    """The name that people know it by."""
    id_text: RequestTemplateText = ""
    """The id if the response does not have it: made of manual credentials, such as the public part of
    a key."""
    label_text: RequestTemplateText = ""
    url: JmesPath = ""
    keep: dict[SettingName, JmesPath] = {}
    """Values that are not secret: `{account:...}` in later requests."""

    @model_validator(mode="after")
    def _named(self) -> "AccountMapping":
        if not (self.id or self.id_text):
            raise ValueError("id or id_text: one of them has to name the account")
        return self


class Account(AccountMapping):
    """The connected account: selected from the response to `call`, or else from the token response."""

    call: ApiRequest | None = None
    person: JmesPath = ""
    """Id of the person that the token acts for, if `id` names a team, portal or workspace. Both together
    identify an account that is connected by OAuth; events carry only the `id`."""
    person_in: Literal["account", "token"] = "account"
    """The response that has it: the one that `id` is selected from, or the token endpoint's."""


class AccountSelection(ManifestModel):
    """The resources of an account (sites, pages), of which a user selects one.

    `items` selects the list from the response. A single resource is selected automatically.
    """

    about: str
    call: ApiRequest
    items: JmesPath = "@"
    id: JmesPath = "id"
    label: JmesPath = "name"
    keep: dict[SettingName, JmesPath] = {}


class ClientAuthentication(ManifestModel):
    """How the app authenticates at the token endpoint."""

    auth: Literal["basic", "body", "none"] = "body"
    form_encoded: bool = False
    """With HTTP Basic: id and secret are form-encoded before they are joined (RFC 6749, 2.3.1)."""
    encoding: Literal["form", "json"] = "form"
    id_name: str = "client_id"
    """The provider's name for the client id, in every request."""
    secret_name: str = "client_secret"
    secret_header: str = ""
    """The header that carries the secret in place of the body."""
    refused: tuple[str, ...] = ()
    """Error codes that, like `invalid_client`, mean that the provider rejects the app itself."""


class TokenMapping(ManifestModel):
    """The values of a token endpoint's response."""

    access_token: JmesPath = "access_token"
    refresh_token: JmesPath = "refresh_token"
    expires_in: JmesPath = "expires_in"
    """Seconds, as a number or text; 0 means for ever."""
    refresh_expires_in: JmesPath = "refresh_token_expires_in || refresh_expires_in"
    scope: JmesPath = "scope"


class TokenResponseMapping(TokenMapping):
    """The whole response: its error, the grant, and further grants of the same consent."""

    error: JmesPath = "error"
    description: JmesPath = "error_description || error_message || message"
    others: dict[SettingName, TokenMapping] = {}
    """Further tokens, with refresh tokens of their own."""


class Callback(ManifestModel):
    """Checks of the callback's parameters besides code and state."""

    issuer: RequestTemplateText = ""
    """The `iss` that the provider sends (RFC 9207): required, and exactly this value."""
    hmac: str = ""
    """The parameter with a hex HMAC-SHA256 over the others, sorted, with the client secret."""
    same: dict[str, RequestTemplateText] = {}
    """Parameters with values that are already known."""
    keep: tuple[SettingName, ...] = ()
    """Parameters that are stored with the account."""
    strip: str = ""
    """Suffix that the provider appends to the code."""


class TokenRefresh(ManifestModel):
    """How a token is refreshed."""

    by: Literal["refresh_token", "request", "none"] = "refresh_token"
    """The standard grant; `request`: the access token itself is extended; or never."""
    url: RequestTemplateText = ""
    """The URL, if it is not the token endpoint."""
    parameters: dict[str, RequestTemplateText] = {}
    redirect_uri: bool = False
    """Whether the redirect URI has to be repeated."""
    request: ApiRequest | None = None
    rotation: Literal["none", "replaced", "single-use"] = "none"
    """Whether a new refresh token comes, and whether the old one is invalid from then on."""
    ahead_s: int = Field(300, ge=0)
    """Seconds before its end at which a token is refreshed."""
    lifetime_s: int | None = None
    """Lifetime of an unused refresh token in seconds."""
    fixed: bool = False
    """Whether the lifetime counts from the consent: refreshing does not extend it."""
    reconnect: tuple[str, ...] = ()
    """Error codes, or beginnings of descriptions, that mean grant revoked, as `invalid_grant` does."""

    @model_validator(mode="after")
    def _whole(self) -> "TokenRefresh":
        if (self.by == "request") != (self.request is not None):
            raise ValueError("by: request needs a request, and only by: request may have one")
        return self


class TokenRevocation(ManifestModel):
    """How a grant is revoked at the provider, by the refresh token if there is one."""

    request: ApiRequest
    by: Literal["refresh_token", "access_token"] = "access_token"
    """Which of the two `{token}` is, if there is a refresh token."""
    everything: bool = False
    """Whether it ends every grant of the app for the account: other integrations of the same account
    as well."""


class OAuth2(ManifestModel):
    """A provider's authorization code grant."""

    authorize_url: RequestTemplateText
    token_url: RequestTemplateText
    client: ClientAuthentication = ClientAuthentication()
    pkce: Literal["S256", "none"] = "none"
    scope_separator: str = " "
    scopes: tuple[str, ...] = ()
    scope_means: dict[Pattern, tuple[str, ...]] = {}
    """Scopes that a granted scope includes (`\\1` is the pattern's first group): providers return other names
    than the requested ones, or one scope that includes others."""
    scope_untold: tuple[str, ...] = ()
    """Scopes that responses do not list although they are granted."""
    authorize: dict[str, RequestTemplateText] = {}
    """Further parameters of the authorization request."""
    exchange: dict[str, RequestTemplateText] = {}
    """Further parameters of the code exchange."""
    redirect_uri: bool = True
    """Whether the code exchange repeats the redirect URI."""
    code_refused: tuple[str, ...] = ()
    """Error codes that, like `invalid_grant`, mean that the code is invalid while the app is accepted."""
    headers: dict[str, RequestTemplateText] = {"Accept": "application/json"}
    """Headers of requests to the token endpoint."""
    callback: Callback = Callback()
    answer: TokenResponseMapping = TokenResponseMapping()
    longer: ApiRequest | None = None
    """Exchanges the first token for a long-lived one, immediately."""
    lifetime_s: int | None = None
    """Lifetime in seconds of an access token whose response has none; null: it does not expire."""
    refresh: TokenRefresh = TokenRefresh()
    revoke: TokenRevocation | None = None


class OAuth1(ManifestModel):
    """The three-legged flow of OAuth 1.0a, signed with HMAC-SHA1."""

    request_token_url: RequestTemplateText
    authorize_url: RequestTemplateText
    token_url: RequestTemplateText
    scope_separator: str = ","
    scopes: tuple[str, ...] = ()
    scope_name: str = "scope"
    authorize: dict[str, RequestTemplateText] = {}
    revoke: TokenRevocation | None = None


class Preset(ManifestModel):
    """Well-known values that a user need not look up."""

    name: str
    values: dict[SettingName, str]


class ManualCredential(ManifestModel):
    """A kind of credentials that a user enters, and how they are tested."""

    id: SettingName
    name: str
    about: str = ""
    fields: dict[SettingName, Setting]
    """The inputs: `{field:...}`. The field `access_token` is also `{access_token}`, like a token of OAuth, so
    that the provider's `api` applies. Named groups of a pattern are fields as well: the data center at the
    end of an API key."""
    presets: dict[str, Preset] = {}
    account: Account | None = None
    """The request that tests it. Without one, `login` does."""
    login: Literal["smtp", "imap"] | None = None
    """Login at a mail server, with the fields host, port, security, username and password."""
    api: Api | None = None
    """Set if it differs from the provider's."""

    @model_validator(mode="after")
    def _tried(self) -> "ManualCredential":
        # Exactly one test: untested credentials must not be stored.
        if (self.account is None or self.account.call is None) == (self.login is None):
            raise ValueError("a credential is tested by exactly one of account.call and login")
        return self


class ConnectSpec(ManifestModel):
    """How accounts are connected. `through`: with the URLs and the OAuth app of another provider."""

    through: ProviderId | None = None
    scopes: tuple[str, ...] = ()
    """Scopes that are requested by default, after those of `through`."""
    params: dict[SettingName, Setting] = {}
    """Inputs of the user who connects: `{param:...}`."""
    settings: dict[SettingName, Setting] = {}
    """Settings of the OAuth app besides its id and secret: `{setting:...}`."""
    app_steps: tuple[str, ...] = ()
    """How an operator registers the app at the provider: `{redirect_uri}` stands for the redirect URI."""
    oauth2: OAuth2 | None = None
    oauth1: OAuth1 | None = None
    entered: tuple[ManualCredential, ...] = ()
    api: Api = Api()
    account: Account | None = None
    """The account of an OAuth connection."""
    choices: AccountSelection | None = None
    probe: ApiRequest | None = None
    """Shows whether a token works, if `account` needs no request."""

    @model_validator(mode="after")
    def _one_kind(self) -> "ConnectSpec":
        flows = sum(flow is not None for flow in (self.through, self.oauth2, self.oauth1))
        if flows > 1:
            raise ValueError("use only one of through, oauth2 and oauth1")
        if not flows and not self.entered:
            raise ValueError("accounts cannot be connected: add oauth2, oauth1, through or entered")
        if (self.oauth2 or self.oauth1) and self.account is None:
            raise ValueError("account: missing: it has to say which account was connected")
        return self

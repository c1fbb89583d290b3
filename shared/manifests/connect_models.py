"""Define the models of a manifest's `connect`: the connection of a provider's accounts.

Texts with values in braces are those of `shared/wire/request_template.py`. Values are selected from
responses by JMESPath (`shared/wire/expressions.py`). A parameter whose value is missing is left out. The
descriptions are for the authors of manifests: they make this file longer than 400 lines.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from shared.manifests.base import ManifestModel
from shared.wire.expressions import Expression, ExpressionError
from shared.wire.request_template import RequestTemplate
from shared.wire.template import TEMPLATE_PATTERN, TemplateError

ProviderId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
SettingName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


def _validate_request_template(text: str) -> str:
    try:
        RequestTemplate(text)
    except TemplateError as error:
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

RequestTemplateText = Annotated[
    str,
    AfterValidator(_validate_request_template),
    WithJsonSchema({"type": "string", "pattern": TEMPLATE_PATTERN}),
]
"""A text with values in braces: `{client_id}`, `{param:shop}`."""

JmesPath = Annotated[str, AfterValidator(_validate_jmespath)]
"""A JMESPath expression over a JSON response."""

Purpose = Literal["basic", "sync", "import"]
"""Purpose for which an account is connected."""

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

TOKEN_NAMES: Final = frozenset({"access_token", "refresh_token"})
"""Names of an account's tokens in requests."""


def nested_texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value, at any depth, without the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from nested_texts(item)


class Setting(ManifestModel):
    """A value that a user enters."""

    name: str = Field(description="Its name for people.")
    about: str = Field(description="Where to find it.")
    pattern: str = Field(default="", description="A regular expression that the whole value has to match.")
    secret: bool = Field(default=False, description="Whether it is stored and shown like a secret.")
    required: bool = Field(default=False, description="Whether it has to be entered.")
    generated: bool = Field(
        default=False,
        description="Whether the hub generates a missing value: a free text that is entered at the provider.",
    )
    default: str = Field(default="", description="The value if none is entered.")
    example: str = Field(default="", description="A valid value, for documents and fixtures.")


class ApiRequest(ManifestModel):
    """A request to the provider. `token` adds the account's token, as `Api` describes."""

    method: Method = Field(default="GET", description="HTTP method.")
    url: RequestTemplateText = Field(description="URL, a request template. Values are percent-encoded in it.")
    token: bool = Field(default=True, description="Whether the account's token is added, as `api` describes.")
    basic: tuple[RequestTemplateText, RequestTemplateText] | None = Field(
        default=None, description="User name and password of HTTP Basic."
    )
    headers: dict[str, RequestTemplateText] = Field(
        default={}, description="Headers by name, request templates."
    )
    query: dict[str, RequestTemplateText] = Field(
        default={}, description="Parameters of the URL by name, request templates."
    )
    form: dict[str, RequestTemplateText] | None = Field(
        default=None, description="A URL-encoded body: fields by name, request templates."
    )
    json_: dict[str, Any] | None = Field(
        default=None,
        alias="json",
        description="A JSON body. Texts in it, at any depth, are request templates.",
    )
    graphql: str = Field(default="", description="A query that is sent as JSON, without filling in values.")

    @field_validator("json_")
    @classmethod
    def _json_of_templates(cls, body: dict[str, Any] | None) -> dict[str, Any] | None:
        for text in nested_texts(body):
            _validate_request_template(text)
        return body

    @model_validator(mode="after")
    def _one_body(self) -> "ApiRequest":
        bodies = (self.form is not None, self.json_ is not None, bool(self.graphql))
        if sum(bodies) > 1 or (any(bodies) and self.method == "GET"):
            raise ValueError("use one of form, json and graphql, and none of them with GET")
        return self


class Api(ManifestModel):
    """Settings for calls of the provider's API with an account's token."""

    base: RequestTemplateText = Field(default="", description="The beginning of the API's URLs.")
    headers: dict[str, RequestTemplateText] = Field(
        default={"Authorization": "Bearer {access_token}"}, description="Headers that carry the token."
    )
    query: dict[str, RequestTemplateText] = Field(
        default={}, description="Parameters of the URL that carry the token."
    )
    basic: tuple[RequestTemplateText, RequestTemplateText] | None = Field(
        default=None,
        description="User name and password of HTTP Basic, in place of the header `Authorization`.",
    )
    error: JmesPath = Field(
        default="error",
        description='Error code in a response of any status: null, false, 0, "", "0" and "ok" mean success.',
    )
    expired: tuple[str, ...] = Field(
        default=(), description="Error codes that, like 401, mean that the token is no longer valid."
    )
    forbidden: tuple[str, ...] = Field(
        default=(), description="Error codes of a 401 with a valid token that lacks a permission."
    )
    busy: tuple[str, ...] = Field(
        default=(), description="Error codes that, like 429, mean that the same request may succeed later."
    )


class AccountMapping(ManifestModel):
    """Values that are selected from a response and stored with the account, by name."""

    id: JmesPath = Field(default="", description="The provider's permanent id of the account.")
    label: JmesPath = Field(default="", description="The name that people know it by.")
    id_text: RequestTemplateText = Field(
        default="",
        description=(
            "The id if the response does not have it: made of manual credentials, such as the public part "
            "of a key."
        ),
    )
    label_text: RequestTemplateText = Field(
        default="", description="The label if the response does not have it."
    )
    url: JmesPath = Field(default="", description="The account's page.")
    keep: dict[SettingName, JmesPath] = Field(
        default={}, description="Values that are not secret: `{account:...}` in later requests."
    )

    @model_validator(mode="after")
    def _named(self) -> "AccountMapping":
        if not (self.id or self.id_text):
            raise ValueError("id or id_text: one of them has to name the account")
        return self


class Account(AccountMapping):
    """The connected account: selected from the response to `call`, or else from the token response."""

    call: ApiRequest | None = Field(default=None, description="The request that reads the account.")
    person: JmesPath = Field(
        default="",
        description=(
            "Id of the person that the token acts for, if `id` names a team, portal or workspace. Both "
            "together identify an account that is connected by OAuth; events carry only the `id`."
        ),
    )
    person_in: Literal["account", "token"] = Field(
        default="account",
        description="The response that has it: the one that `id` is selected from, or the token endpoint's.",
    )


class ResourceToken(ManifestModel):
    """The token of the selected resource, which calls use in place of the account's."""

    call: ApiRequest = Field(description="The request for it, with the account's token.")
    access_token: JmesPath = Field(default="access_token", description="The token in the response.")


class AccountSelection(ManifestModel):
    """The resources of an account (sites, pages), of which a user selects one.

    `items` selects the list from the response. A single resource is selected automatically.
    """

    about: str = Field(description="What is selected.")
    call: ApiRequest = Field(description="The request that lists the resources.")
    items: JmesPath = Field(default="@", description="The list in the response.")
    id: JmesPath = Field(default="id", description="The id of a resource, in an item of the list.")
    label: JmesPath = Field(default="name", description="The name that people know it by.")
    keep: dict[SettingName, JmesPath] = Field(
        default={}, description="Values of the selected resource that later requests need, by name."
    )
    token: ResourceToken | None = Field(
        default=None, description="How the resource's own token is got, if it has one."
    )


class ClientAuthentication(ManifestModel):
    """Authentication of the app at the token endpoint."""

    auth: Literal["basic", "body", "none"] = Field(
        default="body", description="HTTP Basic, parameters of the body, or no secret."
    )
    form_encoded: bool = Field(
        default=False,
        description=(
            "With HTTP Basic: id and secret are form-encoded before they are joined (RFC 6749, 2.3.1)."
        ),
    )
    encoding: Literal["form", "json"] = Field(default="form", description="The format of the body.")
    id_name: str = Field(
        default="client_id", description="The provider's name for the client id, in every request."
    )
    secret_name: str = Field(
        default="client_secret", description="The provider's name for the client secret."
    )
    secret_header: str = Field(
        default="", description="The header that carries the secret in place of the body."
    )
    refused: tuple[str, ...] = Field(
        default=(),
        description="Error codes that, like `invalid_client`, mean that the provider rejects the app itself.",
    )


class TokenMapping(ManifestModel):
    """The values of a token endpoint's response."""

    access_token: JmesPath = Field(default="access_token", description="The access token.")
    refresh_token: JmesPath = Field(default="refresh_token", description="The refresh token.")
    expires_in: JmesPath = Field(
        default="expires_in", description="Seconds, as a number or text; 0 means for ever."
    )
    refresh_expires_in: JmesPath = Field(
        default="refresh_token_expires_in || refresh_expires_in",
        description="Lifetime of the refresh token in seconds.",
    )
    scope: JmesPath = Field(default="scope", description="The granted scopes: a text or a list.")


class TokenResponseMapping(TokenMapping):
    """The whole response: its error, the grant, and further grants of the same consent."""

    error: JmesPath = Field(default="error", description="The error code.")
    description: JmesPath = Field(
        default="error_description || error_message || message", description="The description of the error."
    )
    others: dict[SettingName, TokenMapping] = Field(
        default={}, description="Further tokens, with refresh tokens of their own."
    )


class Callback(ManifestModel):
    """Checks of the callback's parameters besides code and state."""

    issuer: RequestTemplateText = Field(
        default="",
        description="The `iss` that the provider sends (RFC 9207): required, and exactly this value.",
    )
    hmac: str = Field(
        default="",
        description="The parameter with a hex HMAC-SHA256 over the others, sorted, with the client secret.",
    )
    same: dict[str, RequestTemplateText] = Field(
        default={}, description="Parameters with values that are already known."
    )
    keep: tuple[SettingName, ...] = Field(
        default=(), description="Parameters that are stored with the account."
    )
    strip: str = Field(default="", description="Suffix that the provider appends to the code.")


class TokenRefresh(ManifestModel):
    """Settings for the refresh of a token."""

    by: Literal["refresh_token", "request", "none"] = Field(
        default="refresh_token",
        description="The standard grant; `request`: the access token itself is extended; or never.",
    )
    url: RequestTemplateText = Field(default="", description="The URL, if it is not the token endpoint.")
    parameters: dict[str, RequestTemplateText] = Field(
        default={}, description="Further parameters of the request."
    )
    redirect_uri: bool = Field(default=False, description="Whether the redirect URI has to be repeated.")
    request: ApiRequest | None = Field(default=None, description="The request with `by: request`.")
    rotation: Literal["none", "replaced", "single-use"] = Field(
        default="none",
        description="Whether a new refresh token comes, and whether the old one is invalid from then on.",
    )
    ahead_s: int = Field(
        default=300, ge=0, description="Seconds before its end at which a token is refreshed."
    )
    lifetime_s: int | None = Field(
        default=None, description="Lifetime of an unused refresh token in seconds."
    )
    fixed: bool = Field(
        default=False,
        description="Whether the lifetime counts from the consent: refreshing does not extend it.",
    )
    absolute_s: int | None = Field(
        default=None,
        gt=0,
        description=(
            "Seconds after the consent at which every refresh token ends, beside a lifetime that refreshing "
            "extends. Its owner is warned 14 days before."
        ),
    )
    reconnect: tuple[str, ...] = Field(
        default=(),
        description=(
            "Error codes, or beginnings of descriptions, that mean grant revoked, as `invalid_grant` does."
        ),
    )

    @model_validator(mode="after")
    def _whole(self) -> "TokenRefresh":
        if (self.by == "request") != (self.request is not None):
            raise ValueError("by: request needs a request, and only by: request may have one")
        return self


class TokenRevocation(ManifestModel):
    """Settings to revoke a grant at the provider, by the refresh token if there is one."""

    request: ApiRequest = Field(description="The request that revokes the grant: `{token}` is the token.")
    by: Literal["refresh_token", "access_token"] = Field(
        default="access_token", description="Which of the two `{token}` is, if there is a refresh token."
    )
    everything: bool = Field(
        default=False,
        description=(
            "Whether it ends every grant of the app for the account: other integrations of the same "
            "account as well."
        ),
    )


class UserScopes(ManifestModel):
    """Scopes that the person grants in his own name, beside those of the app (a bot)."""

    parameter: str = Field(description="The parameter of the authorization request that has them.")
    token: SettingName = Field(description="The name of their token among `answer.others`.")


class OAuth2(ManifestModel):
    """A provider's authorization code grant."""

    authorize_url: RequestTemplateText = Field(description="The URL to which the browser is redirected.")
    token_url: RequestTemplateText = Field(description="The token endpoint.")
    client: ClientAuthentication = Field(
        default=ClientAuthentication(), description="How the app authenticates at the token endpoint."
    )
    pkce: Literal["S256", "none"] = Field(
        default="none", description="Proof Key for Code Exchange (RFC 7636)."
    )
    scope_separator: str = Field(
        default=" ", description="Separator of the scopes in the authorization request."
    )
    scopes: tuple[str, ...] = Field(default=(), description="Scopes that are requested by default.")
    user_scopes: UserScopes | None = Field(
        default=None, description="The scopes of a further token that acts for the person, if there is one."
    )
    scope_means: dict[Pattern, tuple[str, ...]] = Field(
        default={},
        description=(
            "Scopes that a granted scope includes (`\\1` is the pattern's first group): providers return "
            "other names than the requested ones, or one scope that includes others."
        ),
    )
    scope_untold: tuple[str, ...] = Field(
        default=(), description="Scopes that responses do not list although they are granted."
    )
    authorize: dict[str, RequestTemplateText] = Field(
        default={}, description="Further parameters of the authorization request."
    )
    exchange: dict[str, RequestTemplateText] = Field(
        default={}, description="Further parameters of the code exchange."
    )
    redirect_uri: bool = Field(
        default=True, description="Whether the code exchange repeats the redirect URI."
    )
    code_refused: tuple[str, ...] = Field(
        default=(),
        description=(
            "Error codes that, like `invalid_grant`, mean that the code is invalid while the app is accepted."
        ),
    )
    headers: dict[str, RequestTemplateText] = Field(
        default={"Accept": "application/json"}, description="Headers of requests to the token endpoint."
    )
    callback: Callback = Field(default=Callback(), description="Checks of the callback's parameters.")
    answer: TokenResponseMapping = Field(
        default=TokenResponseMapping(), description="The values of the token endpoint's response."
    )
    longer: ApiRequest | None = Field(
        default=None, description="Exchanges the first token for a long-lived one, immediately."
    )
    lifetime_s: int | None = Field(
        default=None,
        description=(
            "Lifetime in seconds of an access token whose response has none; null: it does not expire."
        ),
    )
    refresh: TokenRefresh = Field(default=TokenRefresh(), description="How a token is refreshed.")
    revoke: TokenRevocation | None = Field(
        default=None, description="How a grant is revoked; without it, disconnecting revokes nothing."
    )


class OAuth1(ManifestModel):
    """The three-legged flow of OAuth 1.0a, signed with HMAC-SHA1."""

    request_token_url: RequestTemplateText = Field(description="URL of the request token.")
    authorize_url: RequestTemplateText = Field(description="The URL to which the browser is redirected.")
    token_url: RequestTemplateText = Field(description="URL of the access token.")
    scope_separator: str = Field(default=",", description="Separator of the scopes.")
    scopes: tuple[str, ...] = Field(default=(), description="Scopes that are requested by default.")
    scope_name: str = Field(default="scope", description="The parameter with the scopes.")
    authorize: dict[str, RequestTemplateText] = Field(
        default={}, description="Further parameters of the authorization request."
    )
    revoke: TokenRevocation | None = Field(default=None, description="How a grant is revoked.")


class Preset(ManifestModel):
    """Well-known values that a user need not look up."""

    name: str = Field(description="Its name for people.")
    values: dict[SettingName, str] = Field(description="Values of fields that are not secret, by name.")


class ManualCredential(ManifestModel):
    """A kind of credentials that a user enters, and how they are tested."""

    id: SettingName = Field(description="Id of the kind of credentials.")
    name: str = Field(description="Its name for people.")
    about: str = Field(default="", description="What it is.")
    fields: dict[SettingName, Setting] = Field(
        description=(
            "The inputs: `{field:...}`. The field `access_token` is also `{access_token}`, like a token "
            "of OAuth, so that the provider's `api` applies. Named groups of a pattern are fields as "
            "well: the data center at the end of an API key."
        ),
    )
    presets: dict[str, Preset] = Field(default={}, description="Well-known values, by name.")
    account: Account | None = Field(
        default=None, description="The request that tests it. Without one, `login` does."
    )
    login: Literal["smtp", "imap"] | None = Field(
        default=None,
        description="Login at a mail server, with the fields host, port, security, username and password.",
    )
    api: Api | None = Field(default=None, description="Set if it differs from the provider's.")

    @model_validator(mode="after")
    def _tried(self) -> "ManualCredential":
        # Exactly one test: untested credentials must not be stored.
        if (self.account is None or self.account.call is None) == (self.login is None):
            raise ValueError("a credential is tested by exactly one of account.call and login")
        return self


class ConnectSpec(ManifestModel):
    """Settings to connect accounts. `through`: with the URLs and the OAuth app of another provider."""

    through: ProviderId | None = Field(
        default=None, description="The provider whose URLs and OAuth app are used."
    )
    scopes: tuple[str, ...] = Field(
        default=(), description="Scopes that are requested by default, after those of `through`."
    )
    purposes: dict[Purpose, tuple[str, ...]] = Field(
        default={},
        description=(
            "Scopes that are requested for a purpose in place of the default ones, after those of `through`. "
            "`basic`: know the account and send to it; `sync`: keep its content the same on both sides; "
            "`import`: read what it has, without changing anything."
        ),
    )
    params: dict[SettingName, Setting] = Field(
        default={}, description="Inputs of the user who connects: `{param:...}`."
    )
    settings: dict[SettingName, Setting] = Field(
        default={}, description="Settings of the OAuth app besides its id and secret: `{setting:...}`."
    )
    app_steps: tuple[str, ...] = Field(
        default=(),
        description=(
            "How an operator registers the app at the provider: `{redirect_uri}` stands for the redirect URI."
        ),
    )
    oauth2: OAuth2 | None = Field(default=None, description="The authorization code grant of OAuth 2.0.")
    oauth1: OAuth1 | None = Field(default=None, description="The three-legged flow of OAuth 1.0a.")
    entered: tuple[ManualCredential, ...] = Field(default=(), description="Kinds of manual credentials.")
    api: Api = Field(default=Api(), description="How the API is called with a token.")
    account: Account | None = Field(default=None, description="The account of an OAuth connection.")
    choices: AccountSelection | None = Field(
        default=None, description="The resources of an account, of which a user selects one."
    )
    probe: ApiRequest | None = Field(
        default=None, description="Shows whether a token works, if `account` needs no request."
    )

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

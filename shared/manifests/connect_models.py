"""How accounts of a platform are connected, as the manifest says it: addresses, habits, who-am-i.

Texts with values in braces are in the language of `shared/wire/request_template.py`; what is taken from an
answer is
selected by JMESPath (`shared/wire/expressions.py`). A parameter whose value is not there is left out.
"""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from shared.manifests.schemes import ManifestModel
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
"""A regular expression that has to match a whole text."""

RequestTemplateText = Annotated[str, AfterValidator(_validate_request_template)]
"""A text with values in braces: `{client_id}`, `{param:shop}`."""

JmesPath = Annotated[str, AfterValidator(_validate_jmespath)]
"""A JMESPath expression over a JSON answer."""

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

TOKEN_NAMES: Final = frozenset({"access_token", "refresh_token"})
"""The values of an account that are its tokens, as requests name them."""


class Setting(ManifestModel):
    """What somebody enters."""

    name: str
    about: str
    pattern: str = ""
    secret: bool = False
    required: bool = False
    generated: bool = False
    """We make one when it is left out: a text of its owner's choice that goes to the platform."""
    default: str = ""
    example: str = ""
    """A value that fits, for documents and fixtures."""


class ApiRequest(ManifestModel):
    """A request to the platform. `token` puts the account's token in, as `Api` says."""

    method: Method = "GET"
    url: RequestTemplateText
    token: bool = True
    basic: tuple[RequestTemplateText, RequestTemplateText] | None = None
    """Name and password of HTTP Basic."""
    headers: dict[str, RequestTemplateText] = {}
    query: dict[str, RequestTemplateText] = {}
    form: dict[str, RequestTemplateText] | None = None
    json_: dict[str, Any] | None = Field(None, alias="json")
    """Texts in it are filled, at any depth."""
    graphql: str = ""
    """A query that is sent as JSON, as it is: nothing is filled in."""

    @model_validator(mode="after")
    def _one_body(self) -> "ApiRequest":
        bodies = (self.form is not None, self.json_ is not None, bool(self.graphql))
        if sum(bodies) > 1 or (any(bodies) and self.method == "GET"):
            raise ValueError("one of form, json and graphql, and none with GET")
        return self


class Api(ManifestModel):
    """How the platform's API is called with an account's token."""

    base: RequestTemplateText = ""
    """What addresses of the API begin with."""
    headers: dict[str, RequestTemplateText] = {"Authorization": "Bearer {access_token}"}
    query: dict[str, RequestTemplateText] = {}
    basic: tuple[RequestTemplateText, RequestTemplateText] | None = None
    """Name and password of HTTP Basic, in place of the header `Authorization`."""
    error: JmesPath = "error"
    """The code of a failure in an answer of any status: null, false, 0, "", "0" and "ok" are none."""
    expired: tuple[str, ...] = ()
    """Codes that mean, as a 401 does, that the token is not good any more."""
    forbidden: tuple[str, ...] = ()
    """Codes that come with a 401 although the token is good: it may not do this."""
    busy: tuple[str, ...] = ()
    """Codes that mean, as a 429 does, that the same request may succeed later."""


class AccountMapping(ManifestModel):
    """What is selected from an answer and kept beside the account, by name."""

    id: JmesPath = ""
    """What names the account on the platform, for good."""
    label: JmesPath = ""
    """What people call it."""
    id_text: RequestTemplateText = ""
    """The same where the answer does not say it: made of what was entered, the key's public part."""
    label_text: RequestTemplateText = ""
    url: JmesPath = ""
    keep: dict[SettingName, JmesPath] = {}
    """Not secret: `{account:...}` in later requests."""

    @model_validator(mode="after")
    def _named(self) -> "AccountMapping":
        if not (self.id or self.id_text):
            raise ValueError("id or id_text: what names the account")
        return self


class Account(AccountMapping):
    """Who was connected: selected from the answer of `call`, or, without one, of the token endpoint."""

    call: ApiRequest | None = None
    person: JmesPath = ""
    """Where `id` names a team, portal or workspace: who of it the token acts for, if it acts for a person.
    Both are the identity of an account that is connected by OAuth; events name the `id` alone."""
    person_in: Literal["account", "token"] = "account"
    """Which answer says it: the one that `id` is selected from, or the token endpoint's."""


class AccountSelection(ManifestModel):
    """Of which of several places of an account (sites, pages) a connection is: a person chooses one.

    `items` selects the list from the answer. When there is one, it is taken.
    """

    about: str
    call: ApiRequest
    items: JmesPath = "@"
    id: JmesPath = "id"
    label: JmesPath = "name"
    keep: dict[SettingName, JmesPath] = {}


class ClientAuthentication(ManifestModel):
    """How the app proves itself to the token endpoint."""

    auth: Literal["basic", "body", "none"] = "body"
    form_encoded: bool = False
    """With HTTP Basic: id and secret are form-encoded before they are joined, as RFC 6749, 2.3.1 has it."""
    encoding: Literal["form", "json"] = "form"
    id_name: str = "client_id"
    """What the platform calls it, everywhere."""
    secret_name: str = "client_secret"
    secret_header: str = ""
    """The header that carries the secret in place of the body."""
    refused: tuple[str, ...] = ()
    """Error codes that mean, as `invalid_client` does, that the platform does not take the app itself."""


class TokenMapping(ManifestModel):
    """Where the parts of a token endpoint's answer are."""

    access_token: JmesPath = "access_token"
    refresh_token: JmesPath = "refresh_token"
    expires_in: JmesPath = "expires_in"
    """Seconds, as a number or text; 0 is for ever."""
    refresh_expires_in: JmesPath = "refresh_token_expires_in || refresh_expires_in"
    scope: JmesPath = "scope"


class TokenResponseMapping(TokenMapping):
    """The whole answer: its error, the grant, and grants of the same consent beside it."""

    error: JmesPath = "error"
    description: JmesPath = "error_description || error_message || message"
    others: dict[SettingName, TokenMapping] = {}
    """Further tokens with refresh tokens of their own."""


class Callback(ManifestModel):
    """What comes back to us beside code and state."""

    issuer: RequestTemplateText = ""
    """The `iss` that the platform sends (RFC 9207): it has to be there, and this."""
    hmac: str = ""
    """The parameter with a hex HMAC-SHA256 over the others, sorted, with the client secret."""
    same: dict[str, RequestTemplateText] = {}
    """Parameters that have to be what is known already."""
    keep: tuple[SettingName, ...] = ()
    """Parameters kept beside the account."""
    strip: str = ""
    """What the platform appends to the code."""


class TokenRefresh(ManifestModel):
    """How a token is made anew."""

    by: Literal["refresh_token", "request", "none"] = "refresh_token"
    """The standard grant; `request`, where the access token itself is made to last longer; or never."""
    url: RequestTemplateText = ""
    """Where, when it is not the token endpoint."""
    parameters: dict[str, RequestTemplateText] = {}
    redirect_uri: bool = False
    """It has to be repeated."""
    request: ApiRequest | None = None
    rotation: Literal["none", "replaced", "single-use"] = "none"
    """Whether a new refresh token comes, and whether the old one is worthless from then on."""
    ahead_s: int = Field(300, ge=0)
    """How long before its end a token is made anew."""
    lifetime_s: int | None = None
    """How long an unused refresh token lives."""
    fixed: bool = False
    """Its lifetime counts from the consent: refreshing does not make it longer."""
    reconnect: tuple[str, ...] = ()
    """Error codes, or beginnings of descriptions, that mean as `invalid_grant` does: consent has ended."""

    @model_validator(mode="after")
    def _whole(self) -> "TokenRefresh":
        if (self.by == "request") != (self.request is not None):
            raise ValueError("by: request goes with a request")
        return self


class TokenRevocation(ManifestModel):
    """How a grant is ended at the platform, by the refresh token where there is one."""

    request: ApiRequest
    by: Literal["refresh_token", "access_token"] = "access_token"
    """Which of the two `{token}` is, where there is a refresh token."""
    everything: bool = False
    """It ends all that the app may do for the account: other integrations of the same account as well."""


class OAuth2(ManifestModel):
    """The authorization code grant of a platform."""

    authorize_url: RequestTemplateText
    token_url: RequestTemplateText
    client: ClientAuthentication = ClientAuthentication()
    pkce: Literal["S256", "none"] = "none"
    scope_separator: str = " "
    scopes: tuple[str, ...] = ()
    scope_means: dict[Pattern, tuple[str, ...]] = {}
    """What a scope of an answer stands for beside itself (`\\1` is the pattern's first group): platforms
    answer other names than they are asked for, or one scope that includes others."""
    scope_untold: tuple[str, ...] = ()
    """Scopes that answers do not name, though they are granted."""
    authorize: dict[str, RequestTemplateText] = {}
    """Further parameters of the authorization request."""
    exchange: dict[str, RequestTemplateText] = {}
    """Further parameters when the code is exchanged."""
    redirect_uri: bool = True
    """Whether it is repeated when the code is exchanged."""
    code_refused: tuple[str, ...] = ()
    """Error codes that mean, as `invalid_grant` does, that the code is not good: the app itself is taken."""
    headers: dict[str, RequestTemplateText] = {"Accept": "application/json"}
    """Of calls to the token endpoint."""
    callback: Callback = Callback()
    answer: TokenResponseMapping = TokenResponseMapping()
    longer: ApiRequest | None = None
    """Exchanges the first token for one that lives longer, at once."""
    lifetime_s: int | None = None
    """Of an access token whose answer does not say it; null: it does not end."""
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
    """Values that somebody need not look up."""

    name: str
    values: dict[SettingName, str]


class ManualCredential(ManifestModel):
    """A kind of credential that somebody enters, and how it is tried out."""

    id: SettingName
    name: str
    about: str = ""
    fields: dict[SettingName, Setting]
    """What is typed in: `{field:...}`. The one called `access_token` is `{access_token}` too, as a token of
    OAuth is, so that the platform's `api` can stay as it is. Named groups of a pattern are fields as well:
    the data center that an API key ends with."""
    presets: dict[str, Preset] = {}
    account: Account | None = None
    """The request that proves it. Without one, `login` does."""
    login: Literal["smtp", "imap"] | None = None
    """A mail server's login, with the fields host, port, security, username and password."""
    api: Api | None = None
    """Where it differs from the platform's."""

    @model_validator(mode="after")
    def _tried(self) -> "ManualCredential":
        if (self.account is None or self.account.call is None) == (self.login is None):
            raise ValueError("a credential is tried out by one of account.call and login")
        return self


class ConnectSpec(ManifestModel):
    """How accounts are connected. `through` another provider: with its addresses and its app."""

    through: ProviderId | None = None
    scopes: tuple[str, ...] = ()
    """Asked for when nobody says otherwise; what `through` asks for comes first."""
    params: dict[SettingName, Setting] = {}
    """What is asked of the person who connects: `{param:...}`."""
    settings: dict[SettingName, Setting] = {}
    """What belongs to the registered app beside its id and secret: `{setting:...}`."""
    app_steps: tuple[str, ...] = ()
    """What an operator does on the platform to register the app: `{redirect_uri}` says where that goes."""
    oauth2: OAuth2 | None = None
    oauth1: OAuth1 | None = None
    entered: tuple[ManualCredential, ...] = ()
    api: Api = Api()
    account: Account | None = None
    """Of accounts that are connected by OAuth."""
    choices: AccountSelection | None = None
    probe: ApiRequest | None = None
    """Shows whether a token works, where `account` is known without a call."""

    @model_validator(mode="after")
    def _one_way(self) -> "ConnectSpec":
        ways = sum(way is not None for way in (self.through, self.oauth2, self.oauth1))
        if ways > 1:
            raise ValueError("one of through, oauth2 and oauth1")
        if not ways and not self.entered:
            raise ValueError("no way to connect: oauth2, oauth1, through or entered")
        if (self.oauth2 or self.oauth1) and self.account is None:
            raise ValueError("account: who was connected has to be known")
        return self

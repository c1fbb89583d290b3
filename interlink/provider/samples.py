"""The models of `connect.yaml`: samples that prove a manifest's `connect` and its `watches`.

They contain the exact requests, and responses of the provider with their meaning. The app, the tokens and the
hub's URL are always those of `VALUES` and `TOKENS`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field, ValidationError

from shared.contracts.errors import Misconfigured
from shared.manifests.base import ManifestModel
from shared.manifests.connect_models import SettingName
from shared.manifests.registry import load_yaml
from shared.wire.bodies import JSON_CONTENT_TYPE
from shared.wire.provider_http import ProviderResponse

SAMPLES: Final = "connect.yaml"
STATE: Final = "state-1"
CODE: Final = "code-1"
PKCE_VERIFIER: Final = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
"""From RFC 7636, appendix B."""
REQUEST_TOKEN: Final = ("request-1", "request-secret-1")
"""The request token of OAuth 1.0a, and its secret."""
OAUTH1_VERIFIER: Final = "verifier-1"
"""The verifier of OAuth 1.0a in the callback."""
VALUES: Final[Mapping[str, str]] = {
    "client_id": "client-id",
    "client_secret": "client-secret",
    "redirect_uri": "https://hub.example.com/api/auth/oauth/callback",
}
TOKENS: Final[Mapping[str, str]] = {"access_token": "access-1", "refresh_token": "refresh-1"}

ErrorName = Literal["Refused", "ConsentGone", "ClientRefused", "PlatformBusy"]


class SampleRequest(ManifestModel):
    """A request as it is sent. Header names may be written in any case.

    `signed` are the parameters of the header `Authorization: OAuth`, without those that differ each time:
    nonce, time and signature.
    """

    method: str
    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    signed: dict[str, str] = Field(default_factory=dict)
    body: str = ""


class SampleResponse(ManifestModel):
    """A response of the provider; JSON unless a header says otherwise."""

    status: int = 200
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""

    def to_answer(self) -> ProviderResponse:
        """Return the response as the hub receives it."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return ProviderResponse(
            self.status, {"content-type": JSON_CONTENT_TYPE, **headers}, self.body.encode()
        )


class SampleTokens(ManifestModel):
    """The tokens of a response; missing ones are left out."""

    access_token: str
    refresh_token: str = ""
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] | None = None


class TokenSample(SampleResponse):
    """A response of the token endpoint: its tokens, or its error and the error's code."""

    name: str
    tokens: SampleTokens | None = None
    others: dict[str, SampleTokens] = Field(default_factory=dict)
    refused: ErrorName | None = None
    code: str = ""
    person: str = ""
    """The person that the tokens act for, if `account.person` selects from this response."""


class RequestTokenSample(SampleResponse):
    """A response to the first leg of OAuth 1.0a: the request token, or the error and its code."""

    name: str
    token: str = ""
    secret: str = ""
    refused: ErrorName | None = None
    code: str = ""


class ClientSample(ManifestModel):
    """An app with special characters in its id and secret, and its HTTP Basic header."""

    id: str
    secret: str
    authorization: str


class SampleAccount(ManifestModel):
    """The account that a response describes."""

    id: str
    label: str
    url: str = ""
    kept: dict[str, str] = Field(default_factory=dict)
    person: str = ""


class AccountSample(SampleResponse):
    """The account's response. Without a request, the body is the token endpoint's response."""

    request: SampleRequest | None = None
    whose: SampleAccount


class SampleResource(ManifestModel):
    """A resource of an account."""

    id: str
    label: str
    kept: dict[str, str] = Field(default_factory=dict)


class ResourceTokenSample(SampleResponse):
    """The request for the token of the first resource, and the token in its response."""

    request: SampleRequest
    access_token: str


class ResourcesSample(SampleResponse):
    """The resources that a user can select."""

    request: SampleRequest
    found: tuple[SampleResource, ...]
    token: ResourceTokenSample | None = None


class CallbackSample(ManifestModel):
    """The callback's parameters, those that are stored, and queries that are rejected."""

    query: str
    kept: dict[str, str] = Field(default_factory=dict)
    refused: tuple[str, ...] = ()


class ManualCredentialSample(SampleResponse):
    """Manual credentials. Credentials that a login tests have only `fields`."""

    fields: dict[str, str]
    request: SampleRequest | None = None
    whose: SampleAccount | None = None
    refused: tuple[SampleResponse, ...] = ()


class PreliminaryRequestSample(SampleResponse):
    """A preliminary request, and the values stored from its response."""

    request: SampleRequest
    kept: dict[SettingName, str]


class SubscriptionResultSample(SampleResponse):
    """The response that created or renewed a subscription: its stored values, and its expiry in UTC."""

    kept: dict[SettingName, str] = Field(default_factory=dict)
    ends: str = ""


class SubscriptionSample(ManifestModel):
    """The requests of a provider subscription, and their responses. `resource` defaults to the examples."""

    resource: dict[SettingName, str] = Field(default_factory=dict)
    before: PreliminaryRequestSample | None = None
    create: SampleRequest
    made: SubscriptionResultSample
    renew: SampleRequest | None = None
    renewed: SubscriptionResultSample | None = None
    cancel: SampleRequest | None = None
    refused: tuple[SampleResponse, ...] = ()
    """Responses to `create` that created nothing."""


class Sample(ManifestModel):
    """The content of `connect.yaml`."""

    request_token: SampleRequest | None = None
    requested: tuple[RequestTokenSample, ...] = ()
    authorize: str = ""
    exchange: SampleRequest | None = None
    client: ClientSample | None = None
    longer: SampleRequest | None = None
    refresh: SampleRequest | None = None
    revoke: SampleRequest | None = None
    answers: tuple[TokenSample, ...] = ()
    callback: CallbackSample | None = None
    account: AccountSample | None = None
    choices: ResourcesSample | None = None
    expired: tuple[SampleResponse, ...] = ()
    not_expired: tuple[SampleResponse, ...] = ()
    entered: dict[SettingName, ManualCredentialSample] = Field(default_factory=dict)
    watches: dict[SettingName, SubscriptionSample] = Field(default_factory=dict)


def read_sample(folder: Path) -> Sample:
    """Read a folder's samples. Raises `Misconfigured`."""
    try:
        return Sample.model_validate(load_yaml((folder / SAMPLES).read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{SAMPLES}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        item = error.errors()[0]
        raise Misconfigured(f"{SAMPLES}: {'.'.join(map(str, item['loc']))}: {item['msg']}") from None

"""`connect.yaml` beside a manifest: the samples that prove its `connect` and its `watches`.

They have the requests that are made, to the letter, and answers of the platform with what they mean. The app,
the tokens and the address of the hub are always those of `VALUES` and `TOKENS`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field, ValidationError

from shared.contracts.errors import Misconfigured
from shared.manifests.connect_models import SettingName
from shared.manifests.registry import load_yaml
from shared.manifests.schemes import ManifestModel
from shared.wire.bodies import JSON_CONTENT_TYPE
from shared.wire.provider_http import ProviderResponse

SAMPLES: Final = "connect.yaml"
STATE: Final = "state-1"
CODE: Final = "code-1"
PKCE_VERIFIER: Final = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
"""Of RFC 7636, appendix B."""
REQUEST_TOKEN: Final = ("request-1", "request-secret-1")
"""The request token of OAuth 1.0a, and its secret."""
OAUTH1_VERIFIER: Final = "verifier-1"
"""The verifier of OAuth 1.0a, which comes back to the hub."""
VALUES: Final[Mapping[str, str]] = {
    "client_id": "client-id",
    "client_secret": "client-secret",
    "redirect_uri": "https://hub.example.com/api/auth/oauth/callback",
}
TOKENS: Final[Mapping[str, str]] = {"access_token": "access-1", "refresh_token": "refresh-1"}

ErrorName = Literal["Refused", "ConsentGone", "ClientRefused", "PlatformBusy"]


class SampleRequest(ManifestModel):
    """A request as it is sent. Names of headers may be written in any case.

    `signed` are the parameters of the header `Authorization: OAuth`, but for those that are new each time:
    nonce, time and signature.
    """

    method: str
    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    signed: dict[str, str] = Field(default_factory=dict)
    body: str = ""


class SampleResponse(ManifestModel):
    """What a platform answers; JSON where no header says otherwise."""

    status: int = 200
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""

    def to_answer(self) -> ProviderResponse:
        """As the hub gets it."""
        told = {name.lower(): value for name, value in self.headers.items()}
        return ProviderResponse(self.status, {"content-type": JSON_CONTENT_TYPE, **told}, self.body.encode())


class SampleTokens(ManifestModel):
    """The tokens of an answer; what is not there is left out."""

    access_token: str
    refresh_token: str = ""
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] | None = None


class TokenSample(SampleResponse):
    """An answer of the token endpoint: the tokens that it gives, or the error that it means and its code."""

    name: str
    tokens: SampleTokens | None = None
    others: dict[str, SampleTokens] = Field(default_factory=dict)
    refused: ErrorName | None = None
    code: str = ""
    person: str = ""
    """Who the tokens act for, where `account.person` is in this answer."""


class RequestTokenSample(SampleResponse):
    """An answer to OAuth 1.0a's first leg: the request token, or the error that it means and its code."""

    name: str
    token: str = ""
    secret: str = ""
    refused: ErrorName | None = None
    code: str = ""


class ClientSample(ManifestModel):
    """An app whose id and secret have other characters than letters, and how HTTP Basic carries them."""

    id: str
    secret: str
    authorization: str


class SampleAccount(ManifestModel):
    """The account that an answer is about."""

    id: str
    label: str
    url: str = ""
    kept: dict[str, str] = Field(default_factory=dict)
    person: str = ""


class AccountSample(SampleResponse):
    """Whose account it is. Without a request, the body is the token endpoint's answer."""

    request: SampleRequest | None = None
    whose: SampleAccount


class SampleResource(ManifestModel):
    """One place that may be chosen."""

    id: str
    label: str
    kept: dict[str, str] = Field(default_factory=dict)


class ResourcesSample(SampleResponse):
    """What there is to choose of."""

    request: SampleRequest
    found: tuple[SampleResource, ...]


class CallbackSample(ManifestModel):
    """The parameters that come back to the hub, what is kept of them, and some that are refused."""

    query: str
    kept: dict[str, str] = Field(default_factory=dict)
    refused: tuple[str, ...] = ()


class ManualCredentialSample(SampleResponse):
    """A credential that somebody enters. One that is tried out by a login has its fields only."""

    fields: dict[str, str]
    request: SampleRequest | None = None
    whose: SampleAccount | None = None
    refused: tuple[SampleResponse, ...] = ()


class PreliminaryRequestSample(SampleResponse):
    """What is asked for first, and what is kept of its answer."""

    request: SampleRequest
    kept: dict[SettingName, str]


class SubscriptionResultSample(SampleResponse):
    """The answer that made or renewed a watch: what is kept of it, and its end in UTC, where it says one."""

    kept: dict[SettingName, str] = Field(default_factory=dict)
    ends: str = ""


class SubscriptionSample(ManifestModel):
    """A watch: its requests, and the answers to them. What `resource` leaves out is as its example."""

    resource: dict[SettingName, str] = Field(default_factory=dict)
    before: PreliminaryRequestSample | None = None
    create: SampleRequest
    made: SubscriptionResultSample
    renew: SampleRequest | None = None
    renewed: SubscriptionResultSample | None = None
    cancel: SampleRequest | None = None
    refused: tuple[SampleResponse, ...] = ()
    """Answers to `create` that made nothing."""


class Sample(ManifestModel):
    """`connect.yaml`."""

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
    """The folder's samples. Raises `Misconfigured`."""
    try:
        return Sample.model_validate(load_yaml((folder / SAMPLES).read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{SAMPLES}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise Misconfigured(f"{SAMPLES}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None

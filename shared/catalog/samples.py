"""`connect.yaml` beside a manifest: the samples that prove its `connect` and its `watches`.

They have the requests that are made, to the letter, and answers of the platform with what they mean. The app,
the tokens and the address of the hub are always those of `VALUES` and `TOKENS`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field, ValidationError

from shared.catalog.connect import SettingName
from shared.catalog.registry import loaded
from shared.catalog.ways import Part
from shared.contracts.errors import Misconfigured
from shared.wire.oauth import JSON, Answered

SAMPLES: Final = "connect.yaml"
STATE: Final = "state-1"
CODE: Final = "code-1"
VERIFIER: Final = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
"""Of RFC 7636, appendix B."""
REQUEST: Final = ("request-1", "request-secret-1")
"""The request token of OAuth 1.0a, and its secret."""
PERMISSION: Final = "verifier-1"
"""The verifier of OAuth 1.0a, which comes back to the hub."""
VALUES: Final[Mapping[str, str]] = {
    "client_id": "client-id",
    "client_secret": "client-secret",
    "redirect_uri": "https://hub.example.com/api/auth/oauth/callback",
}
TOKENS: Final[Mapping[str, str]] = {"access_token": "access-1", "refresh_token": "refresh-1"}

Refusal = Literal["Refused", "ConsentGone", "ClientRefused", "PlatformBusy"]


class SampleCall(Part):
    """A request as it is sent. Names of headers may be written in any case.

    `signed` are the parameters of the header `Authorization: OAuth`, but for those that are new each time:
    nonce, time and signature.
    """

    method: str
    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    signed: dict[str, str] = Field(default_factory=dict)
    body: str = ""


class SampleAnswer(Part):
    """What a platform answers; JSON where no header says otherwise."""

    status: int = 200
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""

    def answered(self) -> Answered:
        """As the hub gets it."""
        told = {name.lower(): value for name, value in self.headers.items()}
        return Answered(self.status, {"content-type": JSON, **told}, self.body.encode())


class SampleTokens(Part):
    """The tokens of an answer; what is not there is left out."""

    access_token: str
    refresh_token: str = ""
    expires_in: float | None = None
    refresh_expires_in: float | None = None
    scopes: tuple[str, ...] | None = None


class TokenSample(SampleAnswer):
    """An answer of the token endpoint: the tokens that it gives, or the error that it means and its code."""

    name: str
    tokens: SampleTokens | None = None
    others: dict[str, SampleTokens] = Field(default_factory=dict)
    refused: Refusal | None = None
    code: str = ""
    person: str = ""
    """Who the tokens act for, where `account.person` is in this answer."""


class RequestedSample(SampleAnswer):
    """An answer to OAuth 1.0a's first leg: the request token, or the error that it means and its code."""

    name: str
    token: str = ""
    secret: str = ""
    refused: Refusal | None = None
    code: str = ""


class ClientSample(Part):
    """An app whose id and secret have other characters than letters, and how HTTP Basic carries them."""

    id: str
    secret: str
    authorization: str


class SampleWhose(Part):
    """The account that an answer is about."""

    id: str
    label: str
    url: str = ""
    kept: dict[str, str] = Field(default_factory=dict)
    person: str = ""


class AccountSample(SampleAnswer):
    """Whose account it is. Without a request, the body is the token endpoint's answer."""

    request: SampleCall | None = None
    whose: SampleWhose


class SampleChoice(Part):
    """One place that may be chosen."""

    id: str
    label: str
    kept: dict[str, str] = Field(default_factory=dict)


class ChoicesSample(SampleAnswer):
    """What there is to choose of."""

    request: SampleCall
    found: tuple[SampleChoice, ...]


class CallbackSample(Part):
    """The parameters that come back to the hub, what is kept of them, and some that are refused."""

    query: str
    kept: dict[str, str] = Field(default_factory=dict)
    refused: tuple[str, ...] = ()


class EnteredSample(SampleAnswer):
    """A credential that somebody enters. One that is tried out by a login has its fields only."""

    fields: dict[str, str]
    request: SampleCall | None = None
    whose: SampleWhose | None = None
    refused: tuple[SampleAnswer, ...] = ()


class BeforeSample(SampleAnswer):
    """What is asked for first, and what is kept of its answer."""

    request: SampleCall
    kept: dict[SettingName, str]


class MadeSample(SampleAnswer):
    """The answer that made or renewed a watch: what is kept of it, and its end in UTC, where it says one."""

    kept: dict[SettingName, str] = Field(default_factory=dict)
    ends: str = ""


class WatchSample(Part):
    """A watch: its requests, and the answers to them. What `resource` leaves out is as its example."""

    resource: dict[SettingName, str] = Field(default_factory=dict)
    before: BeforeSample | None = None
    create: SampleCall
    made: MadeSample
    renew: SampleCall | None = None
    renewed: MadeSample | None = None
    cancel: SampleCall | None = None
    refused: tuple[SampleAnswer, ...] = ()
    """Answers to `create` that made nothing."""


class Sample(Part):
    """`connect.yaml`."""

    request_token: SampleCall | None = None
    requested: tuple[RequestedSample, ...] = ()
    authorize: str = ""
    exchange: SampleCall | None = None
    client: ClientSample | None = None
    longer: SampleCall | None = None
    refresh: SampleCall | None = None
    revoke: SampleCall | None = None
    answers: tuple[TokenSample, ...] = ()
    callback: CallbackSample | None = None
    account: AccountSample | None = None
    choices: ChoicesSample | None = None
    expired: tuple[SampleAnswer, ...] = ()
    not_expired: tuple[SampleAnswer, ...] = ()
    entered: dict[SettingName, EnteredSample] = Field(default_factory=dict)
    watches: dict[SettingName, WatchSample] = Field(default_factory=dict)


def read_sample(folder: Path) -> Sample:
    """The folder's samples. Raises `Misconfigured`."""
    try:
        return Sample.model_validate(loaded((folder / SAMPLES).read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{SAMPLES}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise Misconfigured(f"{SAMPLES}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None

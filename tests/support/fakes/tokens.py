"""What a platform keeps: who logged in, what they allowed, and the secrets that it gave out for it."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.support.provider_hosts import HostRequest

Why = Literal[
    "client", "secret", "style", "grant type",
    "code", "used code", "expired code", "redirect_uri", "verifier",
    "refresh", "used refresh", "expired refresh", "revoked refresh", "scope",
]  # fmt: skip
"""Why a token endpoint refuses. `style`: the client is named in a way that the platform does not take."""


class Refused(Exception):
    """The token endpoint refuses; the provider's own error is made of `why`."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why: Why = why


@dataclass(frozen=True)
class Place:
    """What is connected besides the person: a workspace, a site, a directory, an Official Account."""

    id: str
    name: str


@dataclass(frozen=True)
class Account:
    """Who logs in. Most platforms look at the first place only."""

    id: str
    name: str
    email: str
    places: tuple[Place, ...]

    @property
    def place(self) -> Place:
        """The place that is connected."""
        return self.places[0]


@dataclass(eq=False)
class Grant:
    """What a person allowed the app once. Its tokens end with it."""

    account: Account
    scopes: tuple[str, ...]
    asked: HostRequest
    query: Mapping[str, str]
    first: bool
    """Whether the person had not allowed this app anything when it was asked for."""
    live: bool = True


@dataclass(eq=False)
class Token:
    """A code, an access token or a refresh token; times are in seconds since 1970."""

    value: str
    kind: Literal["code", "access", "refresh"]
    grant: Grant
    ends_at: float
    role: str = ""
    """Which of several that one grant has."""
    used_at: float | None = None
    """When a code or a refresh token was used first."""
    live: bool = True
    mates: list["Token"] = field(default_factory=list)
    """The access tokens that were given out together with a refresh token."""
    replaces: "Token | None" = None

    def state(self, now: float) -> Literal["live", "revoked", "expired"]:
        """What the platform thinks of it, apart from use."""
        if not (self.live and self.grant.live):
            return "revoked"
        return "live" if now < self.ends_at else "expired"


@dataclass(frozen=True)
class Asking:
    """An authorization request that was found right, while the person decides."""

    asked: HostRequest
    query: dict[str, str]
    scopes: tuple[str, ...]


def bearer(asked: HostRequest) -> str:
    """The token of `Authorization: Bearer`; empty without one. One in the address gets into logs: a fault."""
    assert not {"token", "access_token"} & set(asked.query), "the token is in the query"
    scheme, _, value = asked.headers.get("authorization", "").partition(" ")
    return value if scheme == "Bearer" else ""


def credentials(asked: HostRequest) -> tuple[str, str] | None:
    """The client of `Authorization: Basic`."""
    scheme, _, value = asked.headers.get("authorization", "").partition(" ")
    if scheme != "Basic":
        return None
    named, colon, secret = base64.b64decode(value, validate=True).decode().partition(":")
    assert colon, "Authorization: Basic has no colon"
    return named, secret


def s256(verifier: str) -> str:
    """The challenge of a PKCE verifier (RFC 7636, 4.2)."""
    return base64url(hashlib.sha256(verifier.encode()).digest())


def base64url(data: bytes) -> str:
    """Base64 for addresses, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

"""A login at a mail server, and how it can fail, for both protocols."""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.manifests.provider_response import GrantRevoked, ProviderRejected


@dataclass(frozen=True, slots=True)
class MailLogin:
    """Server and credentials of a login. `security` is tls, starttls, or anything else for no encryption."""

    host: str
    port: int
    security: str
    username: str
    password: str = field(repr=False)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def sasl_plain(self) -> bytes:
        """The message of SASL PLAIN (RFC 4616), in base64."""
        return b64encode(f"\0{self.username}\0{self.password}".encode())


def login_refused(codes: Iterable[str]) -> GrantRevoked:
    """Return the error for a rejected login. Of the answer it shows the status codes, never the text."""
    shown = " ".join(codes)
    return GrantRevoked(
        "login_refused", "the mail server rejected user name and password" + (f" ({shown})" if shown else "")
    )


def no_login_mechanism(login: MailLogin) -> ProviderRejected:
    """Return the error for a server without a login by user name and password."""
    return ProviderRejected("no_login", f"{login.address} offers no login by user name and password")


def no_starttls(login: MailLogin) -> ProviderRejected:
    """Return the error for a server without STARTTLS."""
    return ProviderRejected("tls", f"{login.address} offers no STARTTLS")


def protocol_error(detail: str) -> ProviderRejected:
    """Return the error for a server that does not speak the protocol."""
    return ProviderRejected("protocol", f"this is not a mail server of this protocol: {detail}")

"""Settings, one fragment per concern, read from the environment. Topics are code, not settings."""

from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, HttpUrl, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.contracts.errors import Misconfigured
from shared.wire.dns import parse_server
from shared.wire.forwarded import TrustedProxies, parse_networks

S = TypeVar("S", bound=BaseSettings)
_WEB_PORTS: Final = "80,443"


class KafkaSettings(BaseSettings):
    """`KAFKA_*`, by the names that people know."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_", frozen=True)

    bootstrap_servers: str
    """Brokers to begin with, as `host:port`, with commas between."""
    enable_idempotence: bool = True
    """Off only for the embedded broker, which cannot do it."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How the brokers are spoken to: with or without TLS, with or without a login."""
    ssl_cafile: Path | None = None
    """A PEM file of the authorities that sign the brokers' certificates; by default the system's."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How the login goes, with `SASL_...`."""
    sasl_username: str | None = None
    """Whose login."""
    sasl_password: SecretStr | None = None
    """Its password."""
    sasl_password_file: Path | None = None
    """A file that holds the password instead: a mounted secret."""
    answers_held_fetches: bool = True
    """Whether the broker answers a fetch that it holds as soon as something arrives. The embedded one
    does not: with it, a consumer asks more often while there is traffic."""
    replication_factor: Annotated[int, Field(ge=1, le=10)] | None = None
    """Of topics that `interlink init` creates; by default 3, or as many brokers as there are."""
    session_timeout_ms: Annotated[int, Field(ge=2_000, le=300_000)] = 10_000
    """How soon a consumer that was killed, and not started again, is replaced. With the embedded broker one
    that joins waits about half of it."""

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is the embedded one, which has no idempotent producers."""
        return not self.enable_idempotence


class MongoSettings(BaseSettings):
    """`MONGODB_URI`, with the database in its path."""

    model_config = SettingsConfigDict(env_prefix="MONGODB_", frozen=True)

    uri: SecretStr
    """The connection string, with login and options; the database is its path."""
    password_file: Path | None = None
    """A file that holds the login's password, where the connection string has none: a mounted secret."""
    timeout_ms: Annotated[int, Field(ge=100, le=60_000)] = 5_000
    """Milliseconds until the store counts as away, when no server is found or none connects."""


class HubSettings(BaseSettings):
    """`INTERLINK_*`: what every service reads."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    host: str = "127.0.0.1"
    """The address to listen on; `0.0.0.0` for every one."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """The port to listen on, also for `/healthz`, `/readyz` and `/metrics`."""
    public_url: HttpUrl = HttpUrl("http://127.0.0.1:8080")
    """What platforms call: the scheme and host in front of `/api/webhooks/...`."""
    trusted_proxies: str = "127.0.0.1,::1"
    """Reverse proxies and load balancers in front, whose `X-Forwarded-For` is believed: IP addresses and
    networks with commas or blanks between. Name each of a chain; networks of everybody are refused."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    encryption_key: SecretStr | None = None
    """32 bytes in base64; several, comma separated, while a rotation is under way (the first one seals)."""
    encryption_key_file: str | None = None
    """A file that holds the keys instead, with commas or line breaks between: a mounted secret."""
    drain_seconds: Annotated[float, Field(ge=0, le=300)] = 20.0
    """How long a stop may take: half of it for requests, half for the batches at hand."""

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, text: str) -> str:
        parse_networks(text)
        return text

    @property
    def public_base(self) -> str:
        return str(self.public_url).rstrip("/")

    @property
    def proxies(self) -> TrustedProxies:
        """The proxies that are trusted, as the request path asks for them."""
        return TrustedProxies(parse_networks(self.trusted_proxies))


class EgressSettings(BaseSettings):
    """`INTERLINK_*` of a service that calls addresses which others chose."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    allow_private_networks: Literal["none", "loopback", "all"] = "none"
    """Internal addresses that may be called; `loopback` is the embedded default's."""
    egress_ports: str = _WEB_PORTS
    """The ports that may be called, with commas between, or `any`, which is the embedded default."""
    egress_proxy: Annotated[str | None, Field(pattern=r"^http://\S+$")] = None
    """An HTTP proxy that every call goes through."""
    egress_ca_file: str | None = None
    """A PEM file of certificate authorities to trust beside the system's."""
    dns_servers: str = ""
    """DNS servers that names are looked up at, as `address` or `address:port` with commas between; by default
    the system's (`/etc/resolv.conf`). Its search domains are not used: names are absolute."""

    @field_validator("dns_servers")
    @classmethod
    def _dns_servers(cls, text: str) -> str:
        try:
            _parse_servers(text)
        except ValueError:
            raise ValueError("addresses with commas between, as 10.0.0.2,10.0.0.3:5353") from None
        return text

    @property
    def name_servers(self) -> tuple[tuple[str, int], ...]:
        """The DNS servers to ask as address and port; none for the system's."""
        return _parse_servers(self.dns_servers)

    @field_validator("egress_ports")
    @classmethod
    def _ports(cls, text: str) -> str:
        if text != "any" and not all(_is_port(part) for part in text.split(",")):
            raise ValueError("ports with commas between, as 80,443; or any")
        return text

    @property
    def ports(self) -> frozenset[int] | None:
        """The ports that may be called; None for any."""
        if self.egress_ports == "any":
            return None
        return frozenset(int(part) for part in self.egress_ports.split(","))


def _parse_servers(text: str) -> tuple[tuple[str, int], ...]:
    """Raises `ValueError`."""
    return tuple(parse_server(part.strip()) for part in text.split(",") if part.strip())


def read_secret_file(file: Path, variable: str) -> str:
    """Return what a mounted secret holds, without line breaks at its end. Raises `Misconfigured`."""
    try:
        text = file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise Misconfigured(f"{variable}: {file} cannot be read: {error}") from None
    if not text:
        raise Misconfigured(f"{variable}: {file} is empty")
    return text


def _is_port(text: str) -> bool:
    text = text.strip()
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def load(kind: type[S]) -> S:
    """The settings of this kind from the environment.

    Raises `Misconfigured` with one line that names the variable and what is wrong with it.
    """
    prefix = kind.model_config.get("env_prefix", "")
    try:
        return kind()
    except SettingsError as error:  # its text is: error parsing value for field "name" from source ...
        name = str(error).partition('"')[2].partition('"')[0]
        raise Misconfigured(f"{prefix}{name}".upper() + ": must be JSON") from None
    except ValidationError as error:
        faults = [
            f"{prefix}{'_'.join(str(part) for part in fault['loc'])}".upper() + f": {fault['msg']}"
            for fault in error.errors(include_input=False)
        ]
        raise Misconfigured("; ".join(faults)) from None

"""Settings from the environment, one class per concern. `docs/settings.md` shows the descriptions."""

from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.contracts.errors import Misconfigured
from shared.wire.dns import parse_server
from shared.wire.forwarded import TrustedProxies, parse_networks
from shared.wire.origins import parse_origin

S = TypeVar("S", bound=BaseSettings)
_WEB_PORTS: Final = "80,443"


class KafkaSettings(BaseSettings):
    """`KAFKA_*`: the connection to Kafka, by the names of Kafka's own options."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_", frozen=True)

    bootstrap_servers: str = Field(description="Bootstrap servers as `host:port`, separated by commas.")
    enable_idempotence: bool = Field(
        default=True,
        description=(
            "Whether producers are idempotent. Off only for the embedded broker, which does not support it."
        ),
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="The protocol of the brokers: with or without TLS, with or without a login.",
    )
    ssl_cafile: Path | None = Field(
        default=None,
        description=(
            "A PEM file with the authorities of the brokers' certificates; by default the system's "
            "authorities."
        ),
    )
    ssl_certfile: Path | None = Field(
        default=None,
        description=(
            "A PEM file with the client's certificate and its chain, for brokers that require one (mTLS)."
        ),
    )
    ssl_keyfile: Path | None = Field(
        default=None,
        description=(
            "A PEM file with the private key of that certificate, without a passphrase; by default it is in "
            "the same file."
        ),
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="The mechanism of the login, for the protocols `SASL_...`."
    )
    sasl_username: str | None = Field(default=None, description="The user name of the login.")
    sasl_password: SecretStr | None = Field(default=None, description="The password of the login.")
    sasl_password_file: Path | None = Field(
        default=None, description="A file that contains the password instead: a mounted secret."
    )
    client_rack: str | None = Field(
        default=None,
        max_length=249,
        description=(
            "The rack or zone of this process, as in `broker.rack`: consumers fetch from a replica there, if "
            "the brokers have a rack-aware `replica.selector.class`. By default they fetch from the leaders."
        ),
    )
    answers_held_fetches: bool = Field(
        default=True,
        description=(
            "Whether the broker answers a waiting fetch as soon as a record arrives. The embedded broker "
            "does not: with it, a consumer pauses between its fetches instead."
        ),
    )
    wake_folder: Path | None = Field(
        default=None,
        description=(
            "A folder of this machine in which producers wake the consumers, for the embedded broker; "
            "`interlink up` sets it. Without it, a consumer that had nothing to do notices a record after up "
            "to a second."
        ),
    )
    replication_factor: Annotated[int, Field(ge=1, le=10)] | None = Field(
        default=None,
        description=(
            "Replicas of the topics that `interlink init` creates; by default 3, or one per broker if fewer."
        ),
    )
    session_timeout_ms: int = Field(
        default=10_000,
        ge=2_000,
        le=300_000,
        description=(
            "Milliseconds until the partitions of a killed consumer that is not started again are "
            "reassigned. With the embedded broker, a consumer that joins waits about half of it."
        ),
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers(cls, text: str) -> str:
        if not all(_is_server(part.strip()) for part in text.split(",")):
            raise ValueError(
                "must be host:port, several separated by commas, such as kafka-1:9092,kafka-2:9092"
            )
        return text

    @property
    def is_embedded(self) -> bool:
        """True if the broker is the embedded one, which has no idempotent producers."""
        return not self.enable_idempotence


class MongoSettings(BaseSettings):
    """`MONGODB_*`: the connection to MongoDB."""

    model_config = SettingsConfigDict(env_prefix="MONGODB_", frozen=True)

    uri: SecretStr = Field(
        description="The connection string, with login and options. Its path is the database."
    )
    password_file: Path | None = Field(
        default=None,
        description=(
            "A file that contains the password, if the connection string has none: a mounted secret."
        ),
    )
    timeout_ms: int = Field(
        default=5_000,
        ge=100,
        le=60_000,
        description=(
            "Milliseconds until MongoDB counts as unavailable, if no server is found or none connects."
        ),
    )


class HubSettings(BaseSettings):
    """`INTERLINK_*`: the settings that every service reads."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    host: str = Field(
        default="127.0.0.1", description="The address to listen on; `0.0.0.0` for all addresses."
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        description="The port to listen on, also for `/healthz`, `/readyz` and `/metrics`.",
    )
    public_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8080"),
        description="The URL that providers call: scheme and host in front of `/api/webhooks/...`.",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        description=(
            "Reverse proxies and load balancers whose `X-Forwarded-For` is trusted: IP addresses and "
            "networks, separated by commas or blanks. Name each proxy of a chain. Networks of all addresses "
            "are refused."
        ),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged."
    )
    encryption_key: SecretStr | None = Field(
        default=None,
        description=(
            "The master key, 32 bytes in base64. During a rotation several, separated by commas: the first "
            "seals."
        ),
    )
    encryption_key_file: str | None = Field(
        default=None,
        description=(
            "A file that contains the keys instead, separated by commas or line breaks: a mounted secret."
        ),
    )
    operator_workspace: str = Field(
        default="default",
        description=(
            "The workspace whose admin keys may manage workspaces, and set the OAuth apps and default "
            "endpoints of the whole installation."
        ),
    )
    audit_days: int = Field(
        default=365, ge=1, le=3650, description="How long entries of the audit log are stored, in days."
    )
    audit_entries_per_workspace: int = Field(
        default=100_000,
        ge=100,
        le=10_000_000,
        description=(
            "The maximum number of entries in the audit log of one workspace. Beyond it, the oldest are "
            "removed."
        ),
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        le=300,
        description=(
            "The maximum duration of a stop in seconds: half of it for requests, half for the current "
            "batches."
        ),
    )

    trace_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "The share of requests whose traces are recorded, from 0 (off) to 1 (all). Above 0 it needs the "
            "extra `otel`; the collector is set by `OTEL_EXPORTER_OTLP_ENDPOINT`."
        ),
    )

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
        """The trusted proxies, parsed."""
        return TrustedProxies(parse_networks(self.trusted_proxies))


class EgressSettings(BaseSettings):
    """`INTERLINK_*`: the settings of services that call addresses which others chose."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    allow_private_networks: Literal["none", "loopback", "all"] = Field(
        default="none", description="Internal addresses that may be called; `interlink up` allows `loopback`."
    )
    egress_ports: str = Field(
        default=_WEB_PORTS,
        description=(
            "The ports that may be called, separated by commas, or `any`, which `interlink up` sets."
        ),
    )
    egress_proxy: str | None = Field(
        default=None, pattern=r"^http://\S+$", description="An HTTP proxy for all calls."
    )
    egress_ca_file: str | None = Field(
        default=None, description="A PEM file with certificate authorities to trust beside the system's."
    )
    dns_servers: str = Field(
        default="",
        description=(
            "DNS servers, as `address` or `address:port`, separated by commas; by default the system's "
            "(`/etc/resolv.conf`). Search domains are not used: names are absolute."
        ),
    )

    @field_validator("dns_servers")
    @classmethod
    def _dns_servers(cls, text: str) -> str:
        try:
            _parse_servers(text)
        except ValueError:
            raise ValueError(
                "must be addresses separated by commas, such as 10.0.0.2,10.0.0.3:5353"
            ) from None
        return text

    @property
    def name_servers(self) -> tuple[tuple[str, int], ...]:
        """The DNS servers as address and port; empty for the system's."""
        return _parse_servers(self.dns_servers)

    @field_validator("egress_ports")
    @classmethod
    def _ports(cls, text: str) -> str:
        if text != "any" and not all(_is_port(part) for part in text.split(",")):
            raise ValueError("must be ports separated by commas, such as 80,443, or 'any'")
        return text

    @property
    def ports(self) -> frozenset[int] | None:
        """The ports that may be called; None for any."""
        if self.egress_ports == "any":
            return None
        return frozenset(int(part) for part in self.egress_ports.split(","))


def _parse_servers(text: str) -> tuple[tuple[str, int], ...]:
    """Parse DNS servers that are separated by commas. Raises `ValueError`."""
    return tuple(parse_server(part.strip()) for part in text.split(",") if part.strip())


def read_secret_file(file: Path, variable: str) -> str:
    """Return the text of a mounted secret, without line breaks at its end.

    Raises `Misconfigured` with the name of the variable if the file cannot be read or is empty.
    """
    try:
        text = file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise Misconfigured(f"{variable}: {file} cannot be read: {error}") from None
    if not text:
        raise Misconfigured(f"{variable}: {file} is empty")
    return text


def _is_server(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and "/" not in host and not any(map(str.isspace, host)) and _is_port(port)


def _is_port(text: str) -> bool:
    text = text.strip()
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def load(settings_class: type[S]) -> S:
    """Return the settings of a class from the environment.

    Raises `Misconfigured` with one line that names each wrong variable and what is wrong with it.
    """
    prefix = settings_class.model_config.get("env_prefix", "")
    try:
        return settings_class()
    except SettingsError as error:  # its text is: error parsing value for field "name" from source ...
        name = str(error).partition('"')[2].partition('"')[0]
        raise Misconfigured(f"{prefix}{name}".upper() + ": must be JSON") from None
    except ValidationError as error:
        errors = [
            f"{prefix}{'_'.join(str(part) for part in detail['loc'])}".upper() + f": {detail['msg']}"
            for detail in error.errors(include_input=False)
        ]
        raise Misconfigured("; ".join(errors)) from None


class ChatSettings(BaseSettings):
    """`INTERLINK_*`: the chat that the hub belongs to, for the pages that its users see."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    return_origins: str = Field(
        default="",
        description="Origins that a person may be sent back to, beside the hub's own, separated by commas.",
    )
    chat_name: str = Field(
        default="",
        max_length=60,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="The chat's name on the pages that people see when they connect an account.",
    )
    chat_url: str = Field(
        default="",
        max_length=2000,
        description="The address of the link on these pages that leads back to the chat.",
    )

    @field_validator("return_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        return ",".join(parse_origin(part) for part in text.split(",") if part.strip())

    @field_validator("chat_url")
    @classmethod
    def _chat_url(cls, text: str) -> str:
        if not text:
            return text
        parts = urlsplit(text)
        if (
            parts.scheme not in ("https", "http")
            or not parts.hostname
            or "@" in parts.netloc
            or not text.isprintable()
        ):
            raise ValueError(f"{text} is not an address such as https://chat.example.com/settings")
        return text

    @property
    def origins(self) -> frozenset[str]:
        """The allowed origins: scheme, host and port, as browsers write them."""
        return frozenset(filter(None, self.return_origins.split(",")))

"""The settings of the oauth service."""

from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl, field_validator

from shared.runtime.settings import EgressSettings

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class OAuthSettings(EgressSettings):
    """The `INTERLINK_*` environment variables that only the oauth service reads."""

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
    gateway_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8080"),
        description="The gateway's address, for creating the inbound endpoints of provider subscriptions.",
    )
    upkeep_every_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description=(
            "The interval in which due integrations and provider subscriptions are processed, in seconds."
        ),
    )

    polling_triggers_per_workspace: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="The maximum number of polling triggers of one workspace.",
    )

    @field_validator("return_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        return ",".join(_origin(part) for part in text.split(",") if part.strip())

    @field_validator("chat_url")
    @classmethod
    def _chat_url(cls, text: str) -> str:
        if not text:
            return text
        parts = urlsplit(text)
        if (
            parts.scheme not in _DEFAULT_PORTS
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


def _origin(text: str) -> str:
    """Return the origin in lower case, without its scheme's default port. Raises `ValueError`."""
    parts = urlsplit(text.strip().lower())
    host, error = (
        parts.netloc,
        ValueError(f"{text.strip()} is not an origin such as https://chat.example.com"),
    )
    if parts.scheme not in _DEFAULT_PORTS or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise error
    if not parts.hostname or not host.isascii() or parts.port == 0 or set(host) & set("@*\\ "):
        raise error
    return f"{parts.scheme}://{host.removesuffix(f':{_DEFAULT_PORTS[parts.scheme]}')}"

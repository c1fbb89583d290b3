"""The delivery service's own settings."""

from typing import Annotated, Final, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_WEB_PORTS: Final = "80,443"


class DeliverySettings(BaseSettings):
    """`INTERLINK_*` that only delivery reads."""

    model_config = SettingsConfigDict(env_prefix="INTERLINK_", frozen=True)

    allow_private_networks: Literal["none", "loopback", "all"] = "none"
    """Internal addresses that deliveries may go to; `loopback` is the embedded default's."""
    allow_http: bool = False
    """Whether an outgoing webhook may have a URL without TLS; true in the embedded default."""
    egress_ports: str = _WEB_PORTS
    """The ports that deliveries may go to, with commas between, or `any`, which is the embedded default."""
    egress_proxy: Annotated[str | None, Field(pattern=r"^http://\S+$")] = None
    """An HTTP proxy that every delivery goes through."""
    egress_ca_file: str | None = None
    """A PEM file of certificate authorities to trust beside the system's."""
    webhooks_per_workspace: Annotated[int, Field(ge=1, le=100_000)] = 500
    most_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """Attempts under way at a time in this process, over all outgoing webhooks."""
    breaker_failures: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Failures in a row after which an endpoint gets only probes."""
    breaker_open_s: Annotated[float, Field(ge=0.1, le=3600)] = 30
    """Seconds before the first probe; each later pause is twice as long, up to ten times."""
    delivered_days: Annotated[int, Field(ge=1, le=365)] = 7
    dead_letter_days: Annotated[int, Field(ge=1, le=365)] = 30

    @field_validator("egress_ports")
    @classmethod
    def _ports(cls, text: str) -> str:
        if text != "any" and not all(_is_port(part) for part in text.split(",")):
            raise ValueError("ports with commas between, as 80,443; or any")
        return text

    @property
    def ports(self) -> frozenset[int] | None:
        """The ports that deliveries may go to; None for any."""
        if self.egress_ports == "any":
            return None
        return frozenset(int(part) for part in self.egress_ports.split(","))


def _is_port(text: str) -> bool:
    text = text.strip()
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536

"""The oauth service's own settings."""

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl, field_validator

from shared.runtime.settings import EgressSettings

_PORTS: Final = {"https": 443, "http": 80}


class OAuthSettings(EgressSettings):
    """`INTERLINK_*` that the oauth service reads."""

    return_origins: str = ""
    """Origins that a person may be sent back to beside the hub's own, with commas between."""
    chat_name: Annotated[str, Field(max_length=60, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    """What the chat is called on the pages that people see who connect an account."""
    chat_url: Annotated[str, Field(max_length=2000)] = ""
    """Where the link on these pages leads: back to the chat."""
    operator_workspace: str = "default"
    """The workspace whose admin keys may set platform credentials of the whole installation."""
    gateway_url: HttpUrl = HttpUrl("http://127.0.0.1:8080")
    """Where the gateway is, for the endpoints that watches need."""
    upkeep_every_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How often it is looked for integrations that something is due for."""

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
        if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or not text.isprintable():
            raise ValueError(f"{text} is not an address, as https://chat.example.com/settings")
        return text

    @property
    def origins(self) -> frozenset[str]:
        """Scheme, host and port, as browsers write them."""
        return frozenset(filter(None, self.return_origins.split(",")))


def _origin(text: str) -> str:
    """The origin in lower case, without the port that its scheme has anyway. Raises `ValueError`."""
    parts = urlsplit(text.strip().lower())
    host, wrong = parts.netloc, ValueError(f"{text.strip()} is not an origin, as https://chat.example.com")
    if parts.scheme not in _PORTS or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise wrong
    if not parts.hostname or not host.isascii() or parts.port == 0 or set(host) & set("@*\\ "):
        raise wrong
    return f"{parts.scheme}://{host.removesuffix(f':{_PORTS[parts.scheme]}')}"

"""Authenticate an outgoing webhook beside its signature: basic, bearer, a header, a certificate."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.runtime.egress.certificates import ClientCertificate, parse_client_certificate


@dataclass(frozen=True, slots=True)
class WebhookAuth:
    """Authentication of an attempt's request: headers with secret values, or a client certificate."""

    headers: Mapping[str, str] = field(default_factory=dict)
    certificate: ClientCertificate | None = None


def webhook_auth(settings: Mapping[str, Any]) -> WebhookAuth:
    """Return the authentication of these settings; empty settings mean none.

    Raises `Malformed` if the certificate or its key is not valid.
    """
    match settings.get("type", "none"):
        case "basic":
            pair = f"{settings['username']}:{settings['password']}".encode()
            return WebhookAuth({"Authorization": "Basic " + b64encode(pair).decode()})
        case "bearer":
            return WebhookAuth({"Authorization": f"Bearer {settings['token']}"})
        case "header":
            return WebhookAuth({settings["name"]: settings["value"]})
        case "mtls":
            return WebhookAuth(
                certificate=parse_client_certificate(settings["certificate"], settings["private_key"])
            )
        case _:
            return WebhookAuth()

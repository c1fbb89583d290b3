"""What every Kafka client of the hub is given to connect."""

import ssl
from typing import Any

from shared.contracts.errors import Misconfigured
from shared.runtime.settings import KafkaSettings


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Aiokafka's connection arguments. Raises `Misconfigured` for a CA file that cannot be read."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 60_000,
    }
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        try:
            arguments["ssl_context"] = ssl.create_default_context(cafile=settings.ssl_cafile)
        except (OSError, ssl.SSLError) as error:
            raise Misconfigured(f"KAFKA_SSL_CAFILE: {error}") from None
    if settings.security_protocol.startswith("SASL"):
        if not settings.sasl_username or settings.sasl_password is None:
            raise Misconfigured("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are required with SASL")
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return arguments

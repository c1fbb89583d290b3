"""What every Kafka client of the hub is given to connect: as aiokafka's arguments and as FastStream's."""

import ssl
from typing import Any, Final

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.contracts.errors import Misconfigured
from shared.runtime.settings import KafkaSettings, read_secret_file

_COMMON: Final = {"retry_backoff_ms": 100, "metadata_max_age_ms": 60_000}
_SASL: Final = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Aiokafka's connection arguments. Raises `Misconfigured` for a CA file that cannot be read."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        **_COMMON,
    }
    if _tls(settings):
        arguments["ssl_context"] = _context(settings)
    if _sasl(settings):
        username, password = _credentials(settings)
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return arguments


def broker_connection(settings: KafkaSettings) -> dict[str, Any]:
    """The same for a FastStream broker. Raises `Misconfigured`."""
    context = _context(settings) if _tls(settings) else None
    security: BaseSecurity | None = None
    if _sasl(settings):
        username, password = _credentials(settings)
        kind = _SASL[settings.sasl_mechanism]
        security = kind(username, password, ssl_context=context, use_ssl=context is not None)
    elif context:
        security = BaseSecurity(ssl_context=context, use_ssl=True)
    return {"bootstrap_servers": settings.bootstrap_servers, "security": security, **_COMMON}


def _tls(settings: KafkaSettings) -> bool:
    return settings.security_protocol in ("SSL", "SASL_SSL")


def _sasl(settings: KafkaSettings) -> bool:
    return settings.security_protocol.startswith("SASL")


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ssl_cafile)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"KAFKA_SSL_CAFILE: {error}") from None


def _credentials(settings: KafkaSettings) -> tuple[str, str]:
    username, password, file = settings.sasl_username, settings.sasl_password, settings.sasl_password_file
    if not username or (password is None and file is None):
        raise Misconfigured("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD (or _FILE) are required with SASL")
    if password is not None:
        return username, password.get_secret_value()
    assert file is not None  # noqa: S101 -- one of both is there
    return username, read_secret_file(file, "KAFKA_SASL_PASSWORD_FILE")

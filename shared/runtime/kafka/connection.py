"""The connection arguments of every Kafka client of the hub, for aiokafka and for FastStream."""

import ssl
from typing import Any, Final

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.contracts.errors import Misconfigured
from shared.runtime.settings import KafkaSettings, read_secret_file

_COMMON: Final = {"retry_backoff_ms": 100, "metadata_max_age_ms": 60_000}
_SASL_CLASSES: Final = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments of an aiokafka client.

    Raises `Misconfigured` if the CA file or the password file cannot be read, or if a login is missing.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        **_COMMON,
    }
    if _uses_tls(settings):
        arguments["ssl_context"] = _tls_context(settings)
    if _uses_sasl(settings):
        username, password = _credentials(settings)
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return arguments


def broker_connection(settings: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments of a FastStream broker. Raises `Misconfigured` as `connection`."""
    context = _tls_context(settings) if _uses_tls(settings) else None
    security: BaseSecurity | None = None
    if _uses_sasl(settings):
        username, password = _credentials(settings)
        security_class = _SASL_CLASSES[settings.sasl_mechanism]
        security = security_class(username, password, ssl_context=context, use_ssl=context is not None)
    elif context:
        security = BaseSecurity(ssl_context=context, use_ssl=True)
    return {"bootstrap_servers": settings.bootstrap_servers, "security": security, **_COMMON}


def _uses_tls(settings: KafkaSettings) -> bool:
    return settings.security_protocol in ("SSL", "SASL_SSL")


def _uses_sasl(settings: KafkaSettings) -> bool:
    return settings.security_protocol.startswith("SASL")


def _tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ssl_cafile)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"KAFKA_SSL_CAFILE: {error}") from None


def _credentials(settings: KafkaSettings) -> tuple[str, str]:
    """Return user name and password. Raises `Misconfigured` if one is missing."""
    username, password, file = settings.sasl_username, settings.sasl_password, settings.sasl_password_file
    if not username or (password is None and file is None):
        raise Misconfigured("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD (or _FILE) are required with SASL")
    if password is not None:
        return username, password.get_secret_value()
    assert file is not None  # noqa: S101 -- checked above: one of the two is set
    return username, read_secret_file(file, "KAFKA_SASL_PASSWORD_FILE")

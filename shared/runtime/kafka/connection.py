"""The connection arguments of every Kafka client of the hub, for aiokafka and for FastStream."""

import ssl
from typing import Any, Final

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.contracts.errors import Misconfigured
from shared.runtime.kafka import closed_connections
from shared.runtime.settings import KafkaSettings, read_secret_file

_COMMON: Final = {"retry_backoff_ms": 100, "metadata_max_age_ms": 60_000}
_SASL_CLASSES: Final = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}

closed_connections.install()


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments of an aiokafka client.

    Raises `Misconfigured` if a file cannot be used, a login is incomplete, or a setting has no effect with
    the protocol: a connection without the TLS or login that somebody has set up must not go unnoticed.
    """
    _check_protocol(settings)
    arguments: dict[str, Any] = {
        "bootstrap_servers": _servers(settings),
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
    _check_protocol(settings)
    context = _tls_context(settings) if _uses_tls(settings) else None
    security: BaseSecurity | None = None
    if _uses_sasl(settings):
        username, password = _credentials(settings)
        security_class = _SASL_CLASSES[settings.sasl_mechanism]
        security = security_class(username, password, ssl_context=context, use_ssl=context is not None)
    elif context:
        security = BaseSecurity(ssl_context=context, use_ssl=True)
    return {"bootstrap_servers": _servers(settings), "security": security, **_COMMON}


def _servers(settings: KafkaSettings) -> list[str]:
    # A list, because FastStream takes a text for the address of one server.
    return [server.strip() for server in settings.bootstrap_servers.split(",")]


def _uses_tls(settings: KafkaSettings) -> bool:
    return settings.security_protocol in ("SSL", "SASL_SSL")


def _uses_sasl(settings: KafkaSettings) -> bool:
    return settings.security_protocol.startswith("SASL")


def _check_protocol(settings: KafkaSettings) -> None:
    """Raise `Misconfigured` if a setting is for TLS or a login, and the protocol has none."""
    protocol = settings.security_protocol
    if not _uses_tls(settings):
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            if getattr(settings, name) is not None:
                raise Misconfigured(
                    f"KAFKA_{name.upper()} is set, but KAFKA_SECURITY_PROTOCOL={protocol} has no TLS: "
                    "set it to SSL or SASL_SSL, or remove the file"
                )
    if not _uses_sasl(settings):
        for name in ("sasl_username", "sasl_password", "sasl_password_file"):
            if getattr(settings, name) is not None:
                raise Misconfigured(
                    f"KAFKA_{name.upper()} is set, but KAFKA_SECURITY_PROTOCOL={protocol} has no login: "
                    "set it to SASL_SSL (or SASL_PLAINTEXT), or remove the login"
                )


def _tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return the TLS context of a client. Raises `Misconfigured` if a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:  # `ssl.SSLError` is one
        raise Misconfigured(
            f"KAFKA_SSL_CAFILE: {settings.ssl_cafile} {_file_problem(error, 'no certificate in PEM')}: "
            "give the PEM file of the authority that signed the brokers' certificates"
        ) from None
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if certificate is None:
        if key is not None:
            raise Misconfigured("KAFKA_SSL_KEYFILE is set: set KAFKA_SSL_CERTFILE too, to its certificate")
        return context
    for variable, file in (("KAFKA_SSL_CERTFILE", certificate), ("KAFKA_SSL_KEYFILE", key)):
        if file is not None:
            read_secret_file(file, variable)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_passphrase)
    except OSError as error:
        raise Misconfigured(
            f"KAFKA_SSL_CERTFILE: {certificate} {_file_problem(error, 'no certificate with a key in PEM')}: "
            "give a certificate, and in KAFKA_SSL_KEYFILE the private key that belongs to it"
        ) from None
    return context


def _refuse_passphrase() -> str:
    # Without this, OpenSSL would ask at the terminal.
    raise Misconfigured(
        "KAFKA_SSL_KEYFILE: the private key has a passphrase: store it without one, in a file that only the "
        "service can read ('openssl pkey -in KEY -out NEW_KEY')"
    )


def _file_problem(error: OSError, wrong: str) -> str:
    """Return what is wrong with a file: `wrong`, if it could be read."""
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "does not belong to the private key"
        return f"has {wrong}"
    return f"cannot be read: {error.strerror or error}"


def _credentials(settings: KafkaSettings) -> tuple[str, str]:
    """Return user name and password. Raises `Misconfigured` if one is missing."""
    username, password, file = settings.sasl_username, settings.sasl_password, settings.sasl_password_file
    if not username or (password is None and file is None):
        raise Misconfigured(
            f"KAFKA_SECURITY_PROTOCOL={settings.security_protocol} needs a login: set KAFKA_SASL_USERNAME "
            "and KAFKA_SASL_PASSWORD (or KAFKA_SASL_PASSWORD_FILE)"
        )
    if password is not None:
        return username, password.get_secret_value()
    assert file is not None  # noqa: S101 -- checked above: one of the two is set
    return username, read_secret_file(file, "KAFKA_SASL_PASSWORD_FILE")

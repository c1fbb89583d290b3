"""Say what Kafka refuses, and how to repair it: rights that a user lacks, and connections that fail."""

import asyncio
import ssl
from typing import Final

from aiokafka.client import collect_hosts
from aiokafka.conn import create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from shared.runtime.kafka.connection import connection
from shared.runtime.settings import KafkaSettings

ADD_ACLS: Final = "add the ACLs that docs/reference/kafka-acls.md lists for it"
_AUTHORIZATION_ERRORS: Final = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
)
_CONNECT_TIMEOUT_S: Final = 5.0


def missing_right(settings: KafkaSettings, error: BaseException, right: str, group: str = "") -> str | None:
    """Return which right the user lacks, and what to do; None if the error is of another kind.

    `right` is what the failed call needs, such as "Write on topic x". `group` is that of a consumer, which
    may lack the right to its group instead.
    """
    refused: BaseException | None = error
    while refused is not None and not isinstance(refused, _AUTHORIZATION_ERRORS):
        refused = refused.__cause__ or refused.__context__
    if refused is None:
        return None
    if isinstance(refused, GroupAuthorizationFailedError):
        right = f"Read on group {group}"
    user = repr(settings.sasl_username) if settings.sasl_username else "of this connection"
    return f"the Kafka user {user} lacks the right {right}: {ADD_ACLS}"


async def explain(settings: KafkaSettings, error: BaseException, right: str) -> str:
    """Return what is wrong, and what to do, for an error of a client that could not start or was refused.

    `right` is as for `missing_right`.
    """
    if text := missing_right(settings, error, right):
        return text
    if isinstance(error, KafkaConnectionError):
        return await _connection_problem(settings)
    return f"no Kafka broker at {settings.bootstrap_servers}: {error or type(error).__name__}"


async def _connection_problem(settings: KafkaSettings) -> str:
    """Connect to the bootstrap servers, and return why none can be used, and what to do.

    The error of a client that could not start says nothing about the reason.
    """
    arguments = {
        name: value
        for name, value in connection(settings).items()
        if name.startswith(("security_", "ssl_", "sasl_"))
    }

    async def try_out(host: str, port: int) -> str:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                client = await create_conn(host, port, **arguments)
                try:
                    await client.send(MetadataRequest([]))  # the first one that needs a login
                finally:
                    client.close()
        except (KafkaError, OSError, TimeoutError, ValueError) as error:
            return _problem(settings, error)
        return "it accepts connections, but has no brokers to offer yet: try again"

    servers = [(host, port) for host, port, _ in collect_hosts(settings.bootstrap_servers)]
    addresses: dict[str, list[str]] = {}
    for (host, port), problem in zip(
        servers, await asyncio.gather(*(try_out(*server) for server in servers)), strict=True
    ):
        addresses.setdefault(problem, []).append(f"{host}:{port}")
    return "; ".join(
        f"no Kafka broker at {', '.join(sorted(of_problem))}: {problem}"
        for problem, of_problem in addresses.items()
    )


def _problem(settings: KafkaSettings, error: BaseException) -> str:
    """Return what is wrong with a connection, and what to do."""
    protocol = settings.security_protocol
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted ({error.verify_message}): set KAFKA_SSL_CAFILE to the "
            "authority that signed it, and name the brokers as their certificates do"
        )
    if isinstance(error, ssl.SSLError):
        return (
            f"the TLS handshake failed ({error.reason or error}): check that this port has TLS, as "
            f"KAFKA_SECURITY_PROTOCOL={protocol} says, and KAFKA_SSL_CERTFILE if it asks for a certificate"
        )
    if isinstance(error, SaslAuthenticationFailed | ValueError):  # the latter: a proof of SCRAM is wrong
        return (
            f"it refuses the login of {settings.sasl_username!r} by {settings.sasl_mechanism}: check "
            "KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD (or _FILE) and KAFKA_SASL_MECHANISM"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"it does not support {settings.sasl_mechanism}: set KAFKA_SASL_MECHANISM to one that it does"
    if isinstance(error, IllegalSaslStateError | KafkaConnectionError) and not isinstance(error, OSError):
        certificate = ", and whether it asks for a certificate (KAFKA_SSL_CERTFILE)" * (protocol == "SSL")
        return (
            f"it closed the connection: check that KAFKA_SECURITY_PROTOCOL={protocol} is what this port has"
            + certificate
        )
    if isinstance(error, TimeoutError):
        return "it does not answer: check KAFKA_BOOTSTRAP_SERVERS, KAFKA_SECURITY_PROTOCOL and the network"
    return f"{error or type(error).__name__}: check KAFKA_BOOTSTRAP_SERVERS, and that the broker runs"

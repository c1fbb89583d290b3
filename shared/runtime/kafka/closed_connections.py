"""Make aiokafka notice a connection that uvloop has closed.

uvloop closes the transport of a connection that was reset some callbacks before aiokafka learns of it. What
is sent in between raises `RuntimeError`, which aiokafka does not expect (its issue 1038). If that happens to
the task that updates metadata, the task ends, and its client waits for metadata for ever: a consumer takes
part in no rebalance any more, but handles what it goes on to fetch, beside the members that got its
partitions.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_SENDS: Final = ("send", "_send_sasl_token")


def install() -> None:
    """Make a write to a closed Kafka connection of this process raise `KafkaConnectionError`."""
    for name in _SENDS:
        setattr(AIOKafkaConnection, name, _checked(getattr(AIOKafkaConnection, name)))


def _checked(send: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(send)
    def checked(connection: AIOKafkaConnection, *arguments: Any, **options: Any) -> Any:
        try:
            return send(connection, *arguments, **options)
        except RuntimeError as error:
            writer = connection._writer
            if writer is None or not writer.transport.is_closing():
                raise
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
            raise KafkaConnectionError(
                f"{connection.host}:{connection.port} closed the connection"
            ) from error

    return checked

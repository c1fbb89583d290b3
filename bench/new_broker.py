"""Measurements on a new embedded broker."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path

from interlink.embedded import EmbeddedServer, broker, broker_settings, kafka_bootstrap
from interlink.supervise import ProcessGroup


def measure_on_new_broker(measure: Callable[[EmbeddedServer], Coroutine[None, None, None]]) -> None:
    """Await `measure` with a new broker, in a folder that is removed afterwards.

    The environment has the settings of the broker from then on.
    """
    group = ProcessGroup()
    with tempfile.TemporaryDirectory() as folder:
        server = broker(Path(folder), group)
        os.environ |= {
            "KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap(server.port),
            **broker_settings(Path(folder)),
        }
        server.start()
        try:
            asyncio.run(measure(server))
        finally:
            server.stop()
            group.close()

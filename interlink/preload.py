"""Import and read what every service needs to get ready, for the fork server: see `fork_server`.

Nothing here may start a thread, open a connection or read a setting.
"""

import contextlib
from importlib import import_module

from shared.contracts.errors import Misconfigured
from shared.manifests.registry import registry

for module in (
    "interlink.exits",
    "interlink.prepare",
    "services.console.app",
    "services.delivery.app",
    "services.gateway.app",
    "services.importer.app",
    "services.oauth.app",
    "services.sync.app",
    # What libraries import when they are first used.
    "anyio._backends._asyncio",
    "httpcore",
    "pydantic.v1",
    "pymongo.asynchronous.auth",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.websockets.auto",
    "uvloop",
):
    import_module(module)

with contextlib.suppress(Misconfigured):  # a service says what is wrong
    for loaded in (registry().providers, registry().connectors):
        dict(loaded)  # each is read and compiled on first use

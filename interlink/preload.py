"""What every service has imported and read when it is ready, for the fork server: see `fork_server`.

Nothing here may start a thread, open a connection or read a setting.
"""

import contextlib

import httpcore  # noqa: F401 -- imported by httpx with the first client
import pydantic.v1  # noqa: F401 -- imported by FastAPI with the first route

import interlink.cli
import interlink.prepare  # noqa: F401 -- bound by the line before
import services.delivery.app
import services.gateway.app
import services.oauth.app
import services.sync.app  # noqa: F401
from shared.contracts.errors import Misconfigured
from shared.manifests.registry import registry

with contextlib.suppress(Misconfigured):  # a service says what is wrong
    for loaded in (registry().providers, registry().connectors):
        dict(loaded)  # each is read and compiled on first use

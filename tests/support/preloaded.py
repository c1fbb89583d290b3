"""What every service has imported and read when it is ready; see `services.py`."""

import gc

gc.disable()  # nothing that is imported goes away

import services.delivery.app  # noqa: E402
import services.gateway.app  # noqa: E402
import services.oauth.app  # noqa: E402
import services.sync.app  # noqa: E402, F401
from shared.manifests.registry import registry  # noqa: E402

for loaded in (registry().providers, registry().connectors):
    dict(loaded)  # each is read and compiled on first use
gc.freeze()  # the pages that the children share are not written to
gc.enable()

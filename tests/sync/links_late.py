"""A sync service that is broken on purpose: it links what it has sent late, after the target's state.

`python -m tests.sync.links_late sync` instead of `python -m tests.support.provider_hosts sync`. If it is
killed in between, what it has sent is nobody's: nothing that happens to it there is understood. The test of
kills has to notice: nothing in the product can be set like this.
"""

import asyncio
import runpy
from typing import Final

from services.sync.carry.scene import Scene, SceneCalls
from shared.manifests.channel_types import Sent

_DELAY_S: Final = 5.0
"""Longer than it takes from the state of one message to that of some more."""
_link = SceneCalls.link
_running = set[asyncio.Task[None]]()


async def _link_late(self: SceneCalls, scene: Scene, sent: Sent, part: int) -> None:
    async def later() -> None:
        await asyncio.sleep(_DELAY_S)
        await _link(self, scene, sent, part)

    task = asyncio.create_task(later())
    _running.add(task)
    task.add_done_callback(_running.discard)


if __name__ == "__main__":
    SceneCalls.link = _link_late  # type: ignore[method-assign]  # what this module is for
    runpy.run_module("tests.support.provider_hosts", run_name="__main__", alter_sys=True)

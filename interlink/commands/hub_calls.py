"""Run the action of a command against the hub's API, at the address of its options."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from interlink.hub_api import HubApi

Url = Annotated[
    str | None,
    typer.Option(envvar="INTERLINK_URL", help="The hub's address, by default that of the data folder."),
]


def with_hub(data_dir: Path, url: str | None, action: "Callable[[HubApi], Awaitable[Any]]") -> Any:
    """Return what an action with the hub's API returns. Raises `InterlinkError`."""
    import asyncio  # noqa: PLC0415

    from interlink.hub_api import HubApi  # noqa: PLC0415

    async def act() -> Any:
        api = HubApi(data_dir, url)
        try:
            return await action(api)
        finally:
            await api.stop()

    return asyncio.run(act())

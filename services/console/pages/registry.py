"""All kinds of objects, and the menu."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.console.pages import administration, connections, imports, inbound, members, outgoing
from services.console.pages.kinds import Kind

KINDS: Final[Sequence[Kind]] = (
    *inbound.KINDS,
    *outgoing.KINDS,
    *connections.KINDS,
    *imports.KINDS,
    *members.KINDS,
    *administration.KINDS,
)
_BY_PREFIX: Final[Mapping[str, str]] = {
    "ep_": "endpoints",
    "wh_": "webhooks",
    "dlv_": "deliveries",
    "int_": "integrations",
    "map_": "mappings",
    "syn_": "messages",
    "imp_": "imports",
    "job_": "jobs",
    "pol_": "polling-triggers",
    "mem_": "members",
}
GROUPS: Final = ("Traffic", "Connections", "Conversations", "Settings")


def page_of(object_id: str) -> str | None:
    """Return the path of the page of an object, by the prefix of its id; None if the prefix says nothing."""
    prefix = object_id.partition("_")[0] + "_"
    return _BY_PREFIX.get(prefix)

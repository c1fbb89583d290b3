"""When documents expire: what the services declare, and what a database has stored of it."""

from collections.abc import Sequence
from typing import Any, Final

from interlink.prepare import indexes
from shared.runtime.mongo import Index

SERVICES: Final = ("gateway", "sync", "delivery", "oauth", "importer", "console")
DECLARED: Final[Sequence[tuple[str, Index]]] = [
    (collection, index)
    for by_collection in indexes(SERVICES)
    for collection, found in by_collection.items()
    for index in found
    if index.ttl_s is not None
]
"""Each index by which documents expire, with its collection."""


def stored_ttls(collection: Any) -> dict[tuple[str, ...], int]:
    """Return after how many seconds documents are deleted, by the keys of the stored index.

    MongoDB does it by a TTL index. In the embedded database that must be none: `Expiry` does it, by
    an index that the services declare.
    """
    stored = {tuple(index["key"]): index for index in collection.list_indexes()}
    ttls = {
        keys: index["expireAfterSeconds"] for keys, index in stored.items() if "expireAfterSeconds" in index
    }
    if "secantusVersion" not in collection.database.client.admin.command("buildInfo"):
        return ttls
    assert not ttls, "the embedded database has TTL indexes"
    declared = {
        tuple(key for key, _ in index.keys): index.ttl_s or 0
        for name, index in DECLARED
        if name == collection.name
    }
    return {keys: ttl_s for keys, ttl_s in declared.items() if keys in stored}

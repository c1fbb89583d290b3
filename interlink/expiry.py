"""`python -m interlink.expiry SERVICE...`: delete the expired documents of these services.

`interlink up` runs it for the embedded database. MongoDB does the same by its TTL indexes.
"""

import asyncio
import sys
from collections.abc import Iterable

from interlink.prepare import indexes
from shared.contracts.errors import InterlinkError
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings, load


async def delete_expired(services: Iterable[str]) -> None:
    """Delete the expired documents of these services, and of what they share. Raises `InterlinkError`."""
    mongo = Mongo(load(MongoSettings), app="interlink-expiry")
    try:
        for by_collection in indexes(services):
            await mongo.delete_expired(by_collection)
    finally:
        mongo.close()


if __name__ == "__main__":
    try:
        asyncio.run(delete_expired(sys.argv[1:]))
    except InterlinkError as error:
        sys.exit(f"interlink: {error}")

"""Whom it concerns that a grant is ended: some platforms end all that an account ever allowed the app."""

from collections.abc import Mapping
from typing import Any, Final

from shared.catalog.registry import connectors
from shared.runtime.integrations import Integrations
from shared.runtime.mongo import translated
from shared.runtime.tokens import TokenSource

_MOST: Final = 200
_FIELDS: Final = {"provider": 1, "workspace": 1}


async def shared(
    integrations: Integrations,
    tokens: TokenSource,
    document: Mapping[str, Any],
    account: str,
    *,
    but: str = "",
) -> bool:
    """Whether other integrations than `but` would end with a grant of this account of a document's provider.

    Where another provider of the same app names accounts otherwise (YouTube by the channel), that of the same
    workspace counts as the same account. Raises `StoreUnavailable`.
    """
    connector = connectors()[document["provider"]]
    if not connector.ends_everything:
        return False
    family = {name: each for name, each in connectors().items() if each.app == connector.app}
    alike = [name for name, each in family.items() if each.account == connector.account]
    unlike = [name for name in family if name not in alike]
    alive = {"deleted_at": None, "credential": {"$ne": None}, "_id": {"$ne": but}}
    same = {"provider": {"$in": alike}, "account.id": account, **alive}
    perhaps = {"provider": {"$in": unlike}, "workspace": document["workspace"], **alive}
    own = tokens.app_of(document)
    with translated():
        for query in (same, perhaps) if unlike else (same,):
            for other in await integrations.collection.find(query, _FIELDS).limit(_MOST).to_list(_MOST):
                app = tokens.app_of(other)
                if app is None or own is None or app.client_id == own.client_id:
                    return True
    return False

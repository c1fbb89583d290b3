"""Sign in with an API key: the checks, and the limit of wrong keys."""

from collections.abc import Sequence
from typing import Final

from services.console.sessions.failures import Failures
from services.console.sessions.records import SessionRecord, Sessions
from shared.contracts.errors import Forbidden, OverLimit, Unauthenticated
from shared.runtime.web.access import ApiKey, Keyring
from shared.runtime.web.api_keys import KEY_PREFIX, digest

_MAX_FAILURES: Final = 10
_TOO_MANY: Final = "too many wrong keys from this address: try again in a minute"


class SignIn:
    """Creates sessions of API keys, and finds the key of a session."""

    def __init__(self, failures: Failures, keyring: Keyring, sessions: Sessions) -> None:
        self._failures = failures
        self._keyring = keyring
        self._sessions = sessions

    async def sign_in(self, presented: str, *, address: str, agent: str) -> tuple[str, ApiKey]:
        """Return the id of a new session, and its key.

        Raises `OverLimit` after ten wrong keys of an address in a minute, in whichever process;
        `Unauthenticated` for a wrong key, `Forbidden` for one that is limited to some accounts, and
        `DatabaseUnavailable`.
        """
        if await self._failures.count(address) >= _MAX_FAILURES:
            raise OverLimit(_TOO_MANY)
        attempt = await self._failures.add(address)
        if await self._failures.count(address) > _MAX_FAILURES:
            raise OverLimit(_TOO_MANY)
        if not presented.startswith(KEY_PREFIX):
            raise Unauthenticated(f"an API key begins with {KEY_PREFIX}")
        key = await self._keyring.authenticate(f"Bearer {presented}")
        if key.accounts is not None:
            raise Forbidden("this key is limited to some accounts: sign in with a key of the whole workspace")
        await self._failures.remove(attempt)
        session_id = await self._sessions.create(
            workspace=key.workspace,
            key_digest=digest(presented),
            key_id=key.id,
            key_name=key.name,
            address=address,
            agent=agent,
        )
        return session_id, key

    async def find(self, session_id: str) -> tuple[SessionRecord, ApiKey] | None:
        """Return a session and its key; None if the session has ended. A session ends with its key."""
        session = await self._sessions.find(session_id)
        if session is None:
            return None
        key = await self._keyring.find(session.key_digest)
        if key is None:
            await self._sessions.end(session.workspace, session.id)
            return None
        return session, key

    async def find_all(self, record_ids: Sequence[str]) -> dict[str, ApiKey]:
        """Return the keys of some sessions as they are now, without those that have ended."""
        found: dict[str, ApiKey] = {}
        for session in await self._sessions.find_all(record_ids):
            key = await self._keyring.find(session.key_digest, is_use=False)
            if key is not None:
                found[session.id] = key
        return found

    async def is_valid(self, session: SessionRecord) -> bool:
        """Return whether the key of a session is valid."""
        return await self._keyring.find(session.key_digest, is_use=False) is not None

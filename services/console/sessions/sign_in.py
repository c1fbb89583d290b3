"""Sign in with an API key or the key of a member, and authorize sessions."""

from collections.abc import Sequence

from services.console.sessions.failures import Failures
from services.console.sessions.records import SessionRecord, Sessions
from shared.contracts.errors import Forbidden, Unauthenticated
from shared.runtime.web.access import ApiKey, Keyring
from shared.runtime.web.api_keys import KEY_PREFIX, digest


class SignIn:
    """Creates sessions from keys, and looks up the current scopes of a session."""

    def __init__(self, failures: Failures, keyring: Keyring, sessions: Sessions, *, issuer: str = "") -> None:
        """Accept sessions of the identity provider `issuer` only; empty if there is none."""
        self._failures = failures
        self._keyring = keyring
        self._sessions = sessions
        self._issuer = issuer

    async def sign_in(self, presented: str, *, address: str, agent: str) -> tuple[str, ApiKey]:
        """Return the id of a new session, and its key.

        Raises `OverLimit` after ten wrong keys of an address in a minute, in all processes together;
        `Unauthenticated` for a wrong key, `Forbidden` for one that is limited to some accounts, and
        `DatabaseUnavailable`.
        """
        attempt = await self._failures.begin(address)
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
        """Return a session and its key; None if the session, the key or the member has ended."""
        session = await self._sessions.find(session_id)
        if session is None:
            return None
        key = await self.key_of(session)
        if key is None:
            await self._sessions.end(session.workspace, session.id)
            return None
        return session, key

    async def find_all(self, record_ids: Sequence[str]) -> dict[str, ApiKey]:
        """Return the current keys of the given sessions by session id, without those that have ended."""
        found: dict[str, ApiKey] = {}
        for session in await self._sessions.find_all(record_ids):
            key = await self.key_of(session, is_use=False)
            if key is not None:
                found[session.id] = key
        return found

    async def end(self, workspace: str, record_id: str) -> None:
        """End a session."""
        await self._sessions.end(workspace, record_id)

    async def key_of(self, session: SessionRecord, *, is_use: bool = True) -> ApiKey | None:
        """Return the current key or member of a session; None if it was revoked or removed."""
        if session.key_digest:
            return await self._keyring.find(session.key_digest, is_use=is_use)
        if session.issuer != self._issuer:
            return None
        member = await self._keyring.find_member(session.key_id, is_use=is_use)
        if member and member.sessions_from and session.created_at < member.sessions_from:
            return None
        return member

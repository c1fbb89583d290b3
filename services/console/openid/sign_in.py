"""Sign in at the identity provider: authorization code with PKCE, state and nonce.

State, nonce and code verifier are sealed in a cookie of the browser that started the sign-in. So starting a
sign-in stores nothing, and a callback in another browser is refused. Each state can be used once.
"""

import asyncio
import time
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any, Final

import orjson

from services.console.hub_api import HubApi, Refusal
from services.console.openid.configuration import OpenIdConfiguration
from services.console.openid.id_tokens import Identity, UnknownSigningKey, read_id_token
from services.console.openid.provider import IdentityProvider, ProviderUnavailable
from services.console.sessions.failures import Failures
from services.console.sessions.records import Sessions, digest_of
from services.console.sessions.used_states import UsedStates
from shared.contracts.errors import Forbidden, InterlinkError, RetryLater, Unauthenticated
from shared.runtime.logs import Log
from shared.runtime.secrets import Vault, pack, unpack
from shared.wire.oauth import authorization_url, code_challenge, new_code_verifier, new_state

MAX_AGE_S: Final = 600
"""Time until the callback, after which the sign-in has expired."""
_TIMEOUT_S: Final = 4.5
_RECORD, _FIELD = "sign-in", "cookie"
_START_AGAIN: Final = "this sign-in was not started in this browser, or has expired: sign in again"


class NotStarted(Unauthenticated):
    """The callback is of no sign-in that the browser's cookie has: the one that it has can still end."""


class OpenIdSignIn:
    """Starts sign-ins at the identity provider, and creates sessions from its callbacks."""

    def __init__(
        self,
        provider: IdentityProvider,
        vault: Vault,
        hub: HubApi,
        failures: Failures,
        used: UsedStates,
        sessions: Sessions,
        log: Log,
    ) -> None:
        self._provider = provider
        self._vault = vault
        self._hub = hub
        self._failures = failures
        self._used = used
        self._sessions = sessions
        self._log = log

    @property
    def configuration(self) -> OpenIdConfiguration:
        """The identity provider's settings."""
        return self._provider.configuration

    async def begin(self, next_path: str) -> tuple[str, str]:
        """Return the authorization URL, and the cookie that the callback needs.

        `next_path` is the page to show after the sign-in. Raises `ProviderUnavailable`.
        """
        metadata = await self._in_time(self._provider.metadata())
        state, nonce, verifier = new_state(), new_state(), new_code_verifier()
        own = self.configuration
        parameters = {
            "client_id": own.client_id,
            "redirect_uri": own.redirect_uri,
            "scope": own.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        started = [own.issuer, state, nonce, verifier, next_path, time.time() + MAX_AGE_S]
        sealed = self._vault.seal(orjson.dumps(started).decode(), workspace="", record=_RECORD, field=_FIELD)
        return authorization_url(metadata.authorization_endpoint, parameters), pack(sealed).rstrip("=")

    async def finish(
        self, answer: Mapping[str, str], cookie: str, *, address: str, agent: str
    ) -> tuple[dict[str, str], str]:
        """Return the id of a new session for each workspace, and the page to show next.

        `answer` is the callback's query. The first session is that of the first entry of the settings.

        Raises `OverLimit` as signing in with a key does, `Unauthenticated` if the answer is not valid,
        `Forbidden` if the claims give no role or the member was removed, `ProviderUnavailable`, and
        `DatabaseUnavailable`.
        """
        # Not an attempt: any website can make its visitors' browsers send this, but not with their cookie.
        state, nonce, verifier, next_path = self._opened(cookie, answer.get("state", ""))
        attempt = await self._failures.begin(address)
        if not await self._used.use(digest_of(state), MAX_AGE_S):
            raise Unauthenticated(_START_AGAIN)
        if "error" in answer:
            raise Unauthenticated(_refused(answer["error"]))
        members = await self._in_time(self._admitted(answer, nonce, verifier, address))
        await self._failures.remove(attempt)
        started = {
            workspace: await self._sessions.create(
                workspace=workspace,
                key_digest="",
                key_id=member["id"],
                key_name=member["name"],
                issuer=self.configuration.issuer,
                address=address,
                agent=agent,
            )
            for workspace, member in members.items()
        }
        return started, next_path

    def _opened(self, cookie: str, state: str) -> tuple[str, str, str, str]:
        """Return state, nonce, verifier and next page of the cookie. Raises `NotStarted`."""
        try:
            text = self._vault.open(unpack(cookie + "=="), workspace="", record=_RECORD, field=_FIELD)
            issuer, started, nonce, verifier, next_path, ends_at = orjson.loads(text)
        except (InterlinkError, ValueError, TypeError, KeyError):
            raise NotStarted(_START_AGAIN) from None
        is_own = issuer == self.configuration.issuer and compare_digest(started.encode(), state.encode())
        if not is_own or ends_at <= time.time():
            raise NotStarted(_START_AGAIN)
        return started, nonce, verifier, next_path

    async def _admitted(
        self, answer: Mapping[str, str], nonce: str, verifier: str, address: str
    ) -> dict[str, Any]:
        """Return the member of the authenticated identity in each workspace that admits them.

        Raises `Forbidden` or `RetryLater` if none does, for the reason of the first one.
        """
        identity = await self._identity(answer, nonce, verifier)
        grants = self.configuration.grants_of(identity.claims)
        if not grants:
            raise Forbidden("the identity provider gives you no role here: ask its administrator for one")
        found = await asyncio.gather(
            *(self._member(identity, grant.workspace, grant.role, address) for grant in grants),
            return_exceptions=True,
        )
        members: dict[str, Any] = {}
        for grant, member in zip(grants, found, strict=True):
            if not isinstance(member, BaseException):
                members[grant.workspace] = member
            elif not isinstance(member, InterlinkError):
                raise member
            else:
                self._log.warning("console.member_refused", workspace=grant.workspace, detail=str(member))
        if not members:
            raise next(error for error in found if isinstance(error, BaseException))
        return members

    async def _identity(self, answer: Mapping[str, str], nonce: str, verifier: str) -> Identity:
        metadata = await self._provider.metadata()
        named = answer.get("iss", "" if metadata.sends_issuer else self.configuration.issuer)
        if named != self.configuration.issuer:
            raise Unauthenticated("the response comes from another identity provider: sign in again")
        tokens = await self._provider.exchange(answer.get("code", ""), verifier)
        for refresh in (False, True):
            keys = await self._provider.keys(refresh=refresh)
            try:
                return read_id_token(
                    tokens.id_token,
                    keys,
                    self.configuration,
                    nonce=nonce,
                    access_token=tokens.access_token,
                    now=time.time(),
                )
            except UnknownSigningKey:
                if refresh:
                    raise
        raise AssertionError("unreachable")

    async def _member(self, identity: Identity, workspace: str, role: str, address: str) -> Any:
        """Return the member of an identity. Raises `Forbidden` or `RetryLater`."""
        body = {
            "issuer": self.configuration.issuer,
            "subject": identity.subject,
            "name": identity.name,
            "email": identity.email,
            "role": role,
        }
        try:
            return await self._hub.call_for_itself(
                workspace, ["admin"], "POST", "/api/members/sign-in", body, address
            )
        except Refusal as refusal:
            if refusal.is_outage:
                raise RetryLater(refusal.detail) from None
            raise Forbidden(refusal.detail) from None

    async def _in_time(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await call
        except TimeoutError:
            raise ProviderUnavailable(
                "signing in takes too long, at the identity provider or here: try again"
            ) from None


def _refused(code: str) -> str:
    """Return the message for an error of the callback. The received text is not shown."""
    if code == "access_denied":
        return "access was denied at the identity provider: sign in again, and allow it"
    return "the identity provider refused the sign-in: its log has the reason"

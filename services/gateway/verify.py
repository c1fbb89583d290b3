"""Whether a webhook is from who it says: the manifest's ways, the endpoint's secrets, the platform's keys."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from time import time
from typing import Final

from services.gateway.keys import RemoteKeys
from services.gateway.registered import AppSecret
from services.gateway.store import Endpoint
from shared.catalog.door import Door
from shared.contracts.errors import Malformed, RetryLater, Unauthenticated
from shared.wire.requests import Request
from shared.wire.verification import Verdict, Way
from shared.wire.work import MOST_HASHED, TooCostly, most_hashed

SAID: Final = {
    Verdict.MISSING: "is missing",
    Verdict.DOUBLED: "is there more than once",
    Verdict.UNREADABLE: "is not of the expected form, or what goes with it is missing",
    Verdict.STALE: "is too old, or from the future",
    Verdict.MISMATCH: "is wrong: another secret, or a changed body",
    Verdict.BODY_CHANGED: "is not of this body",
    Verdict.TOO_COSTLY: "cannot be checked: the body is too large for so many secrets and texts",
    Verdict.CLAIMS: "has an issuer, audience or other claim that is wrong, or has no end (exp)",
}


_BREATH: Final = 256 * 1024
"""Bytes that are hashed, before others have their turn."""
_A_TRY: Final = 1024
"""What a try costs beside its bytes, in bytes that could be hashed meanwhile."""
_MOST_REMEMBERED: Final = 10_000
"""Accounts of which it is remembered which app signed last."""
_NOBODY: Final = AppSecret(token_hex(32).encode(), {}, frozenset())
"""In place of no app at all: nothing is signed with it, and a request finds out nothing by it."""


def work_of(request: Request, raw: bytes) -> int:
    """Bytes that are hashed when one secret is tried: a body that came compressed is tried in both forms."""
    again = len(raw) if raw is not request.body else 0
    return len(request.body) + again + _A_TRY


class BadSignature(Unauthenticated):
    """The signature is missing, unreadable or wrong."""

    reason = "signature"

    def __init__(self, detail: str, verdict: Verdict, way: Way | None) -> None:
        super().__init__(detail)
        self.verdict = verdict
        self.way = way


class NoSecretYet(RetryLater):
    """The endpoint has no secret that could verify this: its owner has to enter it first."""


class Verifier:
    """Verifies requests of any provider."""

    def __init__(self, keys: RemoteKeys) -> None:
        self._keys = keys
        self._signed_last: OrderedDict[tuple[Door, str], bytes] = OrderedDict()

    async def verify(self, endpoint: Endpoint, door: Door, request: Request, raw: bytes) -> Verdict:
        """Verify a request's signature. `raw` is the body before decompression.

        At most `most_hashed` bytes are hashed for it; `request.work` says how many were. Raises
        `BadSignature`, `NoSecretYet`, `KeysUnavailable`, and `Malformed` when what is signed cannot be read.
        """
        way = door.way(request)
        if way is None:
            verdict = Verdict.MISSING
        else:
            request.work.limit(most_hashed(len(request.body)))
            described = endpoint.provider is None or door is not endpoint.provider.door
            named_by = endpoint.workspace if described else ""
            verdict = await self._verdict(endpoint.valid_keys(), way, request, raw, named_by)
            request.work.lift()
        if verdict is Verdict.VERIFIED:
            return verdict
        if not endpoint.require_signature and verdict in (Verdict.MISSING, Verdict.NO_SECRET):
            return Verdict.UNSIGNED
        if verdict is Verdict.NO_SECRET:
            raise NoSecretYet("this endpoint has no secret yet that verifies this: enter the platform's")
        raise _bad(door, way, verdict)

    async def which(self, apps: Sequence[AppSecret], door: Door, request: Request, raw: bytes) -> AppSecret:
        """The one of several apps whose secret verifies; the request has its settings then.

        The work is that of one app after another, and others have their turn in between. At most
        `MOST_HASHED` bytes are hashed: the app that signed last for the account that the request claims is
        tried first, so many apps do not keep each other's large bodies out. Raises `BadSignature`,
        `KeysUnavailable`, `Malformed`.
        """
        way = door.way(request)
        if way is None:
            raise _bad(door, way, Verdict.MISSING)
        request.work.limit(MOST_HASHED)
        worst = Verdict.MISMATCH
        done = 0
        claimed = door, door.claimed_account(request) if len(apps) > 1 else ""
        last = self._signed_last.get(claimed)
        for app in sorted(apps, key=lambda each: each.key != last) if last else apps or (_NOBODY,):
            request.settings = app.settings
            verdict = await self._verdict([app.key], way, request, raw)
            if verdict is Verdict.VERIFIED:
                request.work.lift()
                self._remember(claimed, app)
                return app
            if verdict is Verdict.TOO_COSTLY:
                worst = verdict
                break
            if verdict not in (Verdict.MISMATCH, Verdict.NO_SECRET):
                worst = verdict
            done += work_of(request, raw)
            if done > _BREATH:
                done = 0
                await asyncio.sleep(0)
        raise _bad(door, way, worst)

    def _remember(self, claimed: tuple[Door, str], app: AppSecret) -> None:
        if claimed[1]:
            self._signed_last[claimed] = app.key
            self._signed_last.move_to_end(claimed)
            if len(self._signed_last) > _MOST_REMEMBERED:
                self._signed_last.popitem(last=False)

    async def _verdict(
        self, secrets: Sequence[bytes], way: Way, request: Request, raw: bytes, named_by: str = ""
    ) -> Verdict:
        """`named_by` is the workspace that describes the sender itself, '' where a manifest does."""
        url = way.wanted(request)
        try:
            if url is None:
                verdict = way.verify(request, secrets, time())
            else:
                verdict = await self._by_published_keys(url, secrets, way, request, named_by)
            if verdict is Verdict.MISMATCH and raw is not request.body:
                # The platform signed the compressed body, or a proxy compressed what it had signed.
                sent = request.with_body(raw)
                sent.work = request.work
                with suppress(Malformed):
                    verdict = await self._verdict(secrets, way, sent, raw, named_by)
        except TooCostly:
            return Verdict.TOO_COSTLY
        return verdict

    async def _by_published_keys(
        self, url: str, secrets: Sequence[bytes], way: Way, request: Request, named_by: str
    ) -> Verdict:
        fetched = await self._keys.get(url, workspace=named_by)
        verdict = way.verify(request, secrets, time(), fetched)
        if verdict is Verdict.MISMATCH:  # it may be signed with a key that is newer than what is known
            fetched = await self._keys.get(url, workspace=named_by, anew=True)
            verdict = way.verify(request, secrets, time(), fetched)
        return verdict


def _bad(door: Door, way: Way | None, verdict: Verdict) -> BadSignature:
    about = (way or door.ways[0]).about
    return BadSignature(f"{about} {SAID[verdict]}", verdict, way)

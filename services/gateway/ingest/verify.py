"""Whether a webhook is from who it says: the manifest's ways, the endpoint's secrets, the platform's keys."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from time import time
from typing import Final

from services.gateway.ingest.app_webhooks import AppSecret
from services.gateway.ingest.endpoints import InboundEndpoint
from services.gateway.ingest.public_keys import PublishedKeys
from shared.contracts.errors import Malformed, RetryLater, Unauthenticated
from shared.manifests.webhook import WebhookDefinition
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier, VerificationResult
from shared.verification.work_counter import MAX_HASHED_BYTES, TooCostly, hash_limit

VERDICT_TEXTS: Final = {
    VerificationResult.MISSING: "is missing",
    VerificationResult.DOUBLED: "is there more than once",
    VerificationResult.UNREADABLE: "is not of the expected form, or what goes with it is missing",
    VerificationResult.STALE: "is too old, or from the future",
    VerificationResult.MISMATCH: "is wrong: another secret, or a changed body",
    VerificationResult.BODY_CHANGED: "is not of this body",
    VerificationResult.TOO_COSTLY: "cannot be checked: the body is too large for so many secrets and texts",
    VerificationResult.CLAIMS: "has an issuer, audience or other claim that is wrong, or has no end (exp)",
}


_YIELD_AFTER_BYTES: Final = 256 * 1024
"""Bytes that are hashed, before others have their turn."""
_TRY_OVERHEAD_BYTES: Final = 1024
"""What a try costs beside its bytes, in bytes that could be hashed meanwhile."""
_MAX_CACHED_SIGNERS: Final = 10_000
"""Accounts of which it is remembered which app signed last."""
_NO_APP_SECRET: Final = AppSecret(token_hex(32).encode(), {}, frozenset())
"""In place of no app at all: nothing is signed with it, and a request finds out nothing by it."""


def hashed_bytes(request: InboundRequest, raw: bytes) -> int:
    """Bytes that are hashed when one secret is tried: a body that came compressed is tried in both forms."""
    again = len(raw) if raw is not request.body else 0
    return len(request.body) + again + _TRY_OVERHEAD_BYTES


class BadSignature(Unauthenticated):
    """The signature is missing, unreadable or wrong."""

    reason = "signature"

    def __init__(self, detail: str, verdict: VerificationResult, way: SchemeVerifier | None) -> None:
        super().__init__(detail)
        self.verdict = verdict
        self.way = way


class NoSecretYet(RetryLater):
    """The endpoint has no secret that could verify this: its owner has to enter it first."""


class Verifier:
    """Verifies requests of any provider."""

    def __init__(self, keys: PublishedKeys) -> None:
        self._keys = keys
        self._signed_last: OrderedDict[tuple[WebhookDefinition, str], bytes] = OrderedDict()

    async def verify(
        self, endpoint: InboundEndpoint, definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> VerificationResult:
        """Verify a request's signature. `raw` is the body before decompression.

        At most `hash_limit` bytes are hashed for it; `request.work` says how many were. Raises
        `BadSignature`, `NoSecretYet`, `KeysUnavailable`, and `Malformed` when what is signed cannot be read.
        """
        way = definition.select_scheme(request)
        if way is None:
            verdict = VerificationResult.MISSING
        else:
            request.work.limit(hash_limit(len(request.body)))
            described = endpoint.provider is None or definition is not endpoint.provider.definition
            named_by = endpoint.workspace if described else ""
            verdict = await self._verdict(endpoint.valid_keys(), way, request, raw, named_by)
            request.work.remove_limits()
        if verdict is VerificationResult.VERIFIED:
            return verdict
        if not endpoint.require_signature and verdict in (
            VerificationResult.MISSING,
            VerificationResult.NO_SECRET,
        ):
            return VerificationResult.UNSIGNED
        if verdict is VerificationResult.NO_SECRET:
            raise NoSecretYet("this endpoint has no secret yet that verifies this: enter the platform's")
        raise _bad_signature(definition, way, verdict)

    async def verify_app(
        self, apps: Sequence[AppSecret], definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> AppSecret:
        """The one of several apps whose secret verifies; the request has its settings then.

        The work is that of one app after another, and others have their turn in between. At most
        `MAX_HASHED_BYTES` bytes are hashed: the app that signed last for the account that the request
        claims is
        tried first, so many apps do not keep each other's large bodies out. Raises `BadSignature`,
        `KeysUnavailable`, `Malformed`.
        """
        way = definition.select_scheme(request)
        if way is None:
            raise _bad_signature(definition, way, VerificationResult.MISSING)
        request.work.limit(MAX_HASHED_BYTES)
        worst = VerificationResult.MISMATCH
        done = 0
        claimed = definition, definition.claimed_account(request) if len(apps) > 1 else ""
        last = self._signed_last.get(claimed)
        for app in sorted(apps, key=lambda each: each.key != last) if last else apps or (_NO_APP_SECRET,):
            request.settings = app.settings
            verdict = await self._verdict([app.key], way, request, raw)
            if verdict is VerificationResult.VERIFIED:
                request.work.remove_limits()
                self._remember(claimed, app)
                return app
            if verdict is VerificationResult.TOO_COSTLY:
                worst = verdict
                break
            if verdict not in (VerificationResult.MISMATCH, VerificationResult.NO_SECRET):
                worst = verdict
            done += hashed_bytes(request, raw)
            if done > _YIELD_AFTER_BYTES:
                done = 0
                await asyncio.sleep(0)
        raise _bad_signature(definition, way, worst)

    def _remember(self, claimed: tuple[WebhookDefinition, str], app: AppSecret) -> None:
        if claimed[1]:
            self._signed_last[claimed] = app.key
            self._signed_last.move_to_end(claimed)
            if len(self._signed_last) > _MAX_CACHED_SIGNERS:
                self._signed_last.popitem(last=False)

    async def _verdict(
        self,
        secrets: Sequence[bytes],
        way: SchemeVerifier,
        request: InboundRequest,
        raw: bytes,
        named_by: str = "",
    ) -> VerificationResult:
        """`named_by` is the workspace that describes the sender itself, '' where a manifest does."""
        url = way.key_url(request)
        try:
            if url is None:
                verdict = way.verify(request, secrets, time())
            else:
                verdict = await self._by_published_keys(url, secrets, way, request, named_by)
            if verdict is VerificationResult.MISMATCH and raw is not request.body:
                # The platform signed the compressed body, or a proxy compressed what it had signed.
                sent = request.with_body(raw)
                sent.work = request.work
                with suppress(Malformed):
                    verdict = await self._verdict(secrets, way, sent, raw, named_by)
        except TooCostly:
            return VerificationResult.TOO_COSTLY
        return verdict

    async def _by_published_keys(
        self, url: str, secrets: Sequence[bytes], way: SchemeVerifier, request: InboundRequest, named_by: str
    ) -> VerificationResult:
        fetched = await self._keys.get(url, workspace=named_by)
        verdict = way.verify(request, secrets, time(), fetched)
        if (
            verdict is VerificationResult.MISMATCH
        ):  # it may be signed with a key that is newer than what is known
            fetched = await self._keys.get(url, workspace=named_by, anew=True)
            verdict = way.verify(request, secrets, time(), fetched)
        return verdict


def _bad_signature(
    definition: WebhookDefinition, way: SchemeVerifier | None, verdict: VerificationResult
) -> BadSignature:
    about = (way or definition.schemes[0]).proof_location
    return BadSignature(f"{about} {VERDICT_TEXTS[verdict]}", verdict, way)

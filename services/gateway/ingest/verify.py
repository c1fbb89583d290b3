"""Signature verification with the secrets of an endpoint or app, or with public keys of a provider."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Final

from services.gateway.ingest.app_webhooks import AppSecret
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.public_keys import PublishedKeys
from shared.contracts.errors import Malformed, RetryLater, Unauthenticated
from shared.manifests.webhook import WebhookDefinition
from shared.runtime.clock import now_s
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier, VerificationResult
from shared.verification.work_counter import MAX_HASHED_BYTES, TooCostly, hash_limit

VERDICT_TEXTS: Final = {
    VerificationResult.MISSING: "is missing",
    VerificationResult.DOUBLED: "is present more than once",
    VerificationResult.UNREADABLE: "does not have the expected form, or lacks a value",
    VerificationResult.STALE: "is too old, or from the future",
    VerificationResult.MISMATCH: "is wrong: made with another secret, or of another body",
    VerificationResult.BODY_CHANGED: "does not match this body",
    VerificationResult.TOO_COSTLY: "cannot be checked: the body is too large for so many secrets",
    VerificationResult.CLAIMS: "has a wrong issuer, audience or other claim, or no expiry (exp)",
}
"""The error text of each verdict; the place of the signature precedes it."""

_YIELD_AFTER_BYTES: Final = 256 * 1024
"""Hashed bytes after which `verify_app` yields to other tasks."""
_TRY_OVERHEAD_BYTES: Final = 1024
"""Fixed cost of trying one secret, as the number of bytes that could be hashed in that time."""
_MAX_CACHED_SIGNERS: Final = 10_000
"""Accounts for which the app that signed last is cached."""
_NO_APP_SECRET: Final = AppSecret(token_hex(32).encode(), {}, frozenset())
"""Tried if there is no app: a random secret with which nothing is signed."""


def hashed_bytes(request: InboundRequest, raw: bytes) -> int:
    """Return the bytes to hash for one secret. A compressed body is tried in both forms.

    `raw` is the body before decompression.
    """
    compressed = len(raw) if raw is not request.body else 0
    return len(request.body) + compressed + _TRY_OVERHEAD_BYTES


class BadSignature(Unauthenticated):
    """The signature is missing, unreadable or wrong."""

    reason = "signature"

    def __init__(self, detail: str, verdict: VerificationResult, scheme: SchemeVerifier | None) -> None:
        super().__init__(detail)
        self.verdict = verdict
        self.scheme = scheme


class NoSecretYet(RetryLater):
    """The endpoint has no secret that could verify this request: its owner has to enter one first."""


class Verifier:
    """Verifies the signatures of requests of any provider."""

    def __init__(self, keys: PublishedKeys) -> None:
        self._keys = keys
        self._last_signers: OrderedDict[tuple[WebhookDefinition, str], bytes] = OrderedDict()

    async def verify(
        self, endpoint: InboundEndpoint, definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> VerificationResult:
        """Verify a request's signature. `raw` is the body before decompression.

        Returns `VERIFIED`, or `UNSIGNED` if the endpoint accepts requests without a signature. Hashes at most
        `hash_limit` bytes; `request.work` counts them. Raises `BadSignature`, `NoSecretYet`,
        `KeysUnavailable`, and `Malformed` if the signed content cannot be read.
        """
        secrets = endpoint.valid_keys()
        scheme = definition.select_scheme(request, secrets)
        if scheme is None:
            verdict = VerificationResult.MISSING
        else:
            request.work.limit(hash_limit(len(request.body)))
            # An endpoint whose owner describes the sender has a definition of its own. Key addresses in it
            # are fetched on behalf of its workspace.
            is_described = endpoint.provider is None or definition is not endpoint.provider.definition
            # So are keys that are requested with the endpoint's own credentials.
            is_own = is_described or scheme.key_body(request) is not None
            workspace = endpoint.workspace if is_own else ""
            verdict = await self._verdict(secrets, scheme, request, raw, workspace)
            request.work.remove_limits()
        if verdict is VerificationResult.VERIFIED:
            return verdict
        if not endpoint.require_signature and verdict in (
            VerificationResult.MISSING,
            VerificationResult.NO_SECRET,
        ):
            return VerificationResult.UNSIGNED
        if verdict is VerificationResult.NO_SECRET:
            raise NoSecretYet(
                "this endpoint has no secret that verifies webhooks yet: enter the provider's secret"
            )
        raise _bad_signature(definition, scheme, verdict)

    async def verify_app(
        self, apps: Sequence[AppSecret], definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> AppSecret:
        """Return the app with the secret that verifies the request. Give the request the app's settings.

        Tries one app after another and yields to other tasks in between. Hashes at most `MAX_HASHED_BYTES`.
        The app that signed last for the claimed account is tried first, so that large bodies verify although
        there are many apps. Raises `BadSignature`, `KeysUnavailable`, `Malformed`.
        """
        scheme = definition.select_scheme(request)
        if scheme is None:
            raise _bad_signature(definition, scheme, VerificationResult.MISSING)
        request.work.limit(MAX_HASHED_BYTES)
        worst = VerificationResult.MISMATCH
        hashed_since_yield = 0
        claimed = definition, definition.claimed_account(request) if len(apps) > 1 else ""
        last = self._last_signers.get(claimed)
        # Without any app, a secret that nobody knows is tried: the answer does not reveal that there is none.
        candidates = sorted(apps, key=lambda app: app.key != last) if last else apps or (_NO_APP_SECRET,)
        for app in candidates:
            request.settings = app.settings
            verdict = await self._verdict([app.key], scheme, request, raw)
            if verdict is VerificationResult.VERIFIED:
                request.work.remove_limits()
                self._remember_signer(claimed, app)
                return app
            if verdict is VerificationResult.TOO_COSTLY:
                worst = verdict
                break
            if verdict not in (VerificationResult.MISMATCH, VerificationResult.NO_SECRET):
                worst = verdict
            hashed_since_yield += hashed_bytes(request, raw)
            if hashed_since_yield > _YIELD_AFTER_BYTES:
                hashed_since_yield = 0
                await asyncio.sleep(0)
        raise _bad_signature(definition, scheme, worst)

    def _remember_signer(self, claimed: tuple[WebhookDefinition, str], app: AppSecret) -> None:
        if claimed[1]:
            self._last_signers[claimed] = app.key
            self._last_signers.move_to_end(claimed)
            if len(self._last_signers) > _MAX_CACHED_SIGNERS:
                self._last_signers.popitem(last=False)

    async def _verdict(
        self,
        secrets: Sequence[bytes],
        scheme: SchemeVerifier,
        request: InboundRequest,
        raw: bytes,
        workspace: str = "",
    ) -> VerificationResult:
        """Verify with one scheme.

        Keys are fetched for `workspace`; '' fetches them for the installation.
        """
        url = scheme.key_url(request)
        try:
            if url is None:
                verdict = scheme.verify(request, secrets, now_s())
            else:
                verdict = await self._verify_with_published_keys(url, secrets, scheme, request, workspace)
            if verdict is VerificationResult.MISMATCH and raw is not request.body:
                # The provider signed the compressed body, or a proxy compressed what the provider had signed.
                compressed = request.with_body(raw)
                compressed.work = request.work
                with suppress(Malformed):
                    verdict = await self._verdict(secrets, scheme, compressed, raw, workspace)
        except TooCostly:
            return VerificationResult.TOO_COSTLY
        return verdict

    async def _verify_with_published_keys(
        self,
        url: str,
        secrets: Sequence[bytes],
        scheme: SchemeVerifier,
        request: InboundRequest,
        workspace: str,
    ) -> VerificationResult:
        body = scheme.key_body(request) or b""
        fetched = await self._keys.get(url, body=body, workspace=workspace)
        verdict = scheme.verify(request, secrets, now_s(), fetched)
        if verdict is VerificationResult.MISMATCH:
            # The provider may have rotated its keys since they were cached.
            fetched = await self._keys.get(url, body=body, workspace=workspace, refresh=True)
            verdict = scheme.verify(request, secrets, now_s(), fetched)
        return verdict


def _bad_signature(
    definition: WebhookDefinition, scheme: SchemeVerifier | None, verdict: VerificationResult
) -> BadSignature:
    location = (scheme or definition.schemes[0]).proof_location
    return BadSignature(f"{location} {VERDICT_TEXTS[verdict]}", verdict, scheme)

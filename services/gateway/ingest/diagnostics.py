"""Diagnosis of a signature that does not verify: for people, and after the response was sent."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import orjson

from services.gateway.ingest.endpoint import InboundEndpoint
from shared.contracts.errors import InterlinkError
from shared.runtime.clock import now_s
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier, VerificationResult
from shared.verification.work_counter import WorkCounter

MAX_DIAGNOSED_BYTES: Final = 64 * 1024
"""Largest body that is diagnosed: it is hashed in a dozen variants."""


@dataclass(slots=True)
class SignatureFailure:
    """A request whose signature was not accepted."""

    verdict: VerificationResult
    scheme: SchemeVerifier | None
    request: InboundRequest


def diagnose_signature(endpoint: InboundEndpoint, failure: SignatureFailure, *, thorough: bool = True) -> str:
    """Return why a signature was not accepted: the verdict, or for a mismatch a more exact reason.

    `body_changed`: the signature verifies with a variant of the JSON body that proxies and frameworks
    produce. `old_secret`: it verifies with a secret that has expired after a rotation. `wrong_secret`:
    neither does, or it was not tried, because of `thorough=False` or because it costs more work than one
    request may cost.
    """
    scheme, request = failure.scheme, failure.request
    if failure.verdict is not VerificationResult.MISMATCH or scheme is None:
        return failure.verdict.value
    if not thorough:
        return "wrong_secret"
    now = now_s()
    work = WorkCounter()
    work.limit()  # over the limit, `verify` raises and the loop below ends
    with suppress(InterlinkError):
        unchanged = request.with_body(request.body)
        unchanged.work = work
        if scheme.verify(unchanged, [key for key, _ in endpoint.keys], now) is VerificationResult.VERIFIED:
            return "old_secret"
        for body in _body_variants(request.body):
            variant = request.with_body(body)
            variant.work = work
            verdict = scheme.verify(variant, endpoint.valid_keys(), now)
            if verdict in (VerificationResult.VERIFIED, VerificationResult.STALE):
                return "body_changed"
    return "wrong_secret"


def _body_variants(body: bytes) -> Iterator[bytes]:
    """Yield the forms that the same JSON may have had before an intermediary rewrote it."""
    if len(body) > MAX_DIAGNOSED_BYTES:
        return
    yield body.rstrip()
    yield body.rstrip() + b"\n"
    yield body.replace(b"\r\n", b"\n")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    for ascii_only in (False, True):
        for separators in ((",", ":"), (", ", ": ")):
            try:
                text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
            except RecursionError:  # orjson reads deeper nesting than json writes
                return
            yield text.encode("utf-8", "surrogatepass")
            yield text.replace("/", "\\/").encode("utf-8", "surrogatepass")

"""Why a signature does not verify, as far as that can be told: for people, after the answer was given."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import Final

import orjson

from services.gateway.ingest.endpoints import InboundEndpoint
from shared.contracts.errors import InterlinkError
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier, VerificationResult
from shared.verification.work_counter import WorkCounter

MAX_DIAGNOSED_BYTES: Final = 64 * 1024
"""Bytes of a body that is looked into: it is tried in a dozen forms."""


@dataclass(slots=True)
class SignatureFailure:
    """A request whose signature was not accepted."""

    verdict: VerificationResult
    way: SchemeVerifier | None
    request: InboundRequest


def diagnose_signature(endpoint: InboundEndpoint, refusal: SignatureFailure, *, thorough: bool = True) -> str:
    """The verdict, or a more exact one.

    `body_changed`: with one of the forms that proxies and frameworks give a JSON body, it verifies.
    `old_secret`: it is signed with a secret that has been rotated out. `wrong_secret`: neither, or
    it was not tried out: not `thorough`, or more work than one request may cost.
    """
    way, request = refusal.way, refusal.request
    if refusal.verdict is not VerificationResult.MISMATCH or way is None:
        return refusal.verdict.value
    if not thorough:
        return "wrong_secret"
    now = time()
    work = WorkCounter()
    work.limit()
    with suppress(InterlinkError):
        again = request.with_body(request.body)
        again.work = work
        if way.verify(again, [key for key, _ in endpoint.keys], now) is VerificationResult.VERIFIED:
            return "old_secret"
        for body in _body_variants(request.body):
            written = request.with_body(body)
            written.work = work
            changed = way.verify(written, endpoint.valid_keys(), now)
            if changed in (VerificationResult.VERIFIED, VerificationResult.STALE):
                return "body_changed"
    return "wrong_secret"


def _body_variants(body: bytes) -> Iterator[bytes]:
    """How the same JSON may have been written before something on the way wrote it anew."""
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
            except RecursionError:  # it can be read deeper than it can be written
                return
            yield text.encode("utf-8", "surrogatepass")
            yield text.replace("/", "\\/").encode("utf-8", "surrogatepass")

"""The span of the verification of a request."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from services.gateway.ingest.body import first_header
from services.gateway.ingest.context import RequestContext
from services.gateway.ingest.targets import Target
from services.gateway.ingest.verify import BadSignature
from shared.verification.scheme import VerificationResult

if TYPE_CHECKING:
    from shared.runtime.spans import Tracer


async def trace_verify(
    tracer: "Tracer", target: Target, context: RequestContext, verifying: Awaitable[VerificationResult]
) -> VerificationResult:
    """Verify a request within a span, if its trace is recorded. Raises as the verification does."""
    attributes = {"interlink.provider": target.provider_id, "interlink.endpoint": target.name}
    parent = first_header(context.headers, b"traceparent")
    span = tracer.start("verify", "internal", parent, attributes)
    if span is None:
        return await verifying
    with span:
        try:
            verdict = await verifying
        except BadSignature as error:
            span.set({"interlink.verdict": error.verdict.value})
            raise
        span.set({"interlink.verdict": verdict.value})
        return verdict

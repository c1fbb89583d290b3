"""The webhook path: a provider's request becomes events on Kafka, or a rejection that says why.

It is bare ASGI: the routing of a framework would cost more CPU than all the work here. The steps of a request
are in `Receiver`, from `__call__` to `_accept_signed`; `targets.py` has what differs between the address of
an endpoint and the address of a whole app.

All requests that wait share one read of the configuration's version. There are two other database calls: a
handshake that hands over a secret writes it, and the first app webhook of an account reads its routes.
"""

from time import perf_counter
from typing import Final

from starlette.types import Receive, Scope, Send

from services.gateway.ingest.app_webhooks import PREFIX, AppWebhooks, alias_provider
from services.gateway.ingest.body import BodyReader, client_address, first_header, headers_of
from services.gateway.ingest.confirmations import Confirmations
from services.gateway.ingest.connected_accounts import ConnectedAccounts
from services.gateway.ingest.context import RequestContext, RequestOutcome, new_execution
from services.gateway.ingest.default_targets import DefaultTarget, SharedTarget
from services.gateway.ingest.diagnostics import SignatureFailure
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.errors import MethodNotAllowed
from services.gateway.ingest.executions import Executions
from services.gateway.ingest.incoming_message import SLACK_SUFFIX
from services.gateway.ingest.public_keys import CALLER
from services.gateway.ingest.publisher import EventPublisher
from services.gateway.ingest.quotas import WorkspaceQuotas
from services.gateway.ingest.rate_limit import ChargedWork, RateLimits, TokenBucket, TokenBuckets, check_rate
from services.gateway.ingest.responses import rejection_response, retryable_response, send_response
from services.gateway.ingest.targets import AppTarget, EndpointTarget, Target, TargetServices
from services.gateway.ingest.verification_span import trace_verify
from services.gateway.ingest.verify import BadSignature, Verifier, hashed_bytes
from services.gateway.settings import GatewaySettings
from shared.contracts.errors import BrokerUnavailable, NotFound, Rejected, RetryLater, Unauthenticated
from shared.manifests.response_template import Response
from shared.manifests.webhook import WebhookDefinition
from shared.runtime import metrics, tracing
from shared.runtime.configuration import Configuration
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log
from shared.runtime.workers.memory import SharedMemory
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from shared.webhooks.incoming import INCOMING_PROVIDER
from shared.wire.bodies import inflate

MAX_IN_FLIGHT: Final = 2000
"""Requests that are processed at a time. They wait mostly for Kafka's acknowledgement."""
_REJECTED_PER_MINUTE: Final = 600
"""Rejected requests of one caller at one address, until this caller has to wait."""
_NOT_FOUND: Final = "no such endpoint"
_DISCORD: Final = "discord"
"""The provider whose address without an id accepts messages with a token in a header."""
_UNAUTHENTICATED_DETAIL: Final = "send the token of an incoming webhook: 'Authorization: Bearer <token>'"


class Receiver:
    """The ASGI app of `/api/webhooks/...` and `/integrations/{provider}/webhook`."""

    def __init__(
        self,
        settings: GatewaySettings,
        configuration: Configuration,
        endpoints: InboundEndpoints,
        app_webhooks: AppWebhooks,
        accounts: ConnectedAccounts,
        verifier: Verifier,
        confirmations: Confirmations,
        executions: Executions,
        producer: Producer,
        quotas: WorkspaceQuotas,
        log: Log,
        *,
        limits: RateLimits,
        memory: SharedMemory | None,
    ) -> None:
        """Set the parts; `memory` is what the workers of this service share, None without workers."""
        publisher = EventPublisher(
            producer, configuration, quotas, log, dedupe_window_s=settings.dedupe_window_s, memory=memory
        )
        self.publisher: Final = publisher
        """Publishes the events, and remembers those of the deduplication window."""
        self._services = TargetServices(endpoints, accounts, verifier, confirmations, publisher, log)
        self._max_body_bytes = settings.max_body_bytes
        self._configuration = configuration
        self._endpoints = endpoints
        self._app_webhooks = app_webhooks
        self._callers = TokenBuckets(_REJECTED_PER_MINUTE, limits=limits, kind="rejected")
        self._executions = executions
        self._log = log
        self._in_flight = 0
        self._body_reader = BodyReader(settings.body_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to `/api/webhooks/...`."""
        await self._configuration.current()
        kind, has_name, name = scope["path"][len(PREFIX) :].partition("/")
        if has_name:
            route = INCOMING_PROVIDER if kind == INCOMING_PROVIDER else "webhook"
            response = await self.receive(self._find_endpoint(kind, name), route, scope, receive)
        elif kind == _DISCORD and scope["method"] == "POST":
            response = await self._receive_with_token(scope, receive)
        else:
            response = await self._receive_for_app(kind, scope, receive)
        await send_response(response, scope, send)

    async def alias(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to an app webhook at `/integrations/{provider}/webhook`."""
        await self._configuration.current()
        response = await self._receive_for_app(alias_provider(scope["path"]), scope, receive)
        await send_response(response, scope, send)

    async def receive(
        self,
        endpoint: InboundEndpoint | None,
        route: str,
        scope: Scope,
        receive: Receive,
        *,
        test: bool = False,
    ) -> Response:
        """Process a request to an endpoint; None is answered with 404.

        `test` marks a request that the hub makes itself to test the endpoint. `route` is a label of metrics.
        """
        target = EndpointTarget(endpoint, self._services) if endpoint else None
        return await self._process(target, route, None, scope, receive, test=test)

    async def _receive_for_app(self, provider: str, scope: Scope, receive: Receive) -> Response:
        """Process a request to an address without an id, for an app, a default endpoint, or both."""
        webhook, default = self._app_webhooks.get(provider), self._endpoints.default(provider)
        target: Target | None = None
        missing: Rejected | None = None
        if webhook and default:
            target = SharedTarget(webhook, default, self._services)
        elif webhook:
            target = AppTarget(webhook, self._services)
        elif default:
            target = DefaultTarget(default, self._services)
        else:
            missing = NotFound(self._app_webhooks.missing_detail(provider) or _NOT_FOUND)
        return await self._process(target, "app", missing, scope, receive)

    async def _receive_with_token(self, scope: Scope, receive: Receive) -> Response:
        """Process a message to the incoming webhook of the token in the header `Authorization`."""
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = authorization.decode("latin-1").partition(" ")
        endpoint = self._endpoints.find_by_token(token.strip()) if kind.lower() == "bearer" else None
        target = EndpointTarget(endpoint, self._services) if endpoint else None
        missing = None if target else Unauthenticated(_UNAUTHENTICATED_DETAIL)
        return await self._process(target, INCOMING_PROVIDER, missing, scope, receive)

    def _find_endpoint(self, provider: str, name: str) -> InboundEndpoint | None:
        """Return the endpoint of a path; `name` is its id, or an incoming webhook's token and suffix."""
        if provider == INCOMING_PROVIDER:
            return self._endpoints.find_by_token(name.removesuffix(f"/{SLACK_SUFFIX}"))
        endpoint = self._endpoints.get(name)
        if endpoint is None or endpoint.polled or endpoint.provider is None:
            return None
        return endpoint if endpoint.provider.id == provider else None

    # The pipeline: one sequence for every kind of target

    async def _process(
        self,
        target: Target | None,
        route: str,
        missing: Rejected | None,
        scope: Scope,
        receive: Receive,
        *,
        test: bool = False,
    ) -> Response:
        """Accept or reject a request, and record it in metrics, log and executions.

        `missing` is the error if there is no target, in place of the usual one.
        """
        context = RequestContext(perf_counter(), test)
        self._in_flight += 1
        try:
            if target is None:
                raise missing or NotFound(_NOT_FOUND)
            outcome = await self._accept(target, context, scope, receive)
        except (Rejected, RetryLater) as error:
            outcome = self._reject(error, route, target)
        finally:
            self._in_flight -= 1
        metrics.requests(route, outcome.outcome).inc()
        if target:
            for endpoint, own in target.records(context):
                self._record_execution(endpoint, own, own.outcome or outcome)
        return outcome.response

    async def _accept(
        self, target: Target, context: RequestContext, scope: Scope, receive: Receive
    ) -> RequestOutcome:
        """Check what needs no body, then read and accept the request."""
        target.check_open(scope["method"])
        if self._in_flight > MAX_IN_FLIGHT:
            raise BrokerUnavailable("too many requests wait for Kafka")
        context.headers = headers_of(scope)
        target.check_caller(scope)
        # The limit of rejections is per caller: anybody who knows the address can send requests that are
        # rejected, and must not block the provider with them.
        context.caller = client_address(scope)
        rejected = self._callers.of(f"{target.name} {context.caller}")
        for bucket in target.rate_limits():
            check_rate(bucket)
        check_rate(rejected)
        try:
            return await self._accept_body(target, context, scope, receive, rejected)
        except Rejected as error:
            # A verified request is the provider's own, and a limit that is used up must not be charged again.
            is_charged = context.verdict is not VerificationResult.VERIFIED and error.retry_after is None
            if is_charged and target.counts_rejections:
                rejected.take()
            raise

    async def _accept_body(
        self, target: Target, context: RequestContext, scope: Scope, receive: Receive, rejected: TokenBucket
    ) -> RequestOutcome:
        """Read the body, and answer a request that needs no verification.

        `rejected` limits the caller's rejected requests, and other requests that cost the caller nothing.
        """
        headers, definition = context.headers, target.definition
        limit = min(target.body_limit() or self._max_body_bytes, self._max_body_bytes)
        if definition:
            limit = min(limit, definition.max_body)
        raw = await self._body_reader.read(headers, receive, limit)
        body = context.body = inflate(raw, first_header(headers, b"content-encoding").lower(), limit)
        if definition is None:  # an incoming webhook: its token has authenticated the caller
            return await target.publish_message(context, scope)
        request = context.request = definition.request(
            scope["method"],
            target.address(scope["path"]),
            scope["query_string"],
            headers,
            body,
            target.settings,
        )
        CALLER.set(context.caller)
        handshake = definition.handshake(request)
        if handshake:
            rejected.take()  # unsigned requests that are answered with 200: anybody can send them
            return RequestOutcome(await target.answer_handshake(handshake, request), "handshake")
        description = target.describe(request.method)
        if description:
            rejected.take()
            return description
        if request.method not in definition.methods:
            raise MethodNotAllowed(sorted(definition.methods))
        return await self._accept_signed(target, definition, context, request, raw, rejected)

    async def _accept_signed(
        self,
        target: Target,
        definition: WebhookDefinition,
        context: RequestContext,
        request: InboundRequest,
        raw: bytes,
        rejected: TokenBucket,
    ) -> RequestOutcome:
        """Verify the request and publish its events. `raw` is the body before decompression."""
        try:
            with ChargedWork(rejected, hashed_bytes(request, raw) * max(1, target.secret_count())):
                if tracing.tracer is None:
                    context.verdict = await target.verify(definition, request, raw)
                else:
                    verifying = target.verify(definition, request, raw)
                    context.verdict = await trace_verify(tracing.tracer, target, context, verifying)
        except BadSignature as error:
            context.verdict = error.verdict
            context.signature_failure = SignatureFailure(error.verdict, error.scheme, request)
            metrics.SIGNATURE_FAILURES.labels(target.provider_id, error.verdict.value).inc()
            raise
        handshake = definition.verified_handshake(request)
        # No URL is called for a request without a proof, where the endpoint allows it: it becomes an event.
        is_proved = context.verdict is VerificationResult.VERIFIED
        if handshake and (is_proved or not handshake.confirms):
            return RequestOutcome(await target.answer_handshake(handshake, request), "handshake")
        return await target.publish(definition, request, context)

    # Records of a request

    def _reject(self, error: Rejected | RetryLater, route: str, target: Target | None) -> RequestOutcome:
        """Return the outcome of a request that was not accepted, and log it if it can never be."""
        if isinstance(error, RetryLater):
            response, outcome, detail = retryable_response(error)
            return RequestOutcome(response, outcome, detail)
        # Never log the path: an incoming webhook's token is in it, and everything that it takes to post.
        self._log.info(
            "webhook.rejected",
            route=route,
            endpoint_id=target.name if target else None,
            status=error.status,
            reason=error.reason,
        )
        definition = target.definition if target else None
        return RequestOutcome(rejection_response(definition, error), error.reason, error.detail)

    def _record_execution(
        self, endpoint: InboundEndpoint, context: RequestContext, outcome: RequestOutcome
    ) -> None:
        """Count a request to an endpoint, and store its execution unless there are too many."""
        # Who knows the token of an incoming webhook is its sender.
        authenticated = context.verdict is VerificationResult.VERIFIED or endpoint.provider is None
        events, rejected = len(context.events), bool(outcome.detail)
        seconds = perf_counter() - context.started
        is_stored = self._executions.count(
            endpoint, outcome.outcome, events, seconds, rejected=rejected, authenticated=authenticated
        )
        if is_stored:
            self._executions.add(new_execution(endpoint, context, outcome, seconds))

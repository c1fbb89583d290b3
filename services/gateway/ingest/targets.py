"""The targets of a webhook: an endpoint, an incoming webhook, or the app webhook of a provider.

`default_targets.py` has those of an address without an id that leads to the installation's default endpoint.

A target is created for each request. It has what differs between the kinds of address. The sequence of steps
is the same for all of them, and is in `receive.py`.
"""

import hmac
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, Final

import orjson
from starlette.types import Scope

from services.gateway.ingest.app_webhooks import AppSecret, AppWebhookTarget
from services.gateway.ingest.body import check_address
from services.gateway.ingest.confirmations import Confirmations
from services.gateway.ingest.connected_accounts import ConnectedAccounts
from services.gateway.ingest.context import RequestContext, RequestOutcome, indexes_by_endpoint
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.endpoints import InboundEndpoints
from services.gateway.ingest.errors import Gone, MethodNotAllowed, SourceRefused
from services.gateway.ingest.incoming_message import post_message
from services.gateway.ingest.over_quota import OverQuotaPart
from services.gateway.ingest.publisher import EventPublisher
from services.gateway.ingest.rate_limit import TokenBucket, charge
from services.gateway.ingest.responses import accepted_body, json_response
from services.gateway.ingest.verify import Verifier
from shared.contracts.errors import Conflict, Malformed, NotFound
from shared.manifests.response_template import Handshake, Response
from shared.manifests.webhook import WebhookDefinition, WebhookEvent
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult

APP_REQUEST_TIMEOUT_S: Final = 1.9
"""The account lookup and Kafka's acknowledgement together, for a request to an app webhook."""
_MAX_SECRET_LENGTH: Final = 500
_MIN_SECRET_LENGTH: Final = 8
_APP_ACCEPTED_BODY: Final = b'{"accepted":true}'
_UNVERIFIED: Final = AppSecret(b"", {}, frozenset())
"""The app of a request before it is verified. It belongs to no account."""
_READ_METHODS: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class TargetServices:
    """Services that targets use: one of each per process."""

    endpoints: InboundEndpoints
    accounts: ConnectedAccounts
    verifier: Verifier
    confirmations: Confirmations
    publisher: EventPublisher
    log: Log


class Target(ABC):
    """Target of a request. The receiver calls the methods in the order in which they stand here."""

    __slots__ = ()

    counts_rejections: ClassVar[bool]
    """True if each rejected request uses up the caller's limit, and not only the work that it caused."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in the log, and the name under which a caller's rejected requests are counted.

        It is never the path: the path of an incoming webhook is a secret.
        """

    @property
    @abstractmethod
    def definition(self) -> WebhookDefinition | None:
        """The webhook definition; None for an incoming webhook."""

    @property
    @abstractmethod
    def provider_id(self) -> str:
        """The provider's id, for metrics."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, str]:
        """The settings with which a request is read before it is verified."""

    def check_open(self, method: str) -> None:  # noqa: B027 -- most targets are always open
        """Raise `SourceRefused`, `MethodNotAllowed` or `Gone` if the target accepts no such request now."""

    def check_caller(self, scope: Scope) -> None:  # noqa: B027 -- most targets allow every caller
        """Raise `Forbidden` if the caller's address is not allowed."""

    def rate_limits(self) -> Sequence[TokenBucket]:
        """Return the target's own limits, which are checked before the body is read."""
        return ()

    def body_limit(self) -> int | None:
        """Return the target's own limit of the body in bytes; None if it has none."""
        return None

    @abstractmethod
    def address(self, path: str) -> str:
        """Return the URL that the provider called, as it signs it."""

    @abstractmethod
    async def answer_handshake(self, handshake: Handshake, request: InboundRequest) -> Response:
        """Answer a handshake. `handshake.verified` says whether the request's signature was verified."""

    def describe(self, method: str) -> RequestOutcome | None:
        """Return a description of the target for a request that only reads; None if it offers none."""
        del method
        return None

    @abstractmethod
    def secret_count(self) -> int:
        """Return how many secrets a signature is tried with."""

    @abstractmethod
    async def verify(
        self, definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> VerificationResult:
        """Verify the request. `raw` is the body before decompression. Raises as `Verifier.verify`."""

    @abstractmethod
    async def publish(
        self, definition: WebhookDefinition, request: InboundRequest, context: RequestContext
    ) -> RequestOutcome:
        """Publish the request's events and return the outcome. Raises as `EventPublisher.publish`."""

    async def publish_message(self, context: RequestContext, scope: Scope) -> RequestOutcome:
        """Publish what was posted to a target without a definition.

        Raises as `post_message`, and `NotFound` if the target takes no such messages.
        """
        del context, scope
        raise NotFound("this address takes no chat messages")

    @abstractmethod
    def records(self, context: RequestContext) -> Iterable[tuple[InboundEndpoint, RequestContext]]:
        """Return the endpoints that get an execution of this request, each with its part of the context."""


class EndpointTarget(Target):
    """An inbound endpoint, or an incoming webhook."""

    __slots__ = ("_endpoint", "_services")

    counts_rejections = True

    def __init__(self, endpoint: InboundEndpoint, services: TargetServices) -> None:
        self._endpoint = endpoint
        self._services = services

    @property
    def name(self) -> str:
        return self._endpoint.id

    @property
    def definition(self) -> WebhookDefinition | None:
        return self._endpoint.definition

    @property
    def provider_id(self) -> str:
        return self._endpoint.provider_id

    @property
    def settings(self) -> Mapping[str, str]:
        return self._endpoint.settings

    def check_open(self, method: str) -> None:
        endpoint = self._endpoint
        if endpoint.source_error and endpoint.enabled:
            raise SourceRefused(
                "this endpoint's source is not valid: its owner finds the reason in disabled_reason"
            )
        if endpoint.definition is None and method != "POST":
            raise MethodNotAllowed(("POST",))
        if not endpoint.enabled:
            raise Gone("this endpoint is disabled")

    def check_caller(self, scope: Scope) -> None:
        check_address(self._endpoint.networks, scope)

    def rate_limits(self) -> Sequence[TokenBucket]:
        return (self._endpoint.accepted,)

    def body_limit(self) -> int | None:
        return self._endpoint.body_limit

    def address(self, path: str) -> str:
        del path  # a proxy may have changed the path: the provider signs the address that it was given
        return self._endpoint.address

    async def answer_handshake(self, handshake: Handshake, request: InboundRequest) -> Response:
        """Answer a handshake. Confirm it if it asks for that, and store the secret that it may hand over.

        A secret is stored only while the endpoint waits for one. Raises `Malformed` if the handshake has no
        usable secret or URL, `Conflict` if the endpoint has another secret already, and `NotConfirmed`.
        """
        response = handshake.response(request)
        url = handshake.confirmation_url(request)
        if url:
            await self._services.confirmations.confirm(
                url, endpoint_id=self._endpoint.id, workspace=self._endpoint.workspace
            )
        if not handshake.awaits_secret:
            return response
        secret = handshake.extract_secret(request)
        if (
            secret is None
            or not (_MIN_SECRET_LENGTH <= len(secret) <= _MAX_SECRET_LENGTH)
            or not secret.isascii()
        ):
            raise Malformed("the handshake contains no usable secret")
        if any(hmac.compare_digest(secret.encode(), key) for key in self._endpoint.valid_keys()):
            return response  # a repeat: the provider did not receive the first response
        endpoints = self._services.endpoints
        if self._endpoint.keys or not await endpoints.store_handshake_secret(self._endpoint.id, secret):
            raise Conflict("this endpoint has a secret already: create another endpoint for another webhook")
        self._services.log.info("handshake.secret_stored", endpoint_id=self._endpoint.id)
        return response

    def secret_count(self) -> int:
        return len(self._endpoint.valid_keys())

    async def verify(
        self, definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> VerificationResult:
        return await self._services.verifier.verify(self._endpoint, definition, request, raw)

    async def publish(
        self, definition: WebhookDefinition, request: InboundRequest, context: RequestContext
    ) -> RequestOutcome:
        endpoint, publisher = self._endpoint, self._services.publisher
        events = definition.events(request)
        if not events:  # it has cost as much work as one with an event
            charge(endpoint.accepted, 1)
        endpoints = [endpoint] * len(events)
        fresh = await publisher.publish(endpoints, events, context, publisher.ack_timeout_s) if events else []
        duplicate = bool(events) and not fresh
        response = definition.answer(request) or json_response(
            202, accepted_body(context.event_ids, duplicate=duplicate)
        )
        return RequestOutcome(response, "duplicate" if duplicate else "accepted")

    async def publish_message(self, context: RequestContext, scope: Scope) -> RequestOutcome:
        return await post_message(self._endpoint, self._services.publisher, context, scope)

    def records(self, context: RequestContext) -> Iterable[tuple[InboundEndpoint, RequestContext]]:
        return ((self._endpoint, context),)


class AppTarget(Target):
    """The app webhook of a provider: its events are for the accounts that connected one of its apps."""

    __slots__ = ("_app", "_over_quota", "_services", "_webhook")

    counts_rejections = False
    """A provider sends webhooks of other installations' apps from the same addresses: see `ChargedWork`."""

    def __init__(self, webhook: AppWebhookTarget, services: TargetServices) -> None:
        self._webhook = webhook
        self._services = services
        self._app = _UNVERIFIED
        self._over_quota: dict[str, OverQuotaPart] = {}
        """What was left out of the request, by integration."""

    @property
    def name(self) -> str:
        return self._webhook.provider.id

    @property
    def definition(self) -> WebhookDefinition:
        return self._webhook.definition

    @property
    def provider_id(self) -> str:
        return self._webhook.provider.id

    @property
    def settings(self) -> Mapping[str, str]:
        return self._webhook.settings

    def address(self, path: str) -> str:
        return self._webhook.address(path)

    async def answer_handshake(self, handshake: Handshake, request: InboundRequest) -> Response:
        if handshake.verified:
            return handshake.response(request)
        return self._webhook.answer_handshake(handshake, request)

    def describe(self, method: str) -> RequestOutcome | None:
        if method not in _READ_METHODS:
            return None
        return RequestOutcome(json_response(200, orjson.dumps(self._webhook.setup())), "setup")

    def secret_count(self) -> int:
        return len(self._webhook.secrets)

    async def verify(
        self, definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> VerificationResult:
        """Verify the request, and store the app whose secret verified it for `publish`."""
        self._app = await self._services.verifier.verify_app(self._webhook.secrets, definition, request, raw)
        return VerificationResult.VERIFIED

    async def publish(
        self, definition: WebhookDefinition, request: InboundRequest, context: RequestContext
    ) -> RequestOutcome:
        """Publish each event for every workspace that has connected its account.

        The response never reveals which accounts are connected.
        """
        events = definition.events(request, with_accounts=True)
        outcome = await self._publish_to_accounts(events, context)
        return RequestOutcome(definition.answer(request) or json_response(202, _APP_ACCEPTED_BODY), outcome)

    async def _publish_to_accounts(self, events: Sequence[WebhookEvent], context: RequestContext) -> str:
        """Publish the events that are for connected accounts; return the outcome."""
        app, accounts, publisher = self._app, self._services.accounts, self._services.publisher
        started = perf_counter()
        refs = {event.account_ref for event in events if event.account_ref}
        connected = await accounts.of(self.provider_id, app, refs)
        by_account: dict[str, InboundEndpoint] = {}
        to_endpoints: list[InboundEndpoint] = []
        to_publish: list[WebhookEvent] = []
        for event in events:
            receivers = connected.get(event.account_ref, ()) if event.account_ref else ()
            if not receivers:
                metrics.UNCONNECTED.labels(self.provider_id).inc()
            for account in receivers:
                if account.id not in by_account:
                    by_account[account.id] = accounts.endpoint(self._webhook, app, account)
                endpoint = by_account[account.id]
                if error := publisher.quotas.refuse(endpoint.workspace):
                    part = self._over_quota.setdefault(account.id, OverQuotaPart(endpoint, error))
                    part.events.append(event)
                    continue
                to_endpoints.append(endpoint)
                to_publish.append(event)
        if not to_publish:
            return self._without_events(events)
        # Rounded to tenths: the producer holds a queue for each distinct timeout, and never removes one.
        remaining_s = max(0.1, round(APP_REQUEST_TIMEOUT_S - (perf_counter() - started), 1))
        timeout_s = min(publisher.ack_timeout_s, remaining_s)
        fresh = await publisher.publish(to_endpoints, to_publish, context, timeout_s, within_quotas=True)
        return "accepted" if fresh else "duplicate"

    def _without_events(self, events: Sequence[WebhookEvent]) -> str:
        """Return the outcome of a request of which nothing is published.

        Raises `OverQuota` if all was left out and the app belongs to the one workspace whose events they are.
        An app that others use too must not be refused: the provider might disable its webhook for all.
        """
        parts = list(self._over_quota.values())
        if not parts:
            return "unconnected" if events else "accepted"
        owners = {workspace for workspace, _ in self._app.app_keys}
        if owners == {parts[0].endpoint.workspace}:
            raise parts[0].error
        return "over_quota"

    def records(self, context: RequestContext) -> Iterable[tuple[InboundEndpoint, RequestContext]]:
        """Return the accounts whose events were to be published.

        A request that is not verified has none: its account is only a claim.
        """
        for endpoint, indexes in indexes_by_endpoint(context.endpoints):
            yield endpoint, context.for_endpoint(indexes)
        for part in self._over_quota.values():
            yield part.endpoint, part.context(context)

"""The targets of a provider's address without an id, if the installation has a default endpoint for it.

Everybody knows this address. The operator marks an endpoint as the default; its secret verifies requests.
"""

from collections.abc import Iterable
from contextlib import suppress

from starlette.types import Scope

from services.gateway.ingest.app_webhooks import PREFIX, AppWebhookTarget
from services.gateway.ingest.context import RequestContext, RequestOutcome
from services.gateway.ingest.endpoint import InboundEndpoint
from services.gateway.ingest.rate_limit import check_rate
from services.gateway.ingest.targets import AppTarget, EndpointTarget, TargetServices
from services.gateway.ingest.verify import BadSignature, NoSecretYet
from shared.contracts.errors import Forbidden, Malformed, Rejected, RetryLater
from shared.manifests.response_template import Handshake, Response
from shared.manifests.webhook import WebhookDefinition
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult


class DefaultTarget(EndpointTarget):
    """The installation's default endpoint of a provider, at the address without an id, which all know."""

    __slots__ = ()

    def address(self, path: str) -> str:
        return self._endpoint.address.partition(PREFIX)[0] + path

    async def answer_handshake(self, handshake: Handshake, request: InboundRequest) -> Response:
        """Answer a handshake. Raises `Forbidden` if it hands a secret over: anybody could do that here."""
        if handshake.awaits_secret:
            raise Forbidden("create the webhook with the endpoint's own address: it hands its secret over")
        return await super().answer_handshake(handshake, request)


class SharedTarget(AppTarget):
    """The address of a provider that has an app webhook and a default endpoint: the signature decides.

    A request that is signed with the secret of the default endpoint is for that one, any other one for apps.
    """

    __slots__ = ("_default", "_is_for_default", "_may_call_default")

    def __init__(
        self, webhook: AppWebhookTarget, endpoint: InboundEndpoint, services: TargetServices
    ) -> None:
        super().__init__(webhook, services)
        self._default = DefaultTarget(endpoint, services)
        self._may_call_default = False
        self._is_for_default = False

    def check_caller(self, scope: Scope) -> None:
        """Find out whether the default endpoint takes requests of this caller now. Raise nothing."""
        with suppress(Rejected, RetryLater):
            self._default.check_open(scope["method"])
            self._default.check_caller(scope)
            self._may_call_default = True

    async def answer_handshake(self, handshake: Handshake, request: InboundRequest) -> Response:
        if self._is_for_default:
            return await self._default.answer_handshake(handshake, request)
        try:
            return await super().answer_handshake(handshake, request)
        except (Forbidden, Malformed):
            if not self._may_call_default:
                raise
        request.settings = self._default.settings
        return await self._default.answer_handshake(handshake, request)

    def secret_count(self) -> int:
        return super().secret_count() + self._default.secret_count()

    async def verify(
        self, definition: WebhookDefinition, request: InboundRequest, raw: bytes
    ) -> VerificationResult:
        if self._may_call_default:
            settings, request.settings = request.settings, self._default.settings
            with suppress(BadSignature, NoSecretYet):
                result = await self._default.verify(definition, request, raw)
                self._is_for_default = True
                return result
            request.settings = settings
        return await super().verify(definition, request, raw)

    async def publish(
        self, definition: WebhookDefinition, request: InboundRequest, context: RequestContext
    ) -> RequestOutcome:
        if not self._is_for_default:
            return await super().publish(definition, request, context)
        for bucket in self._default.rate_limits():
            check_rate(bucket)
        return await self._default.publish(definition, request, context)

    def records(self, context: RequestContext) -> Iterable[tuple[InboundEndpoint, RequestContext]]:
        return self._default.records(context) if self._is_for_default else super().records(context)

"""Create, renew and cancel one provider subscription at its provider, with the endpoint for its webhooks.

`lifecycle.py` and `renewal.py` decide when, and for which account.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoint, GatewayEndpoints
from services.oauth.subscriptions.records import ProviderSubscription, SubscriptionRepository
from services.oauth.subscriptions.subscription_types import SubscriptionTypes
from shared.connections.integration_record import Integration
from shared.connections.tokens import Access, TokenSource
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import InterlinkError, Invalid, RetryLater
from shared.manifests.connect_models import ApiRequest
from shared.manifests.connector import Connector
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.scopes import missing_scopes
from shared.manifests.subscription_requests import (
    creation_values,
    expiry_of,
    missing_setting,
    needs_account,
    preliminary_values,
    result_values,
    settings_digest,
    subscription_values,
)
from shared.manifests.subscriptions import SubscriptionSpec
from shared.runtime.clock import utcnow
from shared.runtime.logs import Log
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from shared.wire.redaction import redact
from shared.wire.request_template import RequestTemplate

_SECRETS: Final = ("access_token", "client_secret", "signing_secret", "endpoint:secret")
"""The template values that are secret."""
_MAX_LOGGED_LENGTH: Final = 200


class MissingSetting(InterlinkError):
    """A setting of the app that the subscription needs is missing."""


class ProviderCalls:
    """Creates, renews and cancels provider subscriptions."""

    def __init__(
        self,
        subscriptions: SubscriptionRepository,
        types: SubscriptionTypes,
        connectors: Mapping[str, Connector],
        tokens: TokenSource,
        endpoints: GatewayEndpoints,
        log: Log,
    ) -> None:
        self._subscriptions = subscriptions
        self._types = types
        self._connectors = connectors
        self._tokens = tokens
        self._endpoints = endpoints
        self._log = log

    async def create_or_renew(self, claimed: ProviderSubscription, account: Integration) -> dict[str, Any]:
        """Create or renew a claimed subscription at its provider. Return the fields to `finish` it with.

        `account` is the integration whose token is used. A subscription that is replaced is cancelled after
        the new one was created, or before it where the provider allows only one.

        Raises `MissingSetting`; `ProviderRejected` if the provider rejects the request or a scope was not
        granted; `RetryLater`, `NotConnected`, `MissingValue`, `Invalid`.
        """
        definition = self._types.get(claimed.provider, claimed.type_id)
        connector = self._connectors[claimed.provider]
        ungranted = missing_scopes(connector.oauth2, definition.scopes, account.scopes)
        if ungranted:
            raise ProviderRejected(
                "missing_scope", f"the person did not grant {', '.join(ungranted)}: connect it again"
            )
        account_values = self._tokens.values(account)
        if missing := missing_setting(definition, connector, account_values):
            raise MissingSetting(missing)
        subscription, endpoint = await self._ensure_endpoint(claimed, account, definition, account_values)
        lifetime_s = definition.lifetime_s
        expires_at = utcnow() + timedelta(seconds=lifetime_s) if lifetime_s else None
        values = self._values(subscription, endpoint, expires_at)
        before, digest = subscription.made, settings_digest(definition, account_values)
        # With an idempotent create, the same request creates and renews, and there is one subscription only.
        is_idempotent_create = definition.renew == definition.create
        if (
            before
            and definition.renew is not None
            and (not is_idempotent_create or before.get("of", digest) == digest)
        ):
            try:
                answer = await self._fetch(account, definition.renew, values)
            except ProviderRejected:
                # The provider does not have it any more: create another one below.
                if is_idempotent_create:
                    raise
            else:
                result = await self._process_response(subscription, account, endpoint, definition, answer)
                return self._change(definition, {**before, **result}, expires_at)
        elif before and is_idempotent_create:
            # Created with other settings, and the provider allows only one.
            await self.cancel(subscription, account)
        preliminary: dict[str, str] = {}
        if definition.before is not None:
            preliminary = preliminary_values(
                definition.before, await self._fetch(account, definition.before.request, values)
            )
        values |= creation_values(str(uuid4()), preliminary)
        answer = await self._fetch(account, definition.create, values)
        result = {"asked_id": values["watch:id"], "of": digest}
        result |= await self._process_response(
            subscription, account, endpoint, definition, answer, created=result
        )
        if before and not is_idempotent_create:
            await self.cancel(subscription, account)
        return self._change(definition, result, expires_at)

    async def _send(
        self,
        account: Integration,
        request: ApiRequest,
        values: Mapping[str, str],
        *,
        retry_with_new_token: bool,
        sent_secrets: set[str] | None = None,
    ) -> ProviderResponse:
        """Send a request of the manifest and return the response, whatever its status.

        With `retry_with_new_token`, a 401 about the account's token is answered with a refresh and a second
        attempt. A request without the account's credential is sent even if that is not usable. Secrets that
        were sent are added to `sent_secrets`. Raises as `TokenSource.access` does.
        """
        integration_id, connector = account.id, self._connectors[account.provider]
        api = connector.api_for(account.kind)

        def build(account_values: Mapping[str, str]) -> ProviderRequest:
            template_values = {**account_values, **values}
            if sent_secrets is not None:
                sent_secrets.update(template_values[part] for part in _SECRETS if template_values.get(part))
            return connector.request(request, template_values, api)

        def build_with_access(access: Access) -> ProviderRequest:
            return build(access.values)

        if not needs_account(request):
            return await self._tokens.send(build(self._tokens.values(account)), account.workspace)
        if request.token and retry_with_new_token:  # Only then is a 401 about the account's token.
            return await self._tokens.call(integration_id, build_with_access)
        return await self._tokens.send(
            build_with_access(await self._tokens.access(integration_id)), account.workspace
        )

    async def _fetch(self, account: Integration, request: ApiRequest, values: Mapping[str, str]) -> Any:
        """Send a request and return the parsed answer.

        Raises `ProviderRejected` if the provider rejects the request, with every secret that was sent
        redacted.
        """
        connector = self._connectors[account.provider]
        sent_secrets: set[str] = set()
        answer = await self._send(
            account, request, values, retry_with_new_token=True, sent_secrets=sent_secrets
        )
        try:
            return connector.parse_api_response(answer, connector.api_for(account.kind))
        except ProviderRejected as error:
            raise ProviderRejected(
                redact(error.code, sent_secrets), redact(error.detail, sent_secrets)
            ) from None

    async def _process_response(
        self,
        subscription: ProviderSubscription,
        account: Integration,
        endpoint: GatewayEndpoint,
        definition: SubscriptionSpec,
        answer: Any,
        *,
        created: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Return the values of an answer that are stored. A secret among them goes to the endpoint only.

        `created` has the values of a subscription that this answer created. It is cancelled if its secret
        cannot be set: nobody could verify its webhooks. Raises `RetryLater`, `Invalid`.
        """
        result = result_values(definition.made, answer)
        if secret := result.pop("secret", ""):
            try:
                await self._endpoints.set_secret(subscription.workspace, endpoint.id, secret)
            except (RetryLater, Invalid):
                if created is not None:
                    of_answer = subscription.model_copy(update={"made": {**created, **result}})
                    await self.cancel(of_answer, account)
                raise
        return result

    def _change(
        self, definition: SubscriptionSpec, result: Mapping[str, str], expires_at: datetime | None
    ) -> dict[str, Any]:
        """Return the fields of an active subscription.

        The renewal is due `ahead_s` before the expiry, or at half of a lifetime that is shorter than that. A
        subscription that does not expire is never due.
        """
        expires_at = expiry_of(result) or expires_at
        due_at = None
        if expires_at is not None:
            remaining, ahead = expires_at - utcnow(), timedelta(seconds=definition.ahead_s)
            due_at = utcnow() + (remaining - ahead if remaining > ahead else remaining / 2)
        return {
            "status": "active",
            "made": result,
            "expires_at": expires_at,
            "renewed_at": utcnow(),
            "is_open": due_at is not None,
            "due_at": due_at,
            "failures": 0,
            "last_error": None,
        }

    async def _ensure_endpoint(
        self,
        claimed: ProviderSubscription,
        account: Integration,
        definition: SubscriptionSpec,
        account_values: Mapping[str, str],
    ) -> tuple[ProviderSubscription, GatewayEndpoint]:
        """Return the subscription with its inbound endpoint; an empty one if its webhooks go to the app's.

        Create it the first time, and set the secret that the manifest requires if it has changed.
        """
        if not definition.own_endpoint:
            return claimed, GatewayEndpoint("", "", "")
        values = {**account_values, **{f"watch:{name}": text for name, text in claimed.resource.items()}}
        values["watch:name"] = claimed.id
        required_secret = RequestTemplate(definition.endpoint_secret).render_or_empty(values)
        if claimed.endpoint_id:
            secret = self._subscriptions.decrypt_endpoint_secret(claimed)
            endpoint = GatewayEndpoint(claimed.endpoint_id, claimed.endpoint_url or "", secret)
            if not required_secret or required_secret == secret:
                return claimed, endpoint
            await self._endpoints.set_secret(claimed.workspace, endpoint.id, required_secret)
            endpoint = replace(endpoint, secret=required_secret)
        else:
            settings = {
                name: RequestTemplate(text).render_or_empty(values)
                for name, text in definition.endpoint_settings.items()
            }
            holder = account.id if claimed.app is None else "the app"
            endpoint = await self._endpoints.create(
                claimed.workspace,
                # The idempotency key: a repeat after a crash finds the endpoint that was created before it.
                f"{claimed.id} {rfc3339(claimed.created_at)}",
                definition.endpoint or claimed.provider,
                f"{definition.id} of {holder}",
                {name: text for name, text in settings.items() if text},
                required_secret,
                claimed.channel_id,
            )
        subscription = await self._subscriptions.store_endpoint(
            claimed, endpoint.id, endpoint.url, endpoint.secret
        )
        return subscription, endpoint

    def _values(
        self, subscription: ProviderSubscription, endpoint: GatewayEndpoint, expires_at: datetime | None
    ) -> dict[str, str]:
        """Return the template values of the subscription itself."""
        return subscription_values(
            subscription.id,
            subscription.resource,
            url=endpoint.url,
            secret=endpoint.secret,
            made=subscription.made or {},
            ends=expires_at,
        )

    async def cancel(self, subscription: ProviderSubscription, account: Integration) -> None:
        """Cancel a subscription at its provider, with the token of `account`.

        Failures are logged, never raised: what cannot be cancelled ends by itself.
        """
        if not subscription.made:
            return
        endpoint = GatewayEndpoint(subscription.endpoint_id or "", subscription.endpoint_url or "", "")
        values = self._values(subscription, endpoint, None)
        try:
            definition = self._types.get(subscription.provider, subscription.type_id)
            if definition.cancel is None:
                return
            account_values, connector = self._tokens.values(account), self._connectors[subscription.provider]
            if missing := missing_setting(definition, connector, account_values, of=definition.cancel):
                raise MissingSetting(missing)
            answer = await self._send(account, definition.cancel, values, retry_with_new_token=False)
        except InterlinkError as error:
            self._log.warning(
                "subscription.cancel_failed",
                subscription_id=subscription.id,
                error=str(error)[:_MAX_LOGGED_LENGTH],
            )
            return
        if answer.status >= 400:
            self._log.warning(
                "subscription.cancel_failed",
                subscription_id=subscription.id,
                error=f"the provider answered {answer.status}",
            )

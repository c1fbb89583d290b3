"""Tokens of selected resources: a Page has one of its own, which the person's token gives.

It is stored beside the person's token, for the selected resource, and used in its place. Nothing is lost if a
process dies before it is stored: it is asked for again when it is used. New tokens of the person replace it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from shared.connections.credentials import RESOURCE
from shared.connections.integration_record import Integration, SelectedResource
from shared.connections.integrations import IntegrationRepository
from shared.connections.refresh_outcome import NotConnected, RefreshOutcomes
from shared.manifests.connect_models import ResourceToken
from shared.manifests.connector import Connector
from shared.manifests.provider_response import ProviderRejected, UnreadableResponse, select_value
from shared.manifests.token_response import parse_token
from shared.runtime.logs import Log
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from shared.wire.redaction import redact


def stored_resource_token(integration: Integration, secrets: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the token of the integration's resource; None if none is stored for it."""
    resource, stored = _selected(integration), secrets.get("others", {}).get(RESOURCE)
    if resource is None or not stored or stored.get("resource") != resource.id:
        return None
    return {"access_token": stored["access_token"]}


class ResourceTokens:
    """Fetches and stores tokens of resources. `ask` sends a request for a workspace."""

    def __init__(
        self,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        outcomes: RefreshOutcomes,
        ask: Callable[[ProviderRequest, str], Awaitable[ProviderResponse]],
        log: Log,
    ) -> None:
        self._integrations = integrations
        self._connectors = connectors
        self._outcomes = outcomes
        self._ask = ask
        self._log = log
        self._running: dict[str, asyncio.Task[Integration]] = {}
        """One task for each integration, for all callers that wait."""

    def is_used_by(self, integration: Integration) -> bool:
        """Return whether calls for an integration use the token of its resource."""
        return self._rules(integration) is not None and _selected(integration) is not None

    def _rules(self, integration: Integration) -> ResourceToken | None:
        connector = self._connectors.get(integration.provider)
        selection = connector.account_selection if connector else None
        return selection.token if selection else None

    async def ensure(self, integration: Integration, values: Mapping[str, str]) -> Integration:
        """Return the integration with the token of its resource, fetched if none is stored.

        `values` fill the provider's request. Raises `NotConnected` if the provider gives none,
        `ProviderUnavailable` and `DatabaseUnavailable`.
        """
        secrets = self._outcomes.decrypt_credential(integration)
        if stored_resource_token(integration, secrets) is not None:
            return integration
        task = self._running.get(integration.id)
        if task is None or task.done():
            task = asyncio.create_task(self._fetch(integration, secrets, values))
            self._running[integration.id] = task
            task.add_done_callback(lambda done: self._remove(integration.id, done))
        # A cancelled caller does not cancel it for the others.
        return await asyncio.shield(task)

    def _remove(self, integration_id: str, task: "asyncio.Task[Integration]") -> None:
        if self._running.get(integration_id) is task:
            del self._running[integration_id]

    async def _fetch(
        self, integration: Integration, secrets: Mapping[str, Any], values: Mapping[str, str]
    ) -> Integration:
        rules, resource = self._rules(integration), _selected(integration)
        assert rules is not None  # noqa: S101 -- the caller has looked
        assert resource is not None  # noqa: S101 -- so too
        connector, token = self._connectors[integration.provider], {"access_token": secrets["access_token"]}
        answer = await self._ask(connector.request(rules.call, {**values, **token}), integration.workspace)
        if connector.is_token_rejected(answer):
            detail = "the provider rejects the token"
            await self._outcomes.mark_reauth_required(integration, "token_refused", detail)
            raise NotConnected(
                "reauth_required", "the provider rejects the account's token: connect the account again"
            )
        try:
            fetched = parse_token(select_value(rules.access_token, connector.parse_api_response(answer)))
            if not fetched:
                raise UnreadableResponse("no_token", "the provider's response has no token")
        except ProviderRejected as error:
            code = redact(error.code, token.values())
            self._log.warning("token.resource_refused", integration_id=integration.id, error=code)
            raise NotConnected(
                "connected",
                f"the provider gives no token of {resource.label} ({code}): connect it again as somebody who "
                "manages it",
            ) from None
        others = {**secrets.get("others", {}), RESOURCE: {"access_token": fetched, "resource": resource.id}}
        sealed = self._integrations.seal(integration, {**secrets, "others": others})
        changed = await self._integrations.change(
            integration,
            # Not while a refresh holds the lease: its new tokens are written for the version that it read.
            condition={"status": integration.status, "fence": integration.fence, "lease": None},
            credential=sealed,
            version=integration.version + 1,
        )
        # If it changed meanwhile, the token is used for now, and fetched again later.
        return changed or integration.model_copy(update={"credential": sealed})


def _selected(integration: Integration) -> SelectedResource | None:
    return integration.account.resource if integration.account is not None else None

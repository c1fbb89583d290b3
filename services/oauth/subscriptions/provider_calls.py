"""What a watch is at its platform: made, renewed and cancelled there, and the endpoint for its webhooks.

When it is time for that, and for whom, is in `watch.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from services.oauth.subscriptions.gateway_endpoints import GatewayEndpoint, GatewayEndpoints
from shared.connections.tokens import Access, TokenSource
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import FieldError, InterlinkError, Invalid, RetryLater
from shared.manifests.connect_models import ApiRequest
from shared.manifests.provider_response import ProviderRejected
from shared.manifests.registry import connectors, providers
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
from shared.runtime.logs import Log
from shared.runtime.mongo import Collection, Document, translate_errors, utcnow
from shared.runtime.secrets import Vault
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from shared.wire.redaction import redact
from shared.wire.request_template import RequestTemplate

_SECRETS: Final = ("access_token", "client_secret", "signing_secret", "endpoint:secret")


class MissingSetting(InterlinkError):
    """Something that the watch needs is not there (yet): a setting of the app."""


class ProviderSubscriptions:
    """Makes, renews and cancels watches."""

    def __init__(
        self, collection: Collection, vault: Vault, tokens: TokenSource, endpoints: GatewayEndpoints, log: Log
    ) -> None:
        self._collection = collection
        self._vault = vault
        self._tokens = tokens
        self._endpoints = endpoints
        self._log = log

    async def create_or_renew(self, document: Document, account: Document) -> dict[str, Any]:
        """Make it, or make it last; what to write. What is replaced is cancelled afterwards."""
        watch = subscription_type(document["provider"], document["watch"])
        connector = connectors()[document["provider"]]
        missing = connector.missing_scopes(watch.scopes, account.get("scopes", []))
        if missing:
            raise ProviderRejected("missing_scope", f"the person did not grant {', '.join(missing)}")
        known = self._tokens.values(account)
        if said := missing_setting(watch, connector, known):
            raise MissingSetting(said)
        endpoint = await self._ensure_endpoint(document, account, watch, known)
        ends = utcnow() + timedelta(seconds=watch.lifetime_s) if watch.lifetime_s else None
        values = self._values(document, endpoint, ends)
        before, basis = document["made"], settings_digest(watch, known)
        one_only = watch.renew == watch.create
        if before and watch.renew is not None and (not one_only or before.get("of", basis) == basis):
            try:
                found = await self._fetch(account, watch.renew, values)
            except ProviderRejected:  # it is not there any more: another one is made
                if one_only:
                    raise
            else:
                made = await self._process_response(document, account, endpoint, watch, found)
                return self._change(watch, before | made, ends)
        elif before and one_only:  # made with something else, and there cannot be two
            await self.cancel(document, account)
        first: dict[str, str] = {}
        if watch.before is not None:
            first = preliminary_values(watch.before, await self._fetch(account, watch.before.request, values))
        values |= creation_values(str(uuid4()), first)
        found = await self._fetch(account, watch.create, values)
        made = {"asked_id": values["watch:id"], "of": basis}
        made |= await self._process_response(document, account, endpoint, watch, found, new=made)
        if before and not one_only:
            await self.cancel(document, account)
        return self._change(watch, made, ends)

    async def _send(
        self,
        account: Document,
        request: ApiRequest,
        values: Mapping[str, str],
        *,
        retry_with_new_token: bool,
        sent_secrets: set[str] | None = None,
    ) -> ProviderResponse:
        """Send a request; `again` with a new token when the platform refuses the account's.

        What needs nothing of the account's credential is sent whatever became of that. `said` is given the
        secrets that were sent.
        """
        name, connector = account["_id"], connectors()[account["provider"]]
        api = connector.api_for(account["kind"])

        def made(known: Mapping[str, str]) -> ProviderRequest:
            filled = {**known, **values}
            if sent_secrets is not None:
                sent_secrets.update(filled[part] for part in _SECRETS if filled.get(part))
            return connector.request(request, filled, api)

        def of(access: Access) -> ProviderRequest:
            return made(access.values)

        if not needs_account(request):
            return await self._tokens.ask(made(self._tokens.values(account)), account["workspace"])
        if request.token and retry_with_new_token:  # only then a 401 is about the account's token
            return await self._tokens.call(name, of)
        return await self._tokens.ask(of(await self._tokens.access(name)), account["workspace"])

    async def _fetch(self, account: Document, request: ApiRequest, values: Mapping[str, str]) -> Any:
        """What the platform answers. A refusal repeats no secret that was sent."""
        connector = connectors()[account["provider"]]
        said: set[str] = set()
        answer = await self._send(account, request, values, retry_with_new_token=True, sent_secrets=said)
        try:
            return connector.parse_api_response(answer, connector.api_for(account["kind"]))
        except ProviderRejected as error:
            raise ProviderRejected(redact(error.code, said), redact(error.detail, said)) from None

    async def _process_response(
        self,
        document: Document,
        account: Document,
        endpoint: GatewayEndpoint,
        watch: SubscriptionSpec,
        found: Any,
        *,
        new: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """What is kept of an answer; a secret in it goes to the endpoint, and nowhere else.

        What is `new` and whose secret cannot be handed on is cancelled: nobody could read what it sends.
        """
        kept = result_values(watch.made, found)
        if secret := kept.pop("secret", ""):
            try:
                await self._endpoints.set_secret(document["workspace"], endpoint.id, secret)
            except (RetryLater, Invalid):
                if new is not None:
                    await self.cancel({**document, "made": {**new, **kept}}, account)
                raise
        return kept

    def _change(
        self, watch: SubscriptionSpec, made: Mapping[str, Any], ends: datetime | None
    ) -> dict[str, Any]:
        ends = expiry_of(made) or ends
        due = None
        if ends is not None:
            left, ahead = ends - utcnow(), timedelta(seconds=watch.ahead_s)
            due = utcnow() + (left - ahead if left > ahead else left / 2)
        return {
            "status": "active",
            "made": dict(made),
            "expires_at": ends,
            "renewed_at": utcnow(),
            "open": due is not None,
            "due_at": due,
            "failures": 0,
            "last_error": None,
        }

    async def _ensure_endpoint(
        self, document: Document, account: Document, watch: SubscriptionSpec, known: Mapping[str, str]
    ) -> GatewayEndpoint:
        """The watch's own inbound endpoint, made at the first turn; with the secret that it has to have."""
        if not watch.own_endpoint:
            return GatewayEndpoint("", "", "")
        values = {**known, **{f"watch:{name}": text for name, text in document["resource"].items()}}
        values["watch:name"] = document["_id"]
        wanted = RequestTemplate(watch.endpoint_secret).render_or_empty(values)
        if document["endpoint_id"]:
            secret = self._decrypt_endpoint_secret(document)
            endpoint = GatewayEndpoint(document["endpoint_id"], document["endpoint_url"], secret)
            if wanted and wanted != secret:
                await self._endpoints.set_secret(document["workspace"], endpoint.id, wanted)
                endpoint = replace(endpoint, secret=wanted)
                await self._store_endpoint(document, endpoint)
            return endpoint
        settings = {
            name: RequestTemplate(text).render_or_empty(values)
            for name, text in watch.endpoint_settings.items()
        }
        whose = account["_id"] if document["app"] is None else "the app"
        endpoint = await self._endpoints.create(
            document["workspace"],
            f"{document['_id']} {rfc3339(document['created_at'])}",
            watch.endpoint or document["provider"],
            f"{watch.id} of {whose}",
            {name: text for name, text in settings.items() if text},
            wanted,
            document["channel_id"],
        )
        await self._store_endpoint(document, endpoint)
        return endpoint

    def _decrypt_endpoint_secret(self, document: Document) -> str:
        """The endpoint's secret."""
        if not document["endpoint_secret"]:
            return ""
        return self._vault.open(
            document["endpoint_secret"],
            workspace=document["workspace"],
            record=document["_id"],
            field="endpoint_secret",
        )

    async def _store_endpoint(self, document: Document, endpoint: GatewayEndpoint) -> None:
        """Write the endpoint down, its secret sealed."""
        sealed = None
        if endpoint.secret:
            sealed = self._vault.seal(
                endpoint.secret,
                workspace=document["workspace"],
                record=document["_id"],
                field="endpoint_secret",
            )
        kept = {"endpoint_id": endpoint.id, "endpoint_url": endpoint.url, "endpoint_secret": sealed}
        await self.write(document, {**kept, "working": True})
        document |= kept

    def _values(self, document: Document, endpoint: GatewayEndpoint, ends: datetime | None) -> dict[str, str]:
        return subscription_values(
            document["_id"],
            document["resource"],
            url=endpoint.url,
            secret=endpoint.secret,
            made=document["made"] or {},
            ends=ends,
        )

    async def cancel(self, document: Document, account: Document) -> None:
        """At the platform; what it answers changes nothing."""
        if not document["made"]:
            return
        endpoint = GatewayEndpoint(document["endpoint_id"] or "", document["endpoint_url"] or "", "")
        values = self._values(document, endpoint, None)
        try:
            watch = subscription_type(document["provider"], document["watch"])
            if watch.cancel is None:
                return
            known = self._tokens.values(account)
            if said := missing_setting(watch, connectors()[document["provider"]], known, of=watch.cancel):
                raise MissingSetting(said)
            answer = await self._send(account, watch.cancel, values, retry_with_new_token=False)
        except InterlinkError as error:
            self._log.warning("watch not cancelled", watch_id=document["_id"], why=str(error)[:200])
            return
        if answer.status >= 400:
            self._log.warning(
                "watch not cancelled", watch_id=document["_id"], why=f"answered {answer.status}"
            )

    async def write(self, document: Document, change: Mapping[str, Any]) -> None:
        """Unless another process has taken it over."""
        with translate_errors():
            await self._collection.update_one(
                {"_id": document["_id"], "fence": document["fence"]}, {"$set": {"working": False, **change}}
            )


def subscription_types(provider: str) -> Sequence[SubscriptionSpec]:
    """What can be watched with accounts of a provider."""
    return providers()[provider].manifest.watches if provider in providers() else ()


def subscription_type(provider: str, name: str) -> SubscriptionSpec:
    found = next((watch for watch in subscription_types(provider) if watch.id == name), None)
    if found is None:
        known = ", ".join(watch.id for watch in subscription_types(provider)) or "none"
        raise Invalid("no such kind of watch", errors=(FieldError("watch", f"there is {known}"),))
    return found

"""The tokens for a call to a provider, and the headers and addresses that go with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.connections.credentials import MAIN
from shared.manifests.connector import Connector
from shared.wire.provider_http import basic_authorization
from shared.wire.request_template import RequestTemplate


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens for a call to a provider. `version` identifies them for `TokenSource.replace_rejected`."""

    integration: str
    connector: Connector = field(repr=False)
    workspace: str
    version: int
    values: Mapping[str, str] = field(repr=False)
    """Values for the manifest's request templates: tokens, account, params, settings."""
    ends_at: datetime | None
    """Expiry of the token; None if it does not expire."""
    other: str = MAIN
    """Name of the grant that the tokens belong to; `MAIN` for the main one."""
    kind: str = "oauth2"

    @property
    def provider(self) -> str:
        return self.connector.provider

    @property
    def token(self) -> str:
        return self.values["access_token"]

    @property
    def headers(self) -> dict[str, str]:
        """The request headers that carry the token."""
        api = self.connector.api_for(self.kind)
        headers = {
            name: RequestTemplate(text).render_or_empty(self.values) for name, text in api.headers.items()
        }
        if api.basic:
            headers["Authorization"] = basic_authorization(
                *(RequestTemplate(text).render_or_empty(self.values) for text in api.basic)
            )
        return {name: value for name, value in headers.items() if value}

    @property
    def base(self) -> str:
        """The base URL of the provider's API."""
        return RequestTemplate(self.connector.api_for(self.kind).base).url(self.values)

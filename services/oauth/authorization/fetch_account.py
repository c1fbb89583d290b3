"""Ask a provider which account tokens belong to."""

from collections.abc import Mapping
from dataclasses import replace

from shared.connections.tokens import TokenSource
from shared.manifests.accounts import AccountIdentity, AccountResource
from shared.manifests.connector import Connector
from shared.manifests.token_response import TokenResponse


async def fetch_account(
    tokens: TokenSource,
    workspace: str,
    connector: Connector,
    values: Mapping[str, str],
    granted: TokenResponse,
    callback_values: Mapping[str, str],
) -> tuple[AccountIdentity, list[AccountResource]]:
    """Return the account that granted tokens belong to, and its resources (sites, pages), if it has any.

    `values` fill the provider's requests, `callback_values` are values of the account that the callback had.
    Raises `ProviderRejected`, `ProviderUnavailable`, `MissingValue`.
    """
    account = connector.account
    assert account is not None  # noqa: S101 -- the manifest has one for every flow
    main = granted.tokens or next(iter(granted.others.values()))
    values = {**values, "access_token": main.access_token} | {
        f"account:{name}": value for name, value in callback_values.items()
    }
    document = granted.document
    if account.call is not None:
        document = connector.parse_api_response(
            await tokens.send(connector.request(account.call, values), workspace)
        )
    provider_account = connector.parse_account(account, document)
    person = connector.parse_person(document, token=granted.document)
    provider_account = replace(
        provider_account, attributes={**callback_values, **provider_account.attributes}, person=person
    )
    if connector.account_selection is None:
        return provider_account, []
    values |= {f"account:{name}": value for name, value in provider_account.attributes.items()}
    answer = await tokens.send(connector.request(connector.account_selection.call, values), workspace)
    return provider_account, connector.parse_resources(connector.parse_api_response(answer))

"""Check whether a provider accepts an OAuth app, by exchanging a code that was never issued.

The check depends on no account. It separates an error of one account from an error of the app: the owner of
one account must not be able to disable the app for everybody, for example by removing it from his own tenant.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from shared.connections.apps import Apps
from shared.connections.credentials import template_values
from shared.connections.provider_app import App
from shared.manifests.connector import Connector
from shared.manifests.oauth1 import OAuth1Flow
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.runtime.logs import Log
from shared.wire.oauth import new_code_verifier, new_state
from shared.wire.provider_http import ProviderRequest, ProviderResponse
from shared.wire.request_template import MissingValue

# A code that no provider has issued: one that accepts the app rejects only the code.
_PROBE_CODE: Final = "interlink-checks-its-client-credentials"


@dataclass(frozen=True, slots=True)
class AppCheckResult:
    """Result of a check. `accepted` is None if the provider's answer does not show if it accepts the app."""

    accepted: bool | None
    reason: str = ""
    unavailable: ProviderUnavailable | None = None
    """Set if the provider could not be asked: the check may succeed later."""


class AppChecker:
    """Checks apps. `ask` sends a request for a workspace and raises `ProviderUnavailable`."""

    def __init__(
        self,
        apps: Apps,
        log: Log,
        ask: Callable[[ProviderRequest, str], Awaitable[ProviderResponse]],
        *,
        redirect_uri: str,
    ) -> None:
        self._apps = apps
        self._log = log
        self._ask = ask
        self._redirect_uri = redirect_uri

    async def check(self, app: App, connector: Connector) -> AppCheckResult:
        """Ask the provider whether it accepts the app."""
        params = {name: setting.default for name, setting in connector.params.items() if setting.default}
        values = template_values(connector, app, self._redirect_uri, params=params, account=None)
        flow = OAuth1Flow(connector.oauth1) if connector.oauth1 is not None else None
        try:
            if flow is not None:
                call = flow.request_token_request(values, state=new_state())
            elif connector.oauth2 is not None:
                call = connector.exchange(values, code=_PROBE_CODE, verifier=new_code_verifier())
            else:
                return AppCheckResult(None, "this provider's apps cannot be checked")
            answer = await self._ask(call, app.workspace)
            if flow is not None:
                flow.parse_request_token(answer)
                return AppCheckResult(accepted=True)
            connector.parse_token_response(answer)
        except GrantRevoked:
            return AppCheckResult(accepted=True)  # it accepted the app and rejected the code
        except InvalidClient as error:
            detail = error.detail or "the provider rejects the client id or secret"
            return AppCheckResult(accepted=False, reason=f"{error.code}: {detail}")
        except ProviderUnavailable as error:
            return AppCheckResult(None, f"the provider could not be asked: {error}", unavailable=error)
        except (ProviderRejected, MissingValue) as error:
            return AppCheckResult(None, f"the provider's answer does not show it: {error}")
        return AppCheckResult(None, "the provider issued a token for a code that does not exist")

    async def handle_invalid_client(
        self, app: App | None, connector: Connector, workspace: str, rejection: ProviderRejected
    ) -> bool:
        """Check the app after an account's request failed with `rejection`, an invalid client.

        Return False if the provider accepts the app, so that the error concerns the account only. An app from
        the API that the provider rejects is not verified any longer. If the check gives no result, store only
        the reason: the error may concern one account, or come from a server that the account's owner chose.
        Raises `DatabaseUnavailable`.
        """
        result = AppCheckResult(None) if app is None else await self.check(app, connector)
        fields = {"provider": connector.app, "workspace": workspace, "code": rejection.code}
        if result.accepted:
            self._log.warning("app.rejected_for_account", **fields)
            return False
        self._log.error("app.credentials_rejected", **fields)
        if app is not None and app.source == "api":
            reason = f"{rejection.code}: {rejection.detail}" if rejection.detail else rejection.code
            rejected = result.accepted is False
            await self._apps.record_check(app, verified=app.verified and not rejected, reason=reason)
        return True

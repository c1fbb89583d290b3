"""Whether a platform takes an app: it is asked with a code that nobody was given.

That depends on no account. So what one account is refused is told apart from an app that is refused: nobody
puts the app of all aside by removing it from a tenant of his own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from shared.connections.apps import App, Apps
from shared.connections.credentials import template_values
from shared.manifests.connector import Connector
from shared.manifests.oauth1 import OAuth1Flow
from shared.manifests.provider_response import (
    GrantRevoked,
    InvalidClient,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.runtime.logs import Log
from shared.wire.oauth import ProviderRequest, ProviderResponse, new_code_verifier, new_state
from shared.wire.request_template import MissingValue

_PROBE_CODE: Final = "interlink-checks-its-client-credentials"


@dataclass(frozen=True, slots=True)
class AppCheckResult:
    """What a platform says to an app: it takes it, it does not, or (None) it does not tell."""

    accepted: bool | None
    reason: str = ""
    unavailable: ProviderUnavailable | None = None
    """There may be one later."""


class AppChecker:
    """Tries apps out; `ask` sends a request and raises `ProviderUnavailable`."""

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
        """Ask the platform."""
        params = {name: setting.default for name, setting in connector.params.items() if setting.default}
        values = template_values({"provider": connector.provider, "params": params}, app, self._redirect_uri)
        flow = OAuth1Flow(connector.oauth1) if connector.oauth1 is not None else None
        try:
            if flow is not None:
                call = flow.request_token_request(values, state=new_state())
            elif connector.oauth2 is not None:
                call = connector.exchange(values, code=_PROBE_CODE, verifier=new_code_verifier())
            else:
                return AppCheckResult(None, "it cannot be tried out")
            answer = await self._ask(call, app.workspace)
            if flow is not None:
                flow.parse_request_token(answer)
                return AppCheckResult(accepted=True)
            connector.parse_token_response(answer)
        except GrantRevoked:
            return AppCheckResult(accepted=True)  # it took the app, and refused the code
        except InvalidClient as error:
            detail = error.detail or "the platform refuses client id or secret"
            return AppCheckResult(accepted=False, reason=f"{error.code}: {detail}")
        except ProviderUnavailable as error:
            return AppCheckResult(None, f"it could not be asked: {error}", unavailable=error)
        except (ProviderRejected, MissingValue) as error:
            return AppCheckResult(None, f"the platform does not tell: {error}")
        return AppCheckResult(None, "the platform gave a token for a code that does not exist")

    async def handle_invalid_client(
        self, app: App | None, connector: Connector, workspace: str, said: ProviderRejected
    ) -> bool:
        """An account's request was answered as if the app were refused (`said`): whether it seems to be so.

        That is for whoever runs the installation. What the API was told is not verified any more when the
        platform refuses it here, too. Where it cannot be asked or does not tell, only the reason is noted:
        the answer may be about one account, or of a server that the account's owner has named. Raises
        `DatabaseUnavailable`.
        """
        verdict = AppCheckResult(None) if app is None else await self.check(app, connector)
        about = {"provider": connector.app, "workspace": workspace, "code": said.code}
        if verdict.accepted:
            self._log.warning("the platform takes the app, but not for an account of it", **about)
            return False
        self._log.error("the platform refuses the app's own credentials", **about)
        if app is not None and app.source == "api":
            reason = f"{said.code}: {said.detail}" if said.detail else said.code
            refused = verdict.accepted is False
            await self._apps.record_check(app, verified=app.verified and not refused, reason=reason)
        return True

"""Whether a platform takes an app: it is asked with a code that nobody was given.

That depends on no account. So what one account is refused is told apart from an app that is refused: nobody
puts the app of all aside by removing it from a tenant of his own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from shared.catalog.connector import ClientRefused, Connector, ConsentGone, PlatformBusy, Refused
from shared.catalog.three_legged import ThreeLegged
from shared.runtime.apps import App, Apps
from shared.runtime.credentials import values_of
from shared.runtime.logs import Log
from shared.wire.fills import Unfillable
from shared.wire.oauth import Answered, Call, new_state, new_verifier

_NO_CODE: Final = "interlink-checks-its-client-credentials"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a platform says to an app: it takes it, it does not, or (None) it does not tell."""

    takes_it: bool | None
    reason: str = ""
    busy: PlatformBusy | None = None
    """There may be one later."""


class AppTrial:
    """Tries apps out; `ask` sends a request and raises `PlatformBusy`."""

    def __init__(
        self, apps: Apps, log: Log, ask: Callable[[Call, str], Awaitable[Answered]], *, redirect_uri: str
    ) -> None:
        self._apps = apps
        self._log = log
        self._ask = ask
        self._redirect_uri = redirect_uri

    async def verdict(self, app: App, connector: Connector) -> Verdict:
        """Ask the platform."""
        params = {name: setting.default for name, setting in connector.params.items() if setting.default}
        values = values_of({"provider": connector.provider, "params": params}, app, self._redirect_uri)
        flow = ThreeLegged(connector.oauth1) if connector.oauth1 is not None else None
        try:
            if flow is not None:
                call = flow.first(values, state=new_state())
            elif connector.oauth2 is not None:
                call = connector.exchange(values, code=_NO_CODE, verifier=new_verifier())
            else:
                return Verdict(None, "it cannot be tried out")
            answer = await self._ask(call, app.workspace)
            if flow is not None:
                flow.request_token(answer)
                return Verdict(takes_it=True)
            connector.granted(answer)
        except ConsentGone:
            return Verdict(takes_it=True)  # it took the app, and refused the code
        except ClientRefused as error:
            detail = error.detail or "the platform refuses client id or secret"
            return Verdict(takes_it=False, reason=f"{error.code}: {detail}")
        except PlatformBusy as error:
            return Verdict(None, f"it could not be asked: {error}", busy=error)
        except (Refused, Unfillable) as error:
            return Verdict(None, f"the platform does not tell: {error}")
        return Verdict(None, "the platform gave a token for a code that does not exist")

    async def suspect(self, app: App | None, connector: Connector, workspace: str, said: Refused) -> bool:
        """An account's request was answered as if the app were refused (`said`): whether it seems to be so.

        That is for whoever runs the installation. What the API was told is not verified any more when the
        platform refuses it here, too. Where it cannot be asked or does not tell, only the reason is noted:
        the answer may be about one account, or of a server that the account's owner has named. Raises
        `StoreUnavailable`.
        """
        verdict = Verdict(None) if app is None else await self.verdict(app, connector)
        about = {"provider": connector.app, "workspace": workspace, "code": said.code}
        if verdict.takes_it:
            self._log.warning("the platform takes the app, but not for an account of it", **about)
            return False
        self._log.error("the platform refuses the app's own credentials", **about)
        if app is not None and app.source == "api":
            reason = f"{said.code}: {said.detail}" if said.detail else said.code
            refused = verdict.takes_it is False
            await self._apps.judge(app, verified=app.verified and not refused, reason=reason)
        return True

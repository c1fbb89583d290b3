"""Handlers of the redirect to the identity provider and of its callback."""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import page_timeout
from services.console.openid.sign_in import MAX_AGE_S, NotStarted, OpenIdSignIn
from services.console.web.frame import see_other
from services.console.web.visits import Visits, address_of, local_path
from shared.contracts.errors import InterlinkError, Rejected
from shared.runtime.logs import Log

Ask = Callable[[int, str, str], Response]
"""Returns the sign-in page for a status, the path of the next page, and an error text."""
_MAX_PARAMETER: Final = 4096
_MAX_NEXT: Final = 1000


class OpenIdPages:
    """The two handlers. Errors are shown on the sign-in page."""

    def __init__(self, sign_in: OpenIdSignIn, visits: Visits, ask: Ask, log: Log) -> None:
        self._sign_in = sign_in
        self._visits = visits
        self._ask = ask
        self._log = log

    async def begin(self, request: Request) -> Response:
        """Redirect the browser to the identity provider."""
        next_path = local_path(request.query_params.get("next", ""))
        next_path = next_path if len(next_path) <= _MAX_NEXT else "/console"
        try:
            address, cookie = await self._sign_in.begin(next_path)
        except InterlinkError as error:
            return self._ask(503, next_path, str(error))
        response = see_other(address)
        self._visits.set_sign_in_cookie(response, cookie, MAX_AGE_S)
        return response

    async def finish(self, request: Request) -> Response:
        """Handle the callback: create the sessions, and redirect to the next page."""
        answer = {name: value[:_MAX_PARAMETER] for name, value in request.query_params.items()}
        cookie, client = self._visits.sign_in_cookie(request), address_of(request)
        try:
            async with page_timeout():
                started, next_path = await self._sign_in.finish(
                    answer, cookie, address=client, agent=request.headers.get("user-agent", "")
                )
        except InterlinkError as error:
            status = error.status if isinstance(error, Rejected) else 503
            reason = error.reason if isinstance(error, Rejected) else "unavailable"
            self._log.warning("console.sign_in_refused", client=client, reason=reason, detail=str(error))
            response = self._ask(status, "/console", str(error))
            if isinstance(error, NotStarted):
                return response  # with the cookie: another site, or an earlier tab, has sent this
        else:
            self._log.info("console.signed_in", client=client, openid=True)
            async with page_timeout():
                response = await self._visits.start(request, started, local_path(next_path))
        self._visits.delete_sign_in_cookie(response)
        return response

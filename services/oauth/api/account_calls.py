"""`/api/integrations/{id}/proxy/{path}`: calls of a provider's API with a connected account.

A bare ASGI app beside the management API, because bodies are passed on as streams. It is declared to the
framework too, for the OpenAPI document and the audit log
(docs/adr/0093-call-providers-through-the-hub.md).
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from inspect import getdoc
from time import perf_counter
from typing import Annotated, Any, AnyStr, Final, get_args

from fastapi import Depends, FastAPI, Header
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.oauth.calls.forward import AccountCall, CallFailed, CallForwarder
from services.oauth.calls.limits import CallSlots, check_limits
from services.oauth.calls.target import check_query
from shared.connections.integrations import IntegrationRepository
from shared.contracts.errors import OverLimit
from shared.contracts.routes import MAX_STREAMED_BYTES, is_account_call
from shared.runtime import metrics
from shared.runtime.egress.exchange import ExchangeFailed
from shared.runtime.logs import Log
from shared.runtime.web.access import ApiKey, Keyring, authorize, requires
from shared.runtime.web.api_keys import CallMethod
from shared.runtime.web.audit import AuditedRoute
from shared.runtime.web.problems import KNOWN_ERRORS, error_response, openapi_response, problem_response
from shared.runtime.web.request_body import RequestBody, send_early, until_disconnect
from shared.runtime.web.routes import Routes

Caller = Annotated[ApiKey, Depends(requires("accounts:call"))]

PATH: Final = "/api/integrations/{integration_id}/proxy/{path:path}"
_METHODS: Final[tuple[str, ...]] = get_args(CallMethod)
_MAX_LOGGED_PATH: Final = 200
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": (
            "The provider's own answer, with its status, which can be any. It has the header "
            "`Interlink-Provider`; answers of the hub do not."
        ),
        "content": {"*/*": {}},
    },
    400: openapi_response("The path is ambiguous, or a header cannot be sent."),
    403: openapi_response("The API key lacks the scope, or is limited to other accounts or methods."),
    409: openapi_response(
        "The account has to be connected again, or the hub does not know the address of its API."
    ),
    408: openapi_response("The body took too long."),
    413: openapi_response("The body has more than 10 MiB."),
    429: openapi_response("The workspace has too many calls under way.", retry_after=True),
    502: openapi_response("The provider cannot be reached, or announces an answer of more than 10 MiB."),
    504: openapi_response("The provider did not answer in time."),
}


class AccountCallsApi:
    """Declares the calls. `AccountCalls` answers them."""

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app's document."""
        body: dict[str, Any] = {"requestBody": {"content": {"*/*": {}}}}
        for method in _METHODS:
            if method == "HEAD":
                continue  # it is what GET is
            Routes(app, "").declare(
                PATH,
                self._read if method == "GET" else self._call,
                methods=[method],
                name=method.lower(),
                description=getdoc(self._read),
                response_class=Response,
                responses=_RESPONSES,
                openapi_extra=None if method == "GET" else body,
            )

    async def _call(
        self,
        integration_id: str,
        path: str,
        key: Caller,
        idempotency_key: Annotated[
            str | None, Header(alias="Idempotency-Key", description="Passed on to the provider.")
        ] = None,
    ) -> None:
        """Call the provider's API with a body: see `_read`."""

    async def _read(self, integration_id: str, path: str, key: Caller) -> None:
        """Call the provider's API with the account. The hub adds base URL and credentials.

        `path` is below the base URL of the provider's API: its slashes are sent as they are, not encoded. The
        query is passed on. Bodies have at most 10 MiB and are streamed; a longer answer whose length was not
        announced is cut off. Redirects are not followed. After a 401 the call is sent again with new tokens,
        if its body has at most 256 KiB.
        """


class AccountCalls:
    """The ASGI app that answers the calls. `Audit` is outside of it."""

    def __init__(
        self,
        forwarder: CallForwarder,
        integrations: IntegrationRepository,
        keyring: Keyring,
        log: Log,
    ) -> None:
        self._forwarder = forwarder
        self._integrations = integrations
        self._keyring = keyring
        self._log = log
        self._slots = CallSlots()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call.

        An error is answered as problem details. A response that was started stays without its end, and
        the server closes the connection.
        """
        statuses: list[int] = []
        body = RequestBody(scope, receive, max_bytes=MAX_STREAMED_BYTES)

        def start(status: int) -> Send:
            statuses.append(status)
            return send

        try:
            key = await authorize(scope, self._keyring, "accounts:call")
            body.check_size()
            await until_disconnect(body, self._forward(scope, key, body, start))
        except (ClientDisconnect, ExchangeFailed):
            pass  # nobody waits for an answer, or it was started
        except Exception as error:  # noqa: BLE001 -- as the framework does for its own routes
            if not statuses:
                await send_early(send, self._problem(error, scope["path"]), body)

    def _problem(self, error: Exception, path: str) -> Response:
        """Return the answer to a call that failed before the provider's answer was started."""
        if isinstance(error, CallFailed):
            headers = {"Allow": ", ".join(_METHODS)} if error.status == 405 else None
            return problem_response(error.status, error.detail, headers=headers)
        if isinstance(error, OverLimit):
            return problem_response(error.status, error.detail, headers={"Retry-After": "1"})
        if isinstance(error, KNOWN_ERRORS):
            return error_response(error, path, self._log)
        self._log.error("request.failed", route=PATH, exc_info=error)
        return problem_response(500, "an unexpected error: see the log of the service")

    async def _forward(
        self, scope: Scope, key: ApiKey, body: RequestBody, start: Callable[[int], Send]
    ) -> None:
        integration_id, path = _parts(scope["path"])
        call = _call_of(scope)
        if call.method not in _METHODS:
            raise CallFailed(405, f"the methods of calls are {', '.join(_METHODS)}")
        started, status, sent = perf_counter(), 0, 0
        provider = error = ""

        def note(answered: int) -> Send:
            nonlocal status
            status = answered
            return start(answered)

        try:
            async with self._slots.hold(key.workspace):
                integration = await self._integrations.find(integration_id, key.workspace)
                check_limits(key, integration_id, integration, call.method)
                if key.accounts and key.accounts.methods is not None:
                    check_query(call.raw_query)
                provider = integration.provider
                sent = await self._forwarder.forward(call, integration, body, note)
        except (CallFailed, ExchangeFailed) as failure:
            error = str(failure)
            raise
        finally:
            if provider:
                metrics.account_calls(provider, f"{status // 100}xx" if status else "failed").inc()
                metrics.WORKSPACE_USAGE.count(key.workspace, "account_call")
                self._log.info(
                    "account.called",
                    integration_id=integration_id,
                    provider=provider,
                    key_id=key.id,
                    method=call.method,
                    path=path[:_MAX_LOGGED_PATH],
                    status=status or None,
                    response_bytes=sent,
                    ms=round((perf_counter() - started) * 1000),
                    **({"error": error} if error else {}),
                )


def audited(routes: Iterable[AuditedRoute]) -> list[AuditedRoute]:
    """Return those of the routes that are account calls, marked as streamed."""
    return [replace(route, is_streamed=True) for route in routes if is_account_call(route.path)]


def dispatch(calls: ASGIApp, management: ASGIApp) -> ASGIApp:
    """Return the app that gives account calls to `calls`, and everything else to the management API."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_call = scope["type"] == "http" and is_account_call(scope["path"])
        await (calls if is_call else management)(scope, receive, send)

    return app


def _parts(path: AnyStr) -> tuple[AnyStr, AnyStr]:
    """Return the id of the integration, and what is below its base URL.

    By the slashes, which are the same in the decoded path and as it was sent: a path with an encoded slash is
    refused before it is routed, but other characters may be encoded.
    """
    parts = path.split("/" if isinstance(path, str) else b"/", 5)
    return parts[3], parts[5]


def _call_of(scope: Scope) -> AccountCall:
    headers = list(scope["headers"])
    host = next((value.decode("latin-1") for name, value in headers if name == b"host"), "")
    return AccountCall(
        method=scope["method"],
        raw_path=_parts(scope["raw_path"].partition(b"?")[0])[1],
        raw_query=scope["query_string"],
        headers=headers,
        host=host,
    )

"""Carry out the operations of a provider's channel with the token of an account."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlencode, urlsplit

import orjson

from shared.connections.tokens import Access, TokenSource
from shared.contracts.errors import Conflict, Misconfigured, NotFound, RetryLater
from shared.manifests.channel_types import Call, CallResponse, FilePart, Operation, Step
from shared.manifests.registry import Provider
from shared.runtime.egress.client import EgressClient, EgressResponse
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.egress.upload import FormFile, upload, upload_form
from shared.runtime.version import VERSION
from shared.wire.bodies import FORM_CONTENT_TYPE, JSON_CONTENT_TYPE
from shared.wire.provider_http import ProviderResponse
from shared.wire.request_template import RequestTemplate

_TIMEOUT_S: Final = 15.0
_MAX_RESPONSE_BYTES: Final = 2 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
"""A longer response is no error: it need not be parsed to know that the token was accepted."""
_TRANSFER: Final = TransferDeadlines(total_s=900.0)
_USER_AGENT: Final = f"Interlink/{VERSION}"
_NOT_SENT: Final = frozenset({"dns", "tls", "address_refused", "bad_url", "proxy"})
"""Failures of calls that the provider did not get."""
_NOT_CONNECTED: Final = (
    "connection refused",
    "no route to host",
    "network is unreachable",
    "the connection was closed before the request was sent",
)
"""Details of the failure `connection` in which the provider did not get the call either."""

T = TypeVar("T")
BeforeStep = Callable[[Step], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of an operation, on this machine's disk."""

    path: Path
    content_type: str


_NO_FILES: Final[Mapping[str, LocalFile]] = {}


class OutcomeUnknown(Exception):
    """The provider did not answer the visible step: people may see its effect, or not."""


class NotReached(Exception):
    """The provider did not get the step, or nobody sees its effect: the operation may be repeated."""


class ChannelCalls:
    """Sends the steps of operations, each with the account's token, and refreshes a rejected token once."""

    def __init__(self, tokens: TokenSource, client: EgressClient, providers: Mapping[str, Provider]) -> None:
        self._tokens = tokens
        self._client = client
        self._providers = providers

    async def run(
        self,
        operation: Operation[T],
        integration_id: str,
        *,
        files: Mapping[str, LocalFile] | None = None,
        before: BeforeStep | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> T:
        """Carry an operation out and return its result. `timeout_s` bounds each step without files.

        `files` has the files of the operation by id. `before` is awaited before each step; what it raises
        ends the operation. Raises `ChannelFailure` for a refusal, `NotReached`, `OutcomeUnknown`, and as
        `TokenSource.access` does: `NotFound`, `NotConnected`, `ProviderUnavailable`, `DatabaseUnavailable`.
        After the visible step, a step without a response ends nothing: the operation does without it.
        """
        access = await self._tokens.access(integration_id)
        is_shown = False
        try:
            step = next(operation)
            while True:
                if before is not None:
                    await before(step)
                try:
                    answer, access = await self.send(step, access, files or {}, timeout_s=timeout_s)
                    response = CallResponse(answer.status, answer.headers, _json(answer.body))
                except (NotReached, NotFound, Conflict, RetryLater):
                    if not is_shown:
                        raise
                    response = CallResponse(HTTPStatus.SERVICE_UNAVAILABLE, {})
                is_shown = is_shown or step.visible
                step = operation.send(response)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            operation.close()

    async def send(
        self,
        step: Step,
        access: Access,
        files: Mapping[str, LocalFile] = _NO_FILES,
        *,
        timeout_s: float = _TIMEOUT_S,
        max_bytes: int = _MAX_RESPONSE_BYTES,
    ) -> tuple["StepResponse", Access]:
        """Send a step, and once more with new tokens if the provider rejects these.

        Return the response with the tokens that it was sent with. At most `max_bytes` of its body are read.
        Raises as `run` does.
        """
        response = await self._request(step, access, files, timeout_s, max_bytes)
        if step.call.token and len(response.body) <= _MAX_ERROR_BYTES:
            connector = access.connector
            answer = ProviderResponse(response.status, response.headers, response.body)
            if connector.is_token_rejected(answer, connector.api_for(access.kind)):
                access = await self._tokens.replace_rejected(access)
                response = await self._request(step, access, files, timeout_s, max_bytes)
        return response, access

    async def _request(
        self,
        step: Step,
        access: Access,
        files: Mapping[str, LocalFile],
        timeout_s: float,
        max_bytes: int,
    ) -> "StepResponse":
        call = step.call
        url = self.address(call, access)
        headers = {"User-Agent": _USER_AGENT, **(access.headers if call.token else {})}
        workspace = access.workspace
        if call.body_of is not None:
            file = files[call.body_of]
            answer = await upload(
                self._client,
                call.method,
                url,
                file.path,
                deadlines=_TRANSFER,
                content_type=file.content_type or "application/octet-stream",
                headers=headers,
                workspace=workspace,
                max_response_bytes=max_bytes,
            )
        elif call.multipart is not None:
            fields, parts = _form_parts(call.multipart, files)
            answer = await upload_form(
                self._client,
                url,
                fields,
                parts,
                deadlines=_TRANSFER,
                headers=headers,
                workspace=workspace,
                max_response_bytes=max_bytes,
            )
        else:
            body: bytes | None = None
            if call.json is not None:
                body, headers["Content-Type"] = orjson.dumps(call.json), JSON_CONTENT_TYPE
            elif call.form is not None:
                body, headers["Content-Type"] = urlencode(call.form).encode(), FORM_CONTENT_TYPE
            answer = await self._client.call(
                call.method,
                url,
                headers,
                body,
                timeout_s=timeout_s,
                workspace=workspace,
                max_bytes=max_bytes,
            )
        return _answered(answer, step)

    def address(self, call: Call, access: Access) -> str:
        """Return the address of a call. An absolute one is the provider's; it may have `{access_token}`."""
        if call.url:
            token = access.token if call.token else ""
            address = call.url.replace("{access_token}", token)
        else:
            manifest = self._providers[access.provider].manifest
            spec = manifest.channel or manifest.history
            if spec is None:
                raise Misconfigured(f"{access.provider}: its manifest has no channel and no history: add one")
            base = RequestTemplate(spec.base).url(access.values) if spec.base else access.base
            address = f"{base.rstrip('/')}/{call.path}"
        if call.query:
            address += ("&" if urlsplit(address).query else "?") + urlencode(call.query)
        return address


@dataclass(frozen=True, slots=True)
class StepResponse:
    """The response to a step, with its body as bytes. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _answered(answer: EgressResponse, step: Step) -> StepResponse:
    """Return the response of a call that was answered. Raises `NotReached` or `OutcomeUnknown`."""
    if answer.status is not None:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return StepResponse(answer.status, headers, answer.body)
    text = f"{answer.failure}: {answer.detail}"[:300]
    certain = answer.failure in _NOT_SENT or (
        answer.failure == "connection" and answer.detail in _NOT_CONNECTED
    )
    raise NotReached(text) if certain or not step.visible else OutcomeUnknown(text)


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _form_parts(
    multipart: Sequence[tuple[str, str | FilePart]], files: Mapping[str, LocalFile]
) -> tuple[list[tuple[str, str]], list[FormFile]]:
    fields: list[tuple[str, str]] = []
    parts: list[FormFile] = []
    for name, value in multipart:
        if isinstance(value, FilePart):
            parts.append(FormFile(name, files[value.file_id].path, value.filename, value.content_type))
        else:
            fields.append((name, value))
    return fields, parts

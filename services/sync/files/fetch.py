"""Fetch the files of a message to the disk, for a target that takes bytes.

An address of this hub is fetched from the provider, any other one by the egress client. Others chose these
addresses, so a file is bounded in bytes and time, and may fail: then the message goes without it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from multidict import CIMultiDict

from services.sync.files.disk import DiskFull, FileSpace, Reservation
from shared.connections.channel_calls import LocalFile
from shared.connections.files.addresses import FileAddresses, FileRef
from shared.connections.files.disk_file import DiskFile
from shared.connections.files.failure import FileFailed
from shared.connections.files.names import (
    UNKNOWN_TYPE,
    changes_type,
    media_type,
    safe_name,
    shown_size,
)
from shared.connections.files.source import ProviderFiles
from shared.contracts.chat import ChatAttachment
from shared.contracts.errors import (
    Conflict,
    DatabaseUnavailable,
    InterlinkError,
    NotFound,
    Rejected,
    RetryLater,
)
from shared.manifests.channel_types import OutgoingFile
from shared.manifests.registry import Provider
from shared.richtext.urls import safe_url
from shared.runtime.egress.client import EgressClient
from shared.runtime.egress.download import MAX_REDIRECTS, Download, DownloadFailed, download
from shared.runtime.egress.errors import BadUrl
from shared.runtime.egress.exchange import ExchangeFailed
from shared.runtime.egress.progress import TransferDeadlines
from shared.runtime.egress.urls import parse_url, redirect_target, same_origin
from shared.runtime.version import VERSION
from shared.wire.paths import is_ambiguous

WORKSPACE_HEADER: Final = "Interlink-Workspace"
_DEADLINES: Final = TransferDeadlines(total_s=300.0, answer_s=30.0)
_DISK_WAIT_S: Final = 60.0
_AT_A_TIME: Final = 3
"""Files of one message that are fetched at a time."""
_USER_AGENT: Final = f"Interlink/{VERSION}"
_NO_ROOM: Final = "the hub has no room for it at the moment"
_REFUSED: Final = "the hub may not call its address, or the address does not exist"
_NO_SUCH_FILE: Final = "its address is not valid any more"


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file on this machine's disk. It is deleted when the context of `FileFetcher.fetch` ends."""

    attachment: ChatAttachment
    path: Path
    filename: str
    content_type: str
    size: int

    @property
    def outgoing(self) -> OutgoingFile:
        """The file as an operation of a channel names it."""
        return OutgoingFile(self.attachment.id, self.filename, self.content_type, self.size)

    @property
    def local(self) -> LocalFile:
        """The file as `ChannelCalls.run` reads it."""
        return LocalFile(self.path, self.content_type)


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file that cannot be sent. `text` is the reason, for people.

    `link` is its public address, if it has one. `retryable` says whether another attempt may succeed.
    """

    attachment: ChatAttachment
    text: str
    link: str = ""
    retryable: bool = False


class ChatFiles:
    """The chat's files below one address of the settings, which may be internal and want a token."""

    def __init__(self, base: str, token: str, client: EgressClient) -> None:
        self._base = base
        self._path = urlsplit(base).path.rstrip("/")
        self._token = token
        self.client = client

    def covers(self, url: str) -> bool:
        """Return whether an address is below that of the settings."""
        try:
            parsed = parse_url(url)
            is_same = same_origin(url, self._base)
        except ValueError:
            return False
        path = parsed.raw_path
        is_below = path == self._path or path.startswith(f"{self._path}/")
        return is_same and is_below and not is_ambiguous(path.encode())

    def headers(self, workspace: str) -> dict[str, str]:
        """Return the headers of a request. They name the workspace: the chat may have to check it."""
        token = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return {WORKSPACE_HEADER: workspace, **token}


class FileFetcher:
    """Fetches files of messages. Clients and space have to be started before it is used."""

    def __init__(
        self,
        addresses: FileAddresses,
        provider_files: ProviderFiles,
        space: FileSpace,
        client: EgressClient,
        chat_files: ChatFiles | None,
        *,
        max_bytes: int,
    ) -> None:
        self._addresses = addresses
        self._provider_files = provider_files
        self._space = space
        self._client = client
        self._chat_files = chat_files
        self._max_bytes = min(max_bytes, space.share)

    @asynccontextmanager
    async def fetch(
        self, attachments: Sequence[ChatAttachment], workspace: str, target: Provider
    ) -> AsyncIterator[list[FetchedFile | FileProblem]]:
        """Fetch the files of a message for a target, and delete them when the context ends.

        The results are in the order of the attachments. Never raises for a single file, except
        `DatabaseUnavailable`.
        """
        plans = [self._plan(index, item, workspace, target) for index, item in enumerate(attachments)]
        left = self._space.share
        for index, plan in enumerate(plans):
            if isinstance(plan, _Plan):
                if plan.max_bytes > left:
                    text = "the files of the message are too large together"
                    plans[index] = self._problem(plan.attachment, text)
                else:
                    left -= plan.max_bytes
        wanted = [plan for plan in plans if isinstance(plan, _Plan)]
        if not wanted:
            yield [plan for plan in plans if isinstance(plan, FileProblem)]
            return
        async with AsyncExitStack() as stack:
            try:
                space = await stack.enter_async_context(
                    self._space.reserve(workspace, self._space.share - left, wait_s=_DISK_WAIT_S)
                )
            except (DiskFull, OSError):
                yield [
                    self._problem(plan.attachment, _NO_ROOM, retryable=True)
                    if isinstance(plan, _Plan)
                    else plan
                    for plan in plans
                ]
                return
            at_a_time = asyncio.Semaphore(_AT_A_TIME)
            # All have ended before an error is raised: none writes into the folder any more.
            results = await asyncio.gather(
                *(self._carried_out(plan, workspace, space, at_a_time) for plan in plans),
                return_exceptions=True,
            )
            found: list[FetchedFile | FileProblem] = []
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                found.append(result)
            yield found

    def _plan(
        self, index: int, attachment: ChatAttachment, workspace: str, target: Provider
    ) -> "_Plan | FileProblem":
        """Decide whether a file can be fetched for a target, without asking anybody."""
        name, spec = target.manifest.name, target.manifest.channel
        limits = spec.limits if spec else None
        if limits and index >= limits.files:
            return self._problem(attachment, f"{name} takes {limits.files} files in a message")
        ref: FileRef | None = None
        size = attachment.size
        if self._addresses.is_own(attachment.url):
            ref = self._addresses.open(attachment.url)
            if ref is None or ref.is_expired or ref.workspace != workspace:
                return self._problem(attachment, _NO_SUCH_FILE)
            size = ref.file.size
        allowed = min(self._max_bytes, limits.upload_bytes) if limits else self._max_bytes
        too_large = f"too large for {name} ({shown_size(allowed)} at most)"
        if allowed == self._max_bytes:
            too_large = f"too large to be forwarded ({shown_size(allowed)} at most)"
        if size is not None and size > allowed:
            return self._problem(attachment, too_large)
        if size:
            allowed, too_large = size, "it is larger than was announced"
        return _Plan(str(index), attachment, ref, allowed, too_large)

    async def _carried_out(
        self,
        plan: "_Plan | FileProblem",
        workspace: str,
        space: Reservation,
        at_a_time: asyncio.Semaphore,
    ) -> FetchedFile | FileProblem:
        if isinstance(plan, FileProblem):
            return plan
        async with at_a_time:
            result = await self._fetch_one(plan, workspace, space.folder / plan.name)
        space.give_back(plan.max_bytes - (result.size if isinstance(result, FetchedFile) else 0))
        return result

    async def _fetch_one(self, plan: "_Plan", workspace: str, path: Path) -> FetchedFile | FileProblem:
        attachment = plan.attachment
        try:
            if plan.ref is not None:
                async with asyncio.timeout(_DEADLINES.total_s):
                    size, received = await self._from_provider(plan.ref, path, plan.max_bytes)
            else:
                done = await self._from_chat(attachment.url, path, plan.max_bytes, workspace)
                size, received = done.size, done.content_type
        except DatabaseUnavailable:
            raise
        except (InterlinkError, OSError) as error:
            return self._failed(plan, error)
        announced = plan.ref.file.content_type if plan.ref else attachment.content_type
        if changes_type(announced, received):
            text = f"it is {media_type(received)} instead of {media_type(announced)}"
            return self._problem(attachment, text)
        if size == 0:
            return self._problem(attachment, "it is empty")
        kind = media_type(received)
        kind = media_type(announced) if kind == UNKNOWN_TYPE else kind
        return FetchedFile(attachment, path, safe_name(attachment.filename), kind, size)

    async def _from_chat(self, url: str, path: Path, max_bytes: int, workspace: str) -> Download:
        """Download a file and follow redirects, none of which leads into the chat's files."""
        chat_files = self._chat_files
        for _ in range(MAX_REDIRECTS + 1):
            chat_files = chat_files if chat_files and chat_files.covers(url) else None
            client = chat_files.client if chat_files else self._client
            headers = {"User-Agent": _USER_AGENT, **(chat_files.headers(workspace) if chat_files else {})}
            try:
                return await download(
                    client,
                    url,
                    path,
                    max_bytes=max_bytes,
                    deadlines=_DEADLINES,
                    headers=headers,
                    workspace=workspace,
                    max_redirects=0,
                )
            except DownloadFailed as error:
                if error.failure != "too_many_redirects":
                    raise
                try:
                    url = redirect_target(url, CIMultiDict(error.headers).get("Location", ""))
                except BadUrl as bad:
                    raise DownloadFailed("bad_url", str(bad)) from None
        raise DownloadFailed("too_many_redirects", f"more than {MAX_REDIRECTS} redirects")

    async def _from_provider(self, ref: FileRef, path: Path, max_bytes: int) -> tuple[int, str]:
        """Write a provider's file to the disk, and return its size and its type."""
        async with DiskFile(path) as file, self._provider_files.opened(ref) as response:
            if (response.content_length or 0) > max_bytes:
                raise ExchangeFailed("too_large", "the file is larger than was announced")
            await response.relay(file.write, max_bytes)
            await file.finish()
            return file.size, response.header("Content-Type")

    def _failed(self, plan: "_Plan", error: Exception) -> FileProblem:
        """Return the problem of a file that could not be fetched."""
        attachment = plan.attachment
        match error:
            case DownloadFailed(failure="too_large") | ExchangeFailed(failure="too_large"):
                return self._problem(attachment, plan.too_large)
            case DownloadFailed(failure="address_refused" | "bad_url" | "dns"):
                return FileProblem(attachment, _REFUSED)
            case DownloadFailed(failure="disk"):
                return self._problem(attachment, _NO_ROOM, retryable=True)
            case DownloadFailed():
                text = f"it cannot be fetched ({error.detail})"
                return self._problem(attachment, text, retryable=error.retryable)
            case ExchangeFailed():
                return self._problem(attachment, f"it cannot be fetched ({error.detail})", retryable=True)
            case FileFailed():
                return self._problem(attachment, error.text, retryable=error.retryable)
            case NotFound() | Conflict():  # the account that has it is not connected now
                return self._problem(attachment, error.detail, retryable=True)
            case Rejected():
                return self._problem(attachment, error.detail)
            case TimeoutError():
                return self._problem(attachment, "it cannot be fetched in time", retryable=True)
            case OSError():
                return self._problem(attachment, _NO_ROOM, retryable=True)
        return self._problem(attachment, str(error), retryable=isinstance(error, RetryLater))

    def _problem(self, attachment: ChatAttachment, text: str, *, retryable: bool = False) -> FileProblem:
        """Return the problem of a file, with its address if that is a public one of the chat."""
        url = attachment.url
        is_public = not self._addresses.is_own(url) and not (
            self._chat_files and self._chat_files.covers(url)
        )
        link = safe_url(url) if is_public else ""
        return FileProblem(attachment, text, link if link.startswith("http") else "", retryable)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A file that is to be fetched to `name` in the message's folder. It has at most `max_bytes` bytes."""

    name: str
    attachment: ChatAttachment
    ref: FileRef | None
    max_bytes: int
    too_large: str

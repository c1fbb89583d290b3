"""Load a provider's own code, which is beside its manifest.

It imports few other models of the manifest: the reader process of a connected account loads only this.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from shared.contracts.errors import Misconfigured
from shared.manifests.channel_models import ChannelSpec
from shared.manifests.history_models import HistorySpec

if TYPE_CHECKING:
    from shared.manifests.channel_types import Channel, ExternalFile
    from shared.manifests.history_types import ReadsPages
    from shared.manifests.webhook import BodyReader
    from shared.richtext.dialect import Dialect

PACKAGE: Final = "shared.providers"


@contextmanager
def _importing(provider: str, file: str) -> Iterator[None]:
    """Import or call a provider's own code inside this context. All its errors become `Misconfigured`."""
    try:
        yield
    except SyntaxError as error:
        raise Misconfigured(f"{provider}/{file}: line {error.lineno}: {error.msg}") from None
    except Exception as error:
        raise Misconfigured(f"{provider}/{file}: {type(error).__name__}: {error}") from error


def member(provider: str, file: str, name: str) -> Any:
    """Return the attribute with this name of a provider's own file; None if it has none.

    Raises `FileNotFoundError` without the file, and `Misconfigured` if it is not valid Python or fails on
    import.
    """
    if not files(PACKAGE).joinpath(provider, file).is_file():
        raise FileNotFoundError
    with _importing(provider, file):
        return getattr(import_module(f"{PACKAGE}.{provider}.{file.removesuffix('.py')}"), name, None)


def body_reader(provider: str) -> "BodyReader | None":
    """Return the `read` function of a provider's own `body.py`; None without this file.

    Raises `Misconfigured` if the file is not valid Python, fails on import, or has no `read`.
    """
    try:
        reader: BodyReader | None = member(provider, "body.py", "read")
    except FileNotFoundError:
        return None
    if not callable(reader):
        raise Misconfigured(f"{provider}/body.py: has no function read: add def read(body: bytes) -> Any")
    return reader


def load_channel(provider: str, spec: ChannelSpec) -> "Channel":
    """Return the `Channel` of a provider's own `channel.py`, made with the manifest's section.

    Raises `Misconfigured` without this file, and if it is not valid Python, fails on import or has no class.
    """
    channel: Channel = _made(provider, "channel.py", "Channel", spec, section="channel")
    return channel


def load_page_reader(provider: str, spec: HistorySpec) -> "ReadsPages":
    """Return the `PageReader` of a provider's own `history.py`, made with the manifest's section.

    Raises `Misconfigured` without this file, and if it is not valid Python, fails on import or has no class.
    """
    reader: ReadsPages = _made(provider, "history.py", "PageReader", spec, section="history")
    return reader


def _made(provider: str, file: str, name: str, spec: BaseModel, *, section: str) -> Any:
    """Return an instance of a class of a provider's own file, made with a section of the manifest."""
    try:
        factory = member(provider, file, name)
    except FileNotFoundError:
        raise Misconfigured(f"{provider}/{file}: missing: the manifest has a {section} section") from None
    if not callable(factory):
        raise Misconfigured(f"{provider}/{file}: has no class {name}: add it")
    with _importing(provider, file):
        return factory(spec)


def load_signed_address(provider: str) -> "Callable[[ExternalFile], str | None] | None":
    """Return the `signed_address` of a provider's own `files.py`; None without this file.

    Raises `Misconfigured` if it is not valid Python, fails on import or has no such function.
    """
    try:
        function: Callable[[ExternalFile], str | None] | None = member(provider, "files.py", "signed_address")
    except FileNotFoundError:
        return None
    if not callable(function):
        raise Misconfigured(f"{provider}/files.py: has no function signed_address: add it")
    return function


def load_dialect(provider: str) -> "Dialect | None":
    """Return the dialect of a provider's own `dialect.py`; None without this file.

    Raises `Misconfigured` if the file is not valid Python, fails on import, or has no `parse`.
    """
    try:
        parse = member(provider, "dialect.py", "parse")
    except FileNotFoundError:
        return None
    from shared.richtext.dialect import Dialect  # noqa: PLC0415 -- saves memory

    if not callable(parse):
        raise Misconfigured(
            f"{provider}/dialect.py: has no function parse: add def parse(text: str) -> Document"
        )
    return Dialect(
        parse,
        member(provider, "dialect.py", "reference"),
        member(provider, "dialect.py", "parse_body"),
        member(provider, "dialect.py", "FILTER") or "",
    )

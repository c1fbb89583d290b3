"""The parameters of a call of the Bot API, from the query, a form, JSON or multipart."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.support.fakes.telegram_model import Refusal
from tests.support.provider_hosts import FORM, JSON, HostRequest

_MULTIPART: Final = "multipart/form-data"
_DISPOSITION: Final = re.compile(rb'([a-z]+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Upload:
    """A file of a multipart body."""

    name: str
    media_type: str
    content: bytes


class Params:
    """The values of a call by name, and its uploaded files."""

    def __init__(self, values: Mapping[str, Any], files: Mapping[str, Upload]) -> None:
        self.values = dict(values)
        self.files = dict(files)

    @classmethod
    def of(cls, request: HostRequest) -> "Params":
        """Read them; Refusal for a body in no form that Telegram reads."""
        try:
            values, files = _body(request)
        except (ValueError, TypeError):
            raise Refusal.bad("can't parse the request") from None
        return cls(request.params() | values, files)

    def text(self, name: str, default: str = "") -> str:
        """A text, or the default."""
        return str(self.values.get(name, default))

    def integer(self, name: str) -> int | None:
        """A number; None when it is missing. Refusal."""
        value = self.values.get(name)
        try:
            return None if value is None else int(value)
        except (TypeError, ValueError):
            raise Refusal.bad(f"{name} is not an integer") from None

    def flag(self, name: str) -> bool:
        """A boolean, false when it is missing."""
        return str(self.values.get(name, "")).lower() in {"true", "1", "yes"}

    def object(self, name: str, default: Any = None) -> Any:
        """A value that is JSON in a form; Refusal."""
        value = self.values.get(name, default)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise Refusal.bad(f"can't parse {name} JSON object") from None

    def list(self, name: str) -> list[Any]:
        """An array, empty when it is missing; Refusal."""
        value = self.object(name, [])
        if not isinstance(value, list):
            raise Refusal.bad(f"{name} must be an Array")
        return value


def _body(request: HostRequest) -> tuple[dict[str, Any], dict[str, Upload]]:
    """The values and files of a body; ValueError."""
    if not request.body:
        return {}, {}
    if request.media_type == JSON:
        return dict(request.json()), {}
    if request.media_type == FORM:
        return dict(request.form()), {}
    if request.media_type == _MULTIPART:
        return _multipart(request)
    raise ValueError(request.media_type)


def _multipart(request: HostRequest) -> tuple[dict[str, Any], dict[str, Upload]]:
    _, _, boundary = request.headers["content-type"].partition("boundary=")
    values: dict[str, Any] = {}
    files: dict[str, Upload] = {}
    for part in (b"\r\n" + request.body).split(b"\r\n--" + boundary.strip('"').encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n") if line)
        }
        named = dict(_DISPOSITION.findall(headers[b"content-disposition"]))
        name = named[b"name"].decode()
        if name in values or name in files:
            raise ValueError(f"{name} is there twice")
        if b"filename" in named:
            media_type = headers.get(b"content-type", b"application/octet-stream").decode()
            files[name] = Upload(named[b"filename"].decode(), media_type, content)
        else:
            values[name] = content.decode()
    return values, files

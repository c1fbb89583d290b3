"""One range of a file, as servers of files answer it (RFC 9110, 14)."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

from tests.support.provider_hosts import HostRequest, Reply

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def file_reply(request: HostRequest, data: bytes, media_type: str) -> Reply:
    """The file, or the range of it that was asked for."""
    etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {"content-type": media_type, "accept-ranges": "bytes", "etag": etag}
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return Reply(200, data, headers)
    if wanted[1]:
        first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
    else:
        first, last = max(0, len(data) - int(wanted[2])), len(data) - 1
    last = min(last, len(data) - 1)
    if first > last:
        return Reply(416, b"", headers | {"content-range": f"bytes */{len(data)}"})
    headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
    return Reply(206, data[first : last + 1], headers)


class BrokenOff:
    """A file whose first responses break off, from a server that sends ranges of one version (RFC 9110).

    `cuts` are the bytes that each of the next responses has; behind them, responses are whole. `hold_s` is
    how long a connection stays open after a cut: time to read what has arrived. Without `validator`,
    responses name no version. `asked` are the ranges that were asked for, empty without one.
    """

    def __init__(
        self,
        data: bytes,
        cuts: Iterable[int] = (),
        *,
        hold_s: float = 0.5,
        validator: bool = True,
        sends_ranges: bool = True,
    ) -> None:
        self.data = data
        self.cuts = list(cuts)
        self.hold_s = hold_s
        self.validator = validator
        self.sends_ranges = sends_ranges
        self.asked: list[str] = []

    def __call__(self, request: HostRequest) -> Reply:
        """Answer a request. A range without the version that it continues is a fault."""
        wanted = request.headers.get("range", "")
        assert bool(wanted) == ("if-range" in request.headers), "a resumed request names the version"
        self.asked.append(wanted)
        if not self.sends_ranges:
            request = replace(request, headers={**request.headers, "range": ""})
        reply = file_reply(request, self.data, "application/octet-stream")
        headers = {name: value for name, value in reply.fields if self.validator or name != "etag"}
        cut = self.cuts.pop(0) if self.cuts else None
        return replace(reply, headers=headers, cut=cut, hold_s=self.hold_s if cut is not None else 0.0)

"""One range of a file, as servers of files answer it (RFC 9110, 14)."""

import hashlib
import re

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

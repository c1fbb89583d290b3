"""Origins: scheme, host and port, as browsers write them."""

import re
from typing import Final
from urllib.parse import urlsplit

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
"""A host without characters that have a meaning in a header, such as a semicolon or an asterisk."""
MAX_ORIGIN: Final = 300


def parse_origin(text: str) -> str:
    """Return an origin in lower case, without its scheme's default port. Raises `ValueError`."""
    error = ValueError(f"{text.strip()[:MAX_ORIGIN]} is not an origin such as https://chat.example.com")
    try:
        parts = urlsplit(text.strip().lower())
        port = parts.port
    except ValueError:
        raise error from None
    host = parts.netloc.removesuffix(f":{port}")
    if parts.scheme not in _DEFAULT_PORTS or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise error
    if port == 0 or not _HOST.fullmatch(host) or len(text) > MAX_ORIGIN or text.rstrip().endswith(("?", "#")):
        raise error
    return f"{parts.scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS[parts.scheme] else "")

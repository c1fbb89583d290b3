"""URLs that a request names and the hub is to call: only those of the provider are allowed. Pure."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

MAX_URL_CHARACTERS: Final = 500
MAX_WITH_QUERY_CHARACTERS: Final = 1000

REGION: Final = "{region}"
"""In a host, the place of the name of an AWS region (`us-east-1`)."""

_REGION_PATTERN: Final = "[a-z]{2,4}(?:-[a-z]+){1,3}-[0-9]{1,2}"
"""A region's name. `s3-us-west-2` is none: the owner of a bucket could publish there."""

_PLAIN_URL: Final = re.compile(r"https://([a-z0-9.-]+)(/[A-Za-z0-9._~/-]*)(\?[A-Za-z0-9._~:/=&%+-]*)?")
"""Host, path and query. Whatever else a URL may have (a port, a user, other letters) is ambiguous."""


def allowed_url(
    url: str | None, hosts: Sequence[str], path: str = "/", *, with_query: bool = False
) -> str | None:
    """Return the URL if it is https, on one of `hosts` and below `path`; None if it is not.

    It may have neither user, port, fragment nor escapes in its path, and a query only if `with_query`.
    """
    max_characters = MAX_WITH_QUERY_CHARACTERS if with_query else MAX_URL_CHARACTERS
    match = _PLAIN_URL.fullmatch(url) if url and len(url) <= max_characters else None
    if match is None or (match[3] is not None and not with_query):
        return None
    if not any(_host_pattern(host).fullmatch(match[1]) for host in hosts):
        return None
    return url if match[2].startswith(path) and ".." not in match[2] else None


@lru_cache(maxsize=1024)
def _host_pattern(host: str) -> re.Pattern[str]:
    # `{region}` stands for one name between dots; everything else is a literal.
    return re.compile(_REGION_PATTERN.join(map(re.escape, host.split(REGION))))

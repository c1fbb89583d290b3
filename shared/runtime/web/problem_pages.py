"""The pages behind the `type` of problem details: what a status means here, and what to do about it.

Every service answers `/api/problems/{status}`, to everybody: nothing in a page is of the caller. The
documentation site has the same texts on one page.
"""

import re
from functools import cache
from typing import Final, NamedTuple

from starlette.responses import Response

from shared.runtime.web.problems import PROBLEM_PAGES, SANDBOX_HEADERS, phrase, problem_response


class ProblemText(NamedTuple):
    """Meaning of a status, and what the caller can do."""

    meaning: str
    remedy: str


PROBLEM_TEXTS: Final[dict[int, ProblemText]] = {
    400: ProblemText(
        "The request cannot be read: its body, a header, the path or a cursor has not the documented form.",
        "Correct the request. Sending the same one again gives the same response.",
    ),
    401: ProblemText(
        "The API key is missing, unknown, expired or revoked. At a webhook's address, the signature or the "
        "token is missing or wrong.",
        "Send `Authorization: Bearer <key>` with a valid key of the workspace. For a webhook, compare the "
        "secret with the provider's, and send the body as it was signed.",
    ),
    403: ProblemText(
        "The key is valid, and its scopes or the address of the caller do not allow this call.",
        "Use a key with the scope that `detail` names, or add the caller's address to `allow_ips`.",
    ),
    404: ProblemText(
        "There is no such path, or no such resource in the workspace of the key.",
        "Compare the path with the OpenAPI document, and the id with a list of the same workspace.",
    ),
    405: ProblemText(
        "The path does not take this method.",
        "Use one of the methods in the header `Allow`.",
    ),
    408: ProblemText(
        "The body did not arrive in time.",
        "Send it again over a faster connection.",
    ),
    409: ProblemText(
        "The call conflicts with what is stored, or with another call under way.",
        "Read the resource, decide anew, and send the call again.",
    ),
    410: ProblemText(
        "The endpoint is disabled, or the address of the file has expired.",
        "The owner of an endpoint can enable it. A file is still where its message was written.",
    ),
    412: ProblemText(
        "The object has another version than `If-Match` names: somebody has changed it. Or an upload is made "
        "by another version of tus than the hub has.",
        "Read the object again, compare, and send the change with its `version`. For an upload, "
        "`Tus-Version` names the version of the hub.",
    ),
    413: ProblemText(
        "The body has more bytes or items than the limit, before or after decompression.",
        "Send less, or in several requests.",
    ),
    415: ProblemText(
        "The path does not read this content type or encoding.",
        "Send JSON with `Content-Type: application/json`, not encoded or with gzip.",
    ),
    416: ProblemText(
        "The file does not have the requested range.",
        "`Content-Range` names its size: ask for less, or for the whole file.",
    ),
    422: ProblemText(
        "The body can be read, and some of its fields are not acceptable.",
        "`errors` names each field and what is wrong with it.",
    ),
    429: ProblemText(
        "A limit of the key, the caller, the endpoint or the workspace is used up.",
        "Wait for the seconds in `Retry-After`, and send fewer requests at a time. `GET /api/usage` has the "
        "workspace's quotas; an operator raises them.",
    ),
    431: ProblemText(
        "The request line and the headers are too large.",
        "Send fewer or shorter headers.",
    ),
    460: ProblemText(
        "The bytes of an upload do not have the checksum that was sent with them. They were not stored.",
        "Send the same bytes again, from the same offset.",
    ),
    500: ProblemText(
        "An unexpected error in the hub.",
        "The log of the service has the cause. Send the call again with the same `Idempotency-Key`.",
    ),
    502: ProblemText(
        "A service of the hub, or the provider behind it, did not answer as expected.",
        "Send the call again later.",
    ),
    503: ProblemText(
        "Kafka, MongoDB or a setting that the call needs is not available. Nothing was acknowledged.",
        "Send the same call again after the seconds in `Retry-After`; the same `Idempotency-Key` makes that "
        "safe.",
    ),
    504: ProblemText(
        "A service of the hub, or the provider behind it, did not answer in time.",
        "Send the call again later.",
    ),
}

_HTML: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
    "<body><main><h1>{title}</h1><p>{meaning}</p><p>{remedy}</p></main></body></html>\n"
)
_CODE: Final = re.compile("`([^`]+)`")
_HEADERS: Final = {**SANDBOX_HEADERS, "Cache-Control": "public, max-age=86400"}


def problem_page(path: str) -> Response | None:
    """Return the page at a path; None if it is not the path of a problem. Status 404 for an unknown one."""
    if not path.startswith(PROBLEM_PAGES):
        return None
    name = path[len(PROBLEM_PAGES) :]
    status = int(name) if name.isascii() and name.isdigit() and len(name) == 3 else 0
    if status not in PROBLEM_TEXTS:
        return problem_response(404, "there is no such problem", headers=dict(SANDBOX_HEADERS))
    return Response(_html(status), 200, _HEADERS, "text/html")


@cache
def _html(status: int) -> str:
    meaning, remedy = (
        _CODE.sub(r"<code>\1</code>", text.replace("<", "&lt;").replace(">", "&gt;"))
        for text in PROBLEM_TEXTS[status]
    )
    return _HTML.format(title=f"{status} {phrase(status)}", meaning=meaning, remedy=remedy)

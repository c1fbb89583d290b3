"""Responses of providers that come as a posted form (`response_mode=form_post`), made into a callback by GET.

The page that posts is the provider's, so the browser leaves out the state's cookie, which is SameSite=Lax:
the form alone cannot show which browser it comes from. It is answered with a redirect to the callback, whose
GET the browser sends with the cookie. Nothing is looked up before that
(docs/adr/0097-form-post-by-redirect.md).
"""

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import parse_qsl, urlencode

from shared.manifests.connector import Connector
from shared.wire.bodies import FORM_CONTENT_TYPE

_STANDARD_PARAMETERS: Final = frozenset({"code", "state", "error", "iss"})
_MAX_URL_LENGTH: Final = 8192
"""Servers and proxies accept request lines of this length."""


class NotAForm(ValueError):
    """The body is not a form that a provider posts, or its parameters do not fit into a URL."""


class FormPosts:
    """Makes callback URLs of posted forms. `callback_url` is the absolute address of the callback."""

    def __init__(self, callback_url: str, connectors: Iterable[Connector], *, max_parameters: int) -> None:
        self._callback_url = callback_url
        self._max_parameters = max_parameters
        rules = [connector.oauth2.callback for connector in connectors if connector.oauth2]
        self._parameters = _STANDARD_PARAMETERS.union(
            *(rule.keep for rule in rules), *(rule.same for rule in rules)
        )

    def parse(self, content_type: str, body: bytes) -> list[tuple[str, str]]:
        """Return the parameters of a form that a callback reads, in their order.

        Others are dropped: a provider may post tokens and names besides, which do not belong into a URL.
        Raises `NotAForm`.
        """
        if content_type.partition(";")[0].strip().lower() != FORM_CONTENT_TYPE:
            raise NotAForm(f"the content type is not {FORM_CONTENT_TYPE}")
        try:
            form = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, max_num_fields=self._max_parameters
            )
        except ValueError:
            raise NotAForm("the form cannot be read, or has too many fields") from None
        return [(name, value) for name, value in form if name in self._parameters]

    def callback_url(self, parameters: Sequence[tuple[str, str]]) -> str:
        """Return the address of the callback with these parameters. Raises `NotAForm` if it is too long."""
        url = f"{self._callback_url}?{urlencode(parameters)}"
        if len(url) > _MAX_URL_LENGTH:
            raise NotAForm("the form is too long")
        return url

"""The request templates of a manifest and their locations in it."""

from collections.abc import Iterator, Mapping

from shared.manifests.connect_models import Api, ApiRequest, ConnectSpec, OAuth2, nested_texts

LocatedText = tuple[str, str, bool]
"""Location of a template, the template, and whether it is part of a URL."""


def connect_texts(connect: ConnectSpec) -> Iterator[LocatedText]:
    """Yield the templates of `connect`, without those of manual credentials."""
    flow = connect.oauth2
    if flow:
        yield from _oauth2_texts(flow)
    if connect.oauth1:
        for name in ("request_token_url", "authorize_url", "token_url"):
            yield f"oauth1.{name}", getattr(connect.oauth1, name), True
        yield from _mapping_texts("oauth1.authorize", connect.oauth1.authorize, True)
        revoke = connect.oauth1.revoke
        yield from request_texts("oauth1.revoke.request", revoke.request if revoke else None)
    if flow or connect.oauth1 or connect.through:
        yield from api_texts("api", connect.api)
    yield from request_texts("account.call", connect.account.call if connect.account else None)
    yield from request_texts("choices.call", connect.choices.call if connect.choices else None)
    token = connect.choices.token if connect.choices else None
    yield from request_texts("choices.token.call", token.call if token else None)
    yield from request_texts("probe", connect.probe)


def _oauth2_texts(flow: OAuth2) -> Iterator[LocatedText]:
    yield "oauth2.authorize_url", flow.authorize_url, True
    yield "oauth2.token_url", flow.token_url, True
    if flow.refresh.url:
        yield "oauth2.refresh.url", flow.refresh.url, True
    yield from _mapping_texts("oauth2.authorize", flow.authorize, True)
    for name, texts in (
        ("exchange", flow.exchange),
        ("headers", flow.headers),
        ("refresh.parameters", flow.refresh.parameters),
        ("callback.same", flow.callback.same),
    ):
        yield from _mapping_texts(f"oauth2.{name}", texts, False)
    if flow.callback.issuer:
        yield "oauth2.callback.issuer", flow.callback.issuer, False
    yield from request_texts("oauth2.longer", flow.longer)
    yield from request_texts("oauth2.refresh.request", flow.refresh.request)
    yield from request_texts("oauth2.revoke.request", flow.revoke.request if flow.revoke else None)


def api_texts(location: str, api: Api) -> Iterator[LocatedText]:
    """Yield the templates of an API's rules."""
    if api.base:
        yield f"{location}.base", api.base, True
    yield from _mapping_texts(f"{location}.headers", api.headers, False)
    yield from _mapping_texts(f"{location}.query", api.query, True)
    yield from ((f"{location}.basic", text, False) for text in api.basic or ())


def request_texts(location: str, request: ApiRequest | None) -> Iterator[LocatedText]:
    """Yield the templates of a request."""
    if request is None:
        return
    yield f"{location}.url", request.url, True
    yield from _mapping_texts(f"{location}.query", request.query, True)
    yield from _mapping_texts(f"{location}.headers", request.headers, False)
    yield from _mapping_texts(f"{location}.form", request.form or {}, False)
    yield from ((f"{location}.basic", text, False) for text in request.basic or ())
    yield from ((f"{location}.json", text, False) for text in nested_texts(request.json_))


def _mapping_texts(location: str, templates: Mapping[str, str], is_url: bool) -> Iterator[LocatedText]:
    return ((f"{location}.{name}", text, is_url) for name, text in templates.items())

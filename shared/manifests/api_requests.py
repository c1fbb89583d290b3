"""Requests to a provider's API, made from the manifest's request templates."""

from collections.abc import Mapping
from typing import Any

from shared.manifests.connect_models import Api, ApiRequest, RequestTemplateText
from shared.wire.bodies import JSON_CONTENT_TYPE
from shared.wire.provider_http import ProviderRequest, basic_authorization, build_request
from shared.wire.request_template import RequestTemplate


def build_api_request(
    request: ApiRequest, values: Mapping[str, str], api: Api, *, form_encoded: bool
) -> ProviderRequest:
    """Fill a request of the manifest with values.

    `api` says how the account's token is sent, unless the request has `token: false`. `form_encoded`: client
    id and secret are form-encoded before they are joined for HTTP Basic. Raises `MissingValue` if the URL
    needs a value that is not in `values`.
    """
    headers = {"Accept": JSON_CONTENT_TYPE}
    query: dict[str, str] = {}
    if request.token:
        headers |= fill_all(api.headers, values)
        query |= fill_all(api.query, values)
        if api.basic:
            headers["Authorization"] = basic_authorization(
                *(RequestTemplate(text).render_or_empty(values) for text in api.basic)
            )
    # The request's own headers and parameters win over those of the API.
    headers |= fill_all(request.headers, values)
    query |= fill_all(request.query, values)
    if request.basic:
        name, password = request.basic
        headers["Authorization"] = basic_authorization(
            RequestTemplate(name).render_or_empty(values),
            RequestTemplate(password).render_or_empty(values),
            form_encoded=form_encoded and "client_id" in RequestTemplate(name).names,
        )
    # A missing value in the URL raises; anywhere else the parameter is left out.
    url = RequestTemplate(request.url).url(values)
    if query:
        url = build_request("GET", url, {}, list(query.items()), "form").url
    # The model allows at most one kind of body.
    if request.graphql:
        return build_request(request.method, url, headers, [("query", request.graphql)], "json")
    if request.json_ is not None:
        return _json_request(request, url, headers, values)
    if request.form is not None:
        return build_request(
            request.method, url, headers, list(fill_all(request.form, values).items()), "form"
        )
    return ProviderRequest(request.method, url, headers)


def fill_all(templates: Mapping[str, RequestTemplateText], values: Mapping[str, str]) -> dict[str, str]:
    """Fill the templates; leave out those with a missing value."""
    rendered = ((name, RequestTemplate(text).render_or_empty(values)) for name, text in templates.items())
    return {name: text for name, text in rendered if text}


def _json_request(
    request: ApiRequest, url: str, headers: dict[str, str], values: Mapping[str, str]
) -> ProviderRequest:
    fields = _fill_nested(request.json_, values)
    return build_request(request.method, url, headers, list(fields.items()), "json")


def _fill_nested(value: Any, values: Mapping[str, str]) -> Any:
    """Fill the texts of a JSON value, at any depth."""
    if isinstance(value, str):
        return RequestTemplate(value).render_or_empty(values)
    if isinstance(value, dict):
        return {name: _fill_nested(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill_nested(item, values) for item in value]
    return value

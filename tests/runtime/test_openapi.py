"""The OpenAPI documents: names for generated clients, and responses that match them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from shared.contracts.routes import service_for_path
from tests.support.backends import Bus, Store
from tests.support.hub import SERVICES, Hub
from tests.support.second_process import second_process

NAMES = set(
    """
    cancel_delivery cancel_delivery_job change_event_type change_inbound_endpoint change_incoming_webhook
    change_outgoing_webhook check_integration choose_integration confirm_auth_oauth connect_auth_oauth
    create_api_key create_connect_session create_portal_session end_connect_session end_portal_session
    create_event_type create_inbound_endpoint create_inbound_endpoint_from_template create_incoming_webhook
    create_integration create_integration_watch create_outgoing_webhook delete_event_type
    delete_inbound_endpoint delete_incoming_webhook delete_integration delete_integration_watch
    delete_outgoing_webhook delete_platform_credential disable_inbound_endpoint disable_integration
    disable_outgoing_webhook discard_dead_letters disconnect_integration enable_inbound_endpoint
    enable_integration enable_outgoing_webhook erase_deliveries list_api_keys list_audit list_dead_letters
    list_deliveries list_delivery_jobs list_event_types list_events_unmatched list_inbound_endpoint_events
    list_inbound_endpoints
    list_incoming_webhooks list_integration_watches list_integrations list_outgoing_webhooks
    delete_integration_proxy issue_integration_token patch_integration_proxy post_integration_proxy
    put_integration_proxy read_integration_proxy report_integration_token_refused
    list_platform_credentials pause_outgoing_webhook pause_queue preview_messages
    preview_outgoing_webhooks publish_events
    put_platform_credential read_auth_oauth_callback read_catalog read_dead_letter read_delivery
    read_delivery_job read_endpoint_templates read_event_type read_file
    read_files_imported read_inbound_endpoint
    read_inbound_endpoint_event read_inbound_endpoint_event_payload read_incoming_webhook read_integration
    read_integration_status read_integration_webhooks read_outgoing_webhook read_outgoing_webhook_stats
    read_platform_credential read_queue_stats read_queue_stats_hours read_statistics reconnect_integration
    recover_outgoing_webhook
    reenter_integration_fields refresh_integration rename_integration replay_dead_letters
    replay_inbound_endpoint_event replay_outgoing_webhook resend_delivery resume_outgoing_webhook resume_queue
    list_polling_triggers create_polling_trigger read_polling_trigger change_polling_trigger
    delete_polling_trigger pause_polling_trigger resume_polling_trigger
    retry_delivery reveal_inbound_endpoint_secret revoke_api_key rotate_inbound_endpoint_secret
    rotate_outgoing_webhook_secret test_inbound_endpoint test_outgoing_webhook verify_platform_credential
    rotate_incoming_webhook_token create_workspace list_workspaces read_workspace change_workspace
    delete_workspace create_workspace_api_key
    create_member list_members read_member change_member remove_member restore_member
    create_mapping list_mappings preview_mappings read_mapping change_mapping delete_mapping pause_mapping
    resume_mapping test_mapping list_sync_conversations list_sync_people put_people_links list_people_links
    delete_people_link list_synced_messages read_synced_message retry_synced_message discard_synced_message
    list_conflicts resolve_conflict read_sync_queue_stats read_usage
    append_upload cancel_import change_import_plan check_upload create_import
    create_integration_import create_upload delete_upload
    list_import_channels read_import_plan read_import_undo
    list_import_files list_import_issues list_import_people list_import_report_channels
    list_import_report_days list_imports list_uploads replace_import_plan
    pause_import
    read_import read_import_events read_import_report read_upload resume_import show_uploads
    start_import undo_import
    count_deliveries retry_deliveries list_executions read_statistics_endpoints rotate_member_key
    read_retention_gateway read_retention_delivery read_retention_sync read_retention_importer
    """.split()  # noqa: SIM905
)
"""Clients are generated from these names: a change breaks their callers."""
OF_STRANGERS = {
    "look_at_app",
    "look_at_integration",
    "look_at_webhook",
    "receive_at_app",
    "receive_at_discord",
    "receive_at_integration",
    "receive_incoming",
    "receive_incoming_slack",
    "receive_webhook",
}
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
MUTATING = {"post", "put", "patch", "delete"}
Call = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def documents(hub: Hub) -> dict[str, Any]:
    return {name: httpx.get(f"{hub.url(name)}/openapi/{name}.json").json() for name in SERVICES}


@pytest.fixture(scope="module")
def merged(hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    peers = json.dumps({name: hub.url(name) for name in SERVICES if name != "gateway"})
    folder = tmp_path_factory.mktemp("entrance")
    with second_process("gateway", hub, folder, bus, store, INTERLINK_PEERS=peers) as entrance:
        yield httpx.get(entrance.url("gateway") + "/api/openapi.json").json()


@pytest.mark.parametrize("service", SERVICES)
def test_the_type_of_a_problem_leads_to_a_page(hub: Hub, documents: dict[str, Any], service: str) -> None:
    problem = httpx.get(f"{hub.url(service)}/api/nothing")
    assert problem.status_code == 404
    page = httpx.get(problem.url.join(problem.json()["type"]))
    assert page.status_code == 200
    assert "<h1>404 Not Found</h1>" in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    described = {status for _, _, call in _calls(documents[service]) for status in call["responses"]}
    pages = {status: f"{hub.url(service)}/api/problems/{status}" for status in described if status > "400"}
    answers = {status: httpx.get(url) for status, url in pages.items()}
    assert {status for status, answer in answers.items() if answer.status_code != 200} == set()
    assert {status for status, answer in answers.items() if "`" in answer.text} == set()
    assert "<code>errors</code>" in answers["422"].text
    for other in ("200", "999", "404/", "4040", "%3Cb%3E", ""):
        answer = httpx.get(f"{hub.url(service)}/api/problems/{other}")
        assert answer.status_code == 404, other
        assert "<b>" not in answer.text


def _calls(document: Any) -> list[Call]:
    return [
        (path, method, call) for path, calls in document["paths"].items() for method, call in calls.items()
    ]


def _references(document: Any) -> set[str]:
    return set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))


# Every service's own


def test_operation_ids_are_the_names_of_client_methods(documents: dict[str, Any]) -> None:
    names = [call["operationId"] for document in documents.values() for _, _, call in _calls(document)]
    assert len(names) == len(set(names))
    assert set(names) == NAMES


OWN_HEADERS = {
    ("post", "/api/uploads"): {"upload-length", "upload-metadata"},
    ("patch", "/api/uploads/{upload_id}"): {"upload-offset", "upload-checksum"},
}
"""The headers of tus."""


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_is_complete(documents: dict[str, Any], service: str) -> None:
    for path, method, call in _calls(documents[service]):
        where = f"{method} {path}"
        assert call["tags"] == [path.split("/")[2]], where
        assert call["summary"], where
        assert not call["summary"].endswith("."), where
        assert "\n" not in call["summary"], where
        if not call["security"]:
            files = {"/api/files/{token}", "/api/files/imported/{token}"}
            assert path in {"/api/auth/oauth/callback", "/api/uploads", *files}
            continue
        [scopes] = [scopes for item in call["security"] for scopes in item.values()]
        assert f"`{scopes[0]}`" in call["description"], where
        assert "\n    " not in call["description"], f"{where}: an indented text is shown as code"
        answers = call["responses"]
        assert {"401", "403", "422", "503"} <= answers.keys(), where
        assert ("404" in answers) is ("{" in path or path == "/api/auth/oauth/confirm"), where
        is_call = path.endswith("/proxy/{path}")
        assert ({"400", "408", "409", "413"} <= answers.keys()) is (method in MUTATING or is_call), where
        for status, answer in answers.items():
            assert answer["description"], where
            assert status < "300" or answer["content"] == PROBLEM, where
        assert "Retry-After" in answers["503"]["headers"], where
        headers = {item["name"] for item in call.get("parameters", ()) if item["in"] == "header"}
        own = OWN_HEADERS.get((method, path), set())
        own = own | ({"If-Match"} if "412" in answers else set())
        assert headers == ({"Idempotency-Key", *own} if method in MUTATING else set()), where


@pytest.mark.parametrize("service", SERVICES)
def test_fastapis_own_error_schemas_are_removed(hub: Hub, documents: dict[str, Any], service: str) -> None:
    document = documents[service]
    schemas = document["components"]["schemas"]
    assert not {"HTTPValidationError", "ValidationError"} & schemas.keys()
    assert _references(document) <= schemas.keys()
    assert schemas.keys() <= _references(document)
    key = document["components"]["securitySchemes"]["ApiKey"]
    assert (key["type"], key["scheme"]) == ("http", "bearer")
    assert document["servers"] == [{"url": hub.url("gateway")}]


# All in one


def test_the_merged_document(hub: Hub, documents: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merged["info"]["title"] == "Interlink"
    assert merged["servers"] == documents["gateway"]["servers"]
    names = [call["operationId"] for _, _, call in _calls(merged)]
    assert len(names) == len(set(names))
    assert set(names) == NAMES | OF_STRANGERS
    schemas = merged["components"]["schemas"]
    assert _references(merged) == schemas.keys()
    assert [name for name in schemas if name.endswith("Problem")] == ["Problem"]
    assert merged["components"]["securitySchemes"] == documents["oauth"]["components"]["securitySchemes"]


# What is answered


@pytest.mark.parametrize(
    ("method", "template", "status", "more"),
    [
        ("GET", "/api/deliveries", 401, {"headers": {"authorization": "Bearer x"}}),
        ("GET", "/api/deliveries", 400, {"params": {"cursor": "x"}}),
        ("GET", "/api/deliveries", 422, {"params": {"limit": "0"}}),
        ("GET", "/api/deliveries", 422, {"params": {"state": "dead"}}),
        ("GET", "/api/deliveries/{delivery_id}", 404, {}),
        ("POST", "/api/outgoing-webhooks", 422, {"json": {}}),
        ("POST", "/api/outgoing-webhooks", 400, {"content": b"{", "headers": {}}),
        ("POST", "/api/outgoing-webhooks", 413, {"content": b" " * (1024 * 1024 + 1)}),
        ("POST", "/api/outgoing-webhooks", 400, {"headers": {"idempotency-key": "x" * 256}}),
        ("POST", "/api/events", 415, {"headers": {"content-type": "text/plain"}}),
        ("PUT", "/api/platform-credentials/{provider}", 404, {"json": {"client_id": "x"}}),
        ("POST", "/api/webhooks/{provider}/{endpoint_id}", 404, {}),
    ],
)
def test_an_error_response_matches_the_document(
    hub: Hub, merged: dict[str, Any], method: str, template: str, status: int, more: dict[str, Any]
) -> None:
    url = hub.url(service_for_path(template)) + re.sub(r"\{\w+\}", "x", template)
    headers = {"authorization": f"Bearer {hub.admin_key}", "content-type": "application/json"}
    answer = httpx.request(method, url, **more | {"headers": headers | more.get("headers", {})})
    assert answer.status_code == status, answer.text
    declared = merged["paths"][template][method.lower()]["responses"][str(status)]
    assert declared["content"] == PROBLEM
    assert answer.headers["content-type"] in declared["content"]
    schema = merged["components"]["schemas"]["Problem"]
    jsonschema_rs.validate(schema, answer.json())
    jsonschema_rs.validate(schema | {"additionalProperties": False}, answer.json())


# Parameters that there are not


def _ask(hub: Hub, path: str, **more: Any) -> httpx.Response:
    with hub.client(service_for_path(path.partition("?")[0])) as client:
        return client.get(path, **more)


def test_a_misspelt_filter_is_rejected_with_the_known_ones(hub: Hub) -> None:
    answer = _ask(hub, "/api/deliveries?state=dead&limit=5")
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == "query.state"
    assert re.search(r"there are .*\bstatus\b.*\bsince, until, limit, cursor, order$", error["message"])


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("x", ["query.x"]),
        ("x=", ["query.x"]),
        ("x=1&x=2&y=3", ["query.x", "query.y"]),
        ("Limit=5", ["query.Limit"]),
        ("limit[]=5", ["query.limit[]"]),
        ("%00=%ff&%ff=1", ["query.\0", "query.\ufffd"]),
        ("=1", ["query."]),
        ("body=1&key=2&request=3", ["query.body", "query.key", "query.request"]),
        ("x" * 5000, ["query." + "x" * 194]),
        ("&".join(f"p{number}=1" for number in range(200)), [f"query.p{number}" for number in range(50)]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_unknown_query_parameters(hub: Hub, query: str, fields: list[str]) -> None:
    answer = _ask(hub, f"/api/outgoing-webhooks?{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == fields


def test_a_call_without_parameters_rejects_any(hub: Hub) -> None:
    answer = _ask(hub, "/api/integration-webhooks?limit=5")
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "query.limit", "message": "this call has no parameters"}]


@pytest.mark.parametrize(
    "path",
    [
        "/api/deliveries?status=delivered&status=pending&webhook_id=x&limit=5",
        "/api/outgoing-webhooks?",
        "/api/outgoing-webhooks?&",
        "/api/catalog?q=github&category=",
        "/api/integrations?status=connected&provider=github&limit=5",
    ],
)
def test_known_parameters_are_accepted(hub: Hub, path: str) -> None:
    assert _ask(hub, path).status_code == 200


def test_providers_may_add_query_parameters(hub: Hub) -> None:
    """Providers choose the parameters of OAuth callbacks and of webhook requests."""
    callback = _ask(hub, "/api/auth/oauth/callback?state=x&hd=example.com&iss=https://example.com")
    assert callback.status_code == 404
    assert callback.headers["content-type"].startswith("text/html")
    endpoint = hub.github_endpoint()["id"]
    url = f"{hub.url('gateway')}/api/webhooks/github/{endpoint}?from=x"
    assert httpx.post(url, content=b"{}").status_code == 401

"""Which service serves which path: patterns, and the most specific one decides."""

import pytest

from shared.contracts.routes import SERVICE_PATHS, RouteTable, service_for_path

TABLE = RouteTable(
    {
        "oauth": ("/api/integrations", "/api/integrations/{id}/watches/{watch_id}"),
        "importer": ("/api/integrations/{id}/import", "/api/integrations/{id}/{kind}/{job_id}"),
        "sync": ("/api/integrations/int_1/import",),
    }
)


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/api/integrations", "oauth"),
        ("/api/integrations/", "oauth"),
        ("/api/integrations/int_2", "oauth"),
        ("/api/integrations/int_2/import", "importer"),
        ("/api/integrations/int_2/import/job_1/cancel", "importer"),
        ("/api/integrations/int_2/imports", "oauth"),
        ("/api/integrations//import", "oauth"),
        ("/api/integrations/import", "oauth"),
        ("/api/integrations/int_1/import", "sync"),
        ("/api/integrations/int_1/import/job_1", "importer"),
        ("/api/integrations/int_2/watches/wch_1", "oauth"),
        ("/api/integrations-x/int_2/import", "gateway"),
        ("/other/api/integrations", "gateway"),
        ("", "gateway"),
    ],
)
def test_the_most_specific_pattern_decides(path: str, service: str) -> None:
    assert TABLE.service_for(path) == service


def test_two_services_cannot_have_the_same_pattern() -> None:
    with pytest.raises(ValueError, match=r"/api/x/\{b\}: one and two have the same pattern"):
        RouteTable({"one": ("/api/x/{a}",), "two": ("/api/x/{b}",)})


def test_every_path_of_the_table_belongs_to_its_service() -> None:
    for service, patterns in SERVICE_PATHS.items():
        for pattern in patterns:
            assert service_for_path(pattern) == service_for_path(f"{pattern}/x") == service
            above = service_for_path(pattern.rpartition("/")[0])
            assert service_for_path(f"{pattern}x") == above, "it is another path below the same one"

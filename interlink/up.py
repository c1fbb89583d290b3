"""`interlink up`: the whole hub on one machine, from one command to one Ctrl-C.

It starts the embedded broker and database unless the user has set others, prepares them, starts the services
and the chat page, prints when all are ready, restarts what ends, and stops everything in order.

The command runs this module as a program: `python -m interlink.up PORT FOLDER --[no-]minichat SERVICE...`.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic
from typing import IO, Final

from interlink import embedded
from interlink.banner import HubAddresses, render_banner
from interlink.datadir import DataFolder, display_path, open_data_folder
from interlink.embedded import HOST, EmbeddedServer
from interlink.exits import report_errors
from interlink.fork_client import ForkServer, adopt_orphans
from interlink.probe import consumer_lag, is_ready
from interlink.supervise import Backoff, Child, ProcessGroup, describe_exit
from interlink.topology import MINICHAT, Plan, Topology
from shared.contracts.errors import InterlinkError, Misconfigured

_READY_TIMEOUT_S: Final = 90.0
_POLL_INTERVAL_S: Final = 0.1
_SUPERVISION_INTERVAL_S: Final = 0.5
_START_POLL_INTERVAL_S: Final = 0.02
_HOUSEKEEPING_INTERVAL_S: Final = 10.0
_BROKER_WARNING_MB: Final = 1024
_DRAIN_TIMEOUT_S: Final = 10.0
_PREPARE_RETRY_INTERVAL_S: Final = 2.0
_PORT_TIMEOUT_S: Final = 2.0
_EXIT_KILLED: Final = 130
_FORK_SERVER: Final = "fork-server"
_PRELOAD: Final = "interlink.preload"

PrintLine = Callable[[str], None]


class StartError(InterlinkError):
    """A process of the hub did not start. The message says which and why."""


def run(plan: Plan) -> int:
    """Run the hub until SIGINT, SIGTERM or SIGHUP. Return the exit status. Raises `InterlinkError`."""
    with open_data_folder(plan.data_dir) as folder:
        return asyncio.run(_run_until_signal(Hub(plan, folder, _print_line)))


def _print_line(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone: the hub goes on
        print(text, flush=True)  # noqa: T201 -- all output of the command


async def _run_until_signal(hub: "Hub") -> int:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(hub.work())
    signals = 0

    def on_signal() -> None:
        """Stop the hub in order. A second signal kills it."""
        nonlocal signals
        signals += 1
        if signals == 1:
            work.cancel()
        else:
            hub.kill()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        await hub.stop()
    return _EXIT_KILLED if signals > 1 else 0


@dataclass(slots=True)
class _ManagedProcess:
    """A child, its readiness check, and for an embedded server, its preparation and what its end means."""

    child: Child
    is_ready: Callable[[], Awaitable[bool]]
    prepare: Callable[[], None] | None = None
    exit_note: str = ""
    forked: bool = False
    """True if it is forked off the fork server."""


class Hub:
    """All processes of one `interlink up`."""

    def __init__(self, plan: Plan, folder: DataFolder, print_line: PrintLine) -> None:
        self._plan = plan
        self._folder = folder
        self._print = print_line
        self._process_group = ProcessGroup()
        self._fork_server = ForkServer([_PRELOAD], folder.logs / "fork-server.log", self._process_group)
        self._broker: EmbeddedServer | None = None
        self._ports: Mapping[str, int] = {}
        self._processes = {_FORK_SERVER: _ManagedProcess(self._fork_server.child, self._fork_server_is_ready)}
        self._ends_fork_server = adopt_orphans()
        self._forks = 0
        """Number of tasks that are using the fork server."""
        self._fork_server_start = asyncio.Lock()
        self._ready = False
        self._killed = False

    async def work(self) -> None:
        """Start all processes, print the banner, and restart what ends. Raises `InterlinkError`."""
        _start_child(self._fork_server.child)  # first: its imports take longer than anything else
        await self._wait_for_ports()
        topology = self._create_topology()
        self._ports = topology.ports
        self._folder.address.write_text(topology.public_url + "\n", encoding="utf-8")
        fork_server = self._processes[_FORK_SERVER]
        embedded_servers = [process for process in self._processes.values() if process is not fork_server]
        await asyncio.gather(_wait_until_ready(fork_server), self._start(embedded_servers))
        await self._prepare(topology)
        services = {
            spec.name: _ManagedProcess(
                Child(spec, self._process_group, self._fork_server.launch),
                partial(is_ready, port, path),
                forked=True,
            )
            for spec, port, path in topology.services()
        }
        self._processes |= services
        await self._start(list(services.values()))
        self._end_fork_server()
        self._print(self._banner())
        self._ready = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_resources())
            for process in self._processes.values():
                if process is not fork_server:
                    tasks.create_task(self._supervise(process, topology))

    def kill(self) -> None:
        """End all processes at once."""
        self._killed = True
        for process in self._processes.values():
            process.child.kill()

    async def stop(self) -> None:
        """Stop the entrance first, then the services once they have processed everything, then the rest."""
        if self._ready and not self._killed:
            self._print("stopping: running work is finished first; Ctrl-C again ends everything at once")
        entrance, *handlers = self._plan.services
        await self._stop_processes(entrance)
        if self._broker and self._ready:
            await self._drain(handlers)
        await self._stop_processes(*handlers)
        for name in (MINICHAT, "store", "broker", _FORK_SERVER):
            await self._stop_processes(name)
        self._process_group.close()
        if self._ready:
            self._print("stopped")

    # Starting

    def _create_topology(self) -> Topology:
        """Return the topology, with embedded servers unless the user has set others."""
        path, store = self._folder.path, None
        if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
            self._broker = embedded.broker(path, self._process_group)
            self._add_embedded(self._broker, "it holds events in memory: those not processed yet are lost")
        if not os.environ.get("MONGODB_URI"):
            store = embedded.database(path, self._process_group)
            self._add_embedded(store, "its data is on disk: nothing is lost")
        return Topology(self._plan, self._folder, self._broker, store)

    def _add_embedded(self, server: EmbeddedServer, exit_note: str) -> None:
        self._processes[server.child.name] = _ManagedProcess(
            server.child, partial(asyncio.to_thread, server.answers), server.prepare, exit_note
        )

    async def _fork_server_is_ready(self) -> bool:
        return self._fork_server.is_ready()

    @contextlib.asynccontextmanager
    async def _forking(self) -> AsyncIterator[None]:
        """Have the fork server run inside the context. It ends with the last one. Raises `StartError`."""
        fork_server = self._processes[_FORK_SERVER]
        self._forks += 1
        try:
            async with self._fork_server_start:
                if not fork_server.child.running():
                    _start_child(fork_server.child)
                await _wait_until_ready(fork_server)
            yield
        finally:
            self._forks -= 1
            self._end_fork_server()

    def _end_fork_server(self) -> None:
        """End the fork server if nobody needs it: of all processes, it has the most memory of its own."""
        if self._ends_fork_server and not self._forks:
            self._fork_server.end()

    async def _wait_for_ports(self) -> None:
        """Wait up to 2 s until the fixed ports are free: an `up` that was just killed may still hold them.

        Raises `Misconfigured`.
        """
        deadline = monotonic() + _PORT_TIMEOUT_S
        for name, port in self._plan.fixed_ports().items():
            while not embedded.is_free(self._plan.host(name), port):
                if monotonic() > deadline:
                    raise Misconfigured(
                        f"port {port} (for {name}) is taken by another program: choose others with --port"
                    )
                await asyncio.sleep(_POLL_INTERVAL_S)

    async def _start(self, processes: Sequence[_ManagedProcess]) -> None:
        """Start these together and return when all are ready. Raises `InterlinkError` if one fails."""
        starts = [asyncio.create_task(_start_process(process)) for process in processes]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()

    async def _prepare(self, topology: Topology) -> None:
        """Run `interlink init` and print its notes. Raises `StartError` with its error message."""
        command, env = topology.init()
        with TemporaryFile() as output, TemporaryFile() as errors:
            try:
                process = self._fork_server.fork(command, env, output, errors)
            except OSError as error:
                raise StartError(f"'interlink init' cannot be run: {error}") from None
            self._process_group.add(process.pid)
            try:
                while (status := process.poll()) is None:  # noqa: ASYNC110 -- as in `_supervise`
                    await asyncio.sleep(_START_POLL_INTERVAL_S)
            finally:
                process.kill()
                self._process_group.remove(process.pid)
            if status:
                lines = _text(errors).strip().splitlines() or ["'interlink init' failed without a message"]
                raise StartError(lines[-1].removeprefix("interlink: "))
            for note in _text(output).splitlines():
                self._print(note)

    def _banner(self) -> str:
        addresses = {name: f"http://{HOST}:{port}" for name, port in self._ports.items()}
        entrance, *inner = self._plan.services
        return render_banner(
            HubAddresses(
                hub=addresses[entrance],
                chat=addresses.get(MINICHAT),
                services={name: addresses[name] for name in inner},
                admin_key=display_path(self._folder.admin_key),
                logs=display_path(self._folder.logs),
                broker_in_memory=self._broker is not None,
            )
        )

    # Supervising

    async def _supervise(self, process: _ManagedProcess, topology: Topology) -> None:
        """Start a process again each time it ends."""
        backoff, child = Backoff(), process.child
        while True:
            started = monotonic()
            while child.running():  # noqa: ASYNC110 -- there is no event for the end of a process
                await asyncio.sleep(_SUPERVISION_INTERVAL_S)
            pause = backoff.after(monotonic() - started)
            note = f" ({process.exit_note})" if process.exit_note else ""
            self._print(
                f"{child.name} ended with {describe_exit(child.status)}{note}: "
                f"it is started again in {pause:g} s; its log: {display_path(child.spec.log)}"
            )
            await asyncio.sleep(pause)
            try:
                async with self._forking() if process.forked else contextlib.nullcontext():
                    _start_child(child)
                    await _wait_until_ready(process)
            except StartError as error:
                self._print(str(error))
                continue
            if self._broker and child is self._broker.child:
                await self._prepare_again(topology, child)
            self._print(f"{child.name} is back")

    async def _prepare_again(self, topology: Topology, broker: Child) -> None:
        """Create the topics on a restarted broker, as soon as the database answers too."""
        while broker.running():
            try:
                async with self._forking():
                    await self._prepare(topology)
            except StartError as error:
                self._print(f"the topics are not created yet: {error}")
                await asyncio.sleep(_PREPARE_RETRY_INTERVAL_S)
            else:
                return

    async def _watch_resources(self) -> None:
        """Trim the logs, and warn when the memory of the embedded broker grows: it never removes a record."""
        warning_mb = _BROKER_WARNING_MB
        while True:
            await asyncio.sleep(_HOUSEKEEPING_INTERVAL_S)
            for process in self._processes.values():
                process.child.trim_log()
            if self._broker and (used_mb := self._broker.child.memory_mb()) > warning_mb:
                warning_mb = used_mb * 2
                self._print(
                    f"the embedded broker uses {used_mb} MB: it holds every event until it stops. "
                    "Restart 'interlink up', or set KAFKA_BOOTSTRAP_SERVERS for more than a trial"
                )

    # Stopping

    async def _stop_processes(self, *names: str) -> None:
        """Stop these processes together. Those that take longer than their time limit are killed."""
        children = [self._processes[name].child for name in names if name in self._processes]
        for child in children:
            child.terminate()
        deadline = monotonic() + max((child.spec.stop_timeout_s for child in children), default=0)
        while any(child.running() for child in children):
            if monotonic() > deadline:
                for child in filter(Child.running, children):
                    self._print(f"{child.name} did not stop in time and was killed")
                    child.kill()
            await asyncio.sleep(_POLL_INTERVAL_S / 4)

    async def _drain(self, services: Sequence[str]) -> None:
        """Wait until every record is processed: the embedded broker loses its records when it stops."""
        # Twice in a row: a service may publish a record for another one that has just reported no lag.
        deadline, empty_in_a_row = monotonic() + _DRAIN_TIMEOUT_S, 0
        while empty_in_a_row < 2 and not self._killed:
            lag = sum(await asyncio.gather(*(consumer_lag(self._ports[name]) for name in services)))
            empty_in_a_row = empty_in_a_row + 1 if lag == 0 else 0
            if monotonic() > deadline:
                self._print(f"{lag} events were not processed in time and are lost with the embedded broker")
                return
            await asyncio.sleep(_POLL_INTERVAL_S)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


async def _start_process(process: _ManagedProcess) -> None:
    """Prepare and start the process, and return when it is ready. Raises `InterlinkError`."""
    if process.prepare:
        await asyncio.to_thread(process.prepare)
    _start_child(process.child)
    await _wait_until_ready(process)


def _start_child(child: Child) -> None:
    try:
        child.start()
    except OSError as error:
        raise StartError(f"{child.name} cannot be run: {error.strerror or error}") from None


async def _wait_until_ready(process: _ManagedProcess) -> None:
    """Return when the process is ready. Raises `StartError` if it ends, or takes more than 90 s."""
    child, deadline = process.child, monotonic() + _READY_TIMEOUT_S
    while not await process.is_ready():
        if not child.running():
            raise StartError(_failure_detail(child, f"ended with {describe_exit(child.status)}"))
        if monotonic() > deadline:
            raise StartError(_failure_detail(child, f"was not ready within {_READY_TIMEOUT_S:.0f} s"))
        await asyncio.sleep(_START_POLL_INTERVAL_S)


def _failure_detail(child: Child, problem: str) -> str:
    """Return one line: the child's own error message if it printed one, else the problem and its log."""
    lines = child.last_lines(1)
    if lines and lines[0].startswith("interlink: "):
        return f"{child.name}: {lines[0].removeprefix('interlink: ')}"
    return f"{child.name} {problem}; its log: {display_path(child.spec.log)}"


def main(arguments: Sequence[str]) -> int:
    """Run the hub with these arguments of the program. Return the exit status."""
    port, folder, page, *services = arguments
    with report_errors():
        return run(Plan(int(port), Path(folder), page == "--minichat", services))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

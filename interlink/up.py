"""`interlink up`: the whole hub on one machine, from one command to one Ctrl-C.

It starts the embedded broker and store where no other is given, prepares them, starts the services
and the chat page, says when all are ready, starts again what ends, and stops everything in order.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final

from interlink import embedded
from interlink.banner import HubAddresses, render_banner
from interlink.datadir import DataFolder, display_path, open_data_folder
from interlink.embedded import HOST, EmbeddedServer
from interlink.probe import consumer_lag, is_ready
from interlink.supervise import Backoff, Child, ProcessGroup, describe_exit
from interlink.topology import MINICHAT, Plan, Topology
from shared.contracts.errors import InterlinkError, Misconfigured

_READY_TIMEOUT_S: Final = 90.0
_POLL_INTERVAL_S: Final = 0.1
_HOUSEKEEPING_INTERVAL_S: Final = 10.0
_BROKER_WARNING_MB: Final = 1024
_DRAIN_TIMEOUT_S: Final = 10.0
_PREPARE_RETRY_INTERVAL_S: Final = 2.0
_PORT_TIMEOUT_S: Final = 2.0
_EXIT_KILLED: Final = 130

PrintLine = Callable[[str], None]


class StartError(InterlinkError):
    """A part of the hub did not come up; the message says which and why."""


def run(plan: Plan) -> int:
    """Run the hub until SIGINT, SIGTERM or SIGHUP; the exit status. Raises `InterlinkError`."""
    with open_data_folder(plan.data_dir) as folder:
        return asyncio.run(_run_until_signal(Hub(plan, folder, _print_line)))


def _print_line(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone; the hub is not for that reason
        print(text, flush=True)  # noqa: T201 -- the one voice of the command


async def _run_until_signal(hub: "Hub") -> int:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(hub.work())
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1
        if told == 1:
            work.cancel()
        else:
            hub.kill()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, tell)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        await hub.stop()
    return _EXIT_KILLED if told > 1 else 0


@dataclass(slots=True)
class _ManagedProcess:
    """A child, how to see that it works, and, of an embedded half, what its end means."""

    child: Child
    is_ready: Callable[[], Awaitable[bool]]
    exit_note: str = ""


class Hub:
    """Everything that one `interlink up` runs."""

    def __init__(self, plan: Plan, folder: DataFolder, say: PrintLine) -> None:
        self._plan = plan
        self._folder = folder
        self._say = say
        self._process_group = ProcessGroup()
        self._broker: EmbeddedServer | None = None
        self._parts: dict[str, _ManagedProcess] = {}
        self._layout: Topology | None = None
        self._welcomed = False
        self._killed = False

    async def work(self) -> None:
        """Start everything, say that it is ready, and keep it so. Raises `InterlinkError`."""
        await self._ports_are_free()
        self._layout = layout = self._make_pair()
        self._folder.address.write_text(layout.public_url + "\n", encoding="utf-8")
        await self._start(list(self._parts.values()))
        await self._prepare(layout)
        services = {
            spec.name: _ManagedProcess(Child(spec, self._process_group), partial(is_ready, port, path))
            for spec, port, path in layout.services()
        }
        self._parts |= services
        await self._start(list(services.values()))
        self._say(self._welcome())
        self._welcomed = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_after())
            for part in self._parts.values():
                tasks.create_task(self._keep(part, layout))

    def kill(self) -> None:
        """End everything at once."""
        self._killed = True
        for part in self._parts.values():
            part.child.kill()

    async def stop(self) -> None:
        """First what lets events in, then what handles them once they are handled, then what holds them."""
        if self._welcomed and not self._killed:
            self._say("stopping: what is in flight is finished first; Ctrl-C again ends everything at once")
        entrance, *handlers = self._plan.services
        await self._end(entrance)
        if self._broker and self._welcomed:
            await self._drained(handlers)
        await self._end(*handlers)
        for name in (MINICHAT, "store", "broker"):
            await self._end(name)
        self._process_group.close()
        if self._welcomed:
            self._say("stopped")

    # Starting

    def _make_pair(self) -> Topology:
        path, store = self._folder.path, None
        if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
            self._broker = embedded.broker(path, self._process_group)
            self._add_half(self._broker, "it holds events in memory: those not handled yet are lost")
        if not os.environ.get("MONGODB_URI"):
            store = embedded.store(path, self._process_group)
            store.prepare()
            self._add_half(store, "its data is on disk: nothing is lost")
        return Topology(self._plan, self._folder, self._broker, store)

    def _add_half(self, half: EmbeddedServer, exit_note: str) -> None:
        self._parts[half.child.name] = _ManagedProcess(
            half.child, partial(asyncio.to_thread, half.answers), exit_note
        )

    async def _ports_are_free(self) -> None:
        deadline = monotonic() + _PORT_TIMEOUT_S  # those of an `up` that was just killed take a moment
        for name, port in self._plan.ports().items():
            while not embedded.is_free(self._plan.host(name), port):
                if monotonic() > deadline:
                    raise Misconfigured(
                        f"port {port} (for {name}) is taken by another program: choose others with --port"
                    )
                await asyncio.sleep(_POLL_INTERVAL_S)

    async def _start(self, parts: Sequence[_ManagedProcess]) -> None:
        for part in parts:
            _start_child(part.child)
        await asyncio.gather(*map(_wait_until_ready, parts))

    async def _prepare(self, layout: Topology) -> None:
        """Run `interlink init` and pass on what it has to say. Raises `StartError` with its complaint."""
        command, env = layout.init()
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._process_group.add(process.pid)
        try:
            notes, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
            self._process_group.remove(process.pid)
        if process.returncode:
            lines = complaint.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise StartError(lines[-1].removeprefix("interlink: "))
        for note in notes.decode(errors="replace").splitlines():
            self._say(note)

    def _welcome(self) -> str:
        ports = self._plan.ports()
        return render_banner(
            HubAddresses(
                hub=f"http://{HOST}:{self._plan.port}",
                chat=f"http://{HOST}:{ports[MINICHAT]}" if MINICHAT in ports else None,
                admin_key=display_path(self._folder.admin_key),
                logs=display_path(self._folder.logs),
                broker_in_memory=self._broker is not None,
            )
        )

    # Keeping

    async def _keep(self, part: _ManagedProcess, layout: Topology) -> None:
        backoff, child = Backoff(), part.child
        while True:
            started = monotonic()
            while child.running():  # noqa: ASYNC110 -- a process does not say when it ends
                await asyncio.sleep(_POLL_INTERVAL_S)
            pause = backoff.after(monotonic() - started)
            means = f" ({part.exit_note})" if part.exit_note else ""
            self._say(
                f"{child.name} ended with {describe_exit(child.status)}{means}: "
                f"it is started again in {pause:g} s; its log: {display_path(child.spec.log)}"
            )
            await asyncio.sleep(pause)
            try:
                _start_child(child)
                await _wait_until_ready(part)
            except StartError as error:
                self._say(str(error))
                continue
            if self._broker and child is self._broker.child:
                await self._prepare_again(layout, child)
            self._say(f"{child.name} is back")

    async def _prepare_again(self, layout: Topology, broker: Child) -> None:
        """Create the topics that a new broker lacks, as soon as the store is there too."""
        while broker.running():
            try:
                await self._prepare(layout)
            except StartError as error:
                self._say(f"the topics are not created yet: {error}")
                await asyncio.sleep(_PREPARE_RETRY_INTERVAL_S)
            else:
                return

    async def _look_after(self) -> None:
        """Keep the logs bounded, and say when the embedded broker has grown large: it forgets nothing."""
        large_mb = _BROKER_WARNING_MB
        while True:
            await asyncio.sleep(_HOUSEKEEPING_INTERVAL_S)
            for part in self._parts.values():
                part.child.trim_log()
            if self._broker and (now_mb := self._broker.child.memory_mb()) > large_mb:
                large_mb = now_mb * 2
                self._say(
                    f"the embedded broker holds {now_mb} MB: it keeps every event until it stops. "
                    "Restart 'interlink up', or set KAFKA_BOOTSTRAP_SERVERS for more than a trial"
                )

    # Stopping

    async def _end(self, *names: str) -> None:
        children = [self._parts[name].child for name in names if name in self._parts]
        for child in children:
            child.terminate()
        deadline = monotonic() + max((child.spec.stop_timeout_s for child in children), default=0)
        while any(child.running() for child in children):
            if monotonic() > deadline:
                for child in filter(Child.running, children):
                    self._say(f"{child.name} did not stop in time and was killed")
                    child.kill()
            await asyncio.sleep(_POLL_INTERVAL_S / 4)

    async def _drained(self, handlers: Sequence[str]) -> None:
        """Wait until nothing on the embedded broker is unhandled: it forgets what it holds."""
        ports = self._plan.ports()
        deadline, calm = monotonic() + _DRAIN_TIMEOUT_S, 0
        while calm < 2 and not self._killed:
            behind = sum(await asyncio.gather(*(consumer_lag(ports[name]) for name in handlers)))
            calm = calm + 1 if behind == 0 else 0
            if monotonic() > deadline:
                self._say(f"{behind} events were not handled in time, and the embedded broker forgets them")
                return
            await asyncio.sleep(_POLL_INTERVAL_S)


def _start_child(child: Child) -> None:
    try:
        child.start()
    except OSError as error:
        raise StartError(f"{child.name} cannot be run: {error.strerror}") from None


async def _wait_until_ready(part: _ManagedProcess) -> None:
    """Return when it works. Raises `StartError` when it ended instead, or takes more than 90 s."""
    deadline = monotonic() + _READY_TIMEOUT_S
    while not await part.is_ready():
        if not part.child.running():
            raise StartError(_failure_detail(part.child, f"ended with {describe_exit(part.child.status)}"))
        if monotonic() > deadline:
            raise StartError(_failure_detail(part.child, f"was not ready within {_READY_TIMEOUT_S:.0f} s"))
        await asyncio.sleep(_POLL_INTERVAL_S)


def _failure_detail(child: Child, what: str) -> str:
    """One line: the child's own last complaint where it is one, else where to read more."""
    lines = child.last_lines(1)
    if lines and lines[0].startswith("interlink: "):
        return f"{child.name}: {lines[0].removeprefix('interlink: ')}"
    return f"{child.name} {what}; its log: {display_path(child.spec.log)}"

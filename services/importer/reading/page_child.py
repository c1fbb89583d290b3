"""The main module of the reader process of a connected account. Started by `page_process`.

    python -m services.importer.reading.page_child PROVIDER SPEC LIMITS

It runs the operations of the provider's `PageReader`. It has neither network nor token: a response
`{"step": ...}` asks for a request, and the next line of standard input is about the provider's response,
whose body follows. Before the first operation, the process confines itself (`confinement`).
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, TypeVar

import orjson

from services.importer.reading.confinement import NICENESS, confine, limit_cpu
from services.importer.reading.message_lines import Names, line_of
from services.importer.reading.protocol import encoded, framed, overview_data
from shared.manifests.channel_types import Account, CallResponse, ChannelFailure, Operation, Person, Step
from shared.manifests.history_models import HistorySpec
from shared.manifests.history_types import Contents, HistoryConversation, ReadsPages, Unreadable
from shared.manifests.provider_code import load_page_reader

T = TypeVar("T")
_NO_MEMORY: Final = "Not enough memory"
_TOO_LARGE: Final = (
    "a response of the account needs more than {megabytes} MB to be read: import a shorter time"
)


class _Session:
    """Runs the operations of one account."""

    def __init__(self, reader: ReadsPages, commands: BinaryIO, out: BinaryIO, cpu_s: float) -> None:
        self._reader = reader
        self._commands = commands
        self._out = out
        self._cpu_s = cpu_s
        self._people: dict[str, Person] = {}
        self._names = Names(people=self._people)
        self._contents: Contents | None = None

    def handle_all(self) -> None:
        """Handle commands until standard input ends."""
        for line in self._commands:
            limit_cpu(self._cpu_s)
            command = orjson.loads(line)
            try:
                self._handle(command)
            except ChannelFailure as failure:
                self._write({"failure": _failure(failure)})

    def _handle(self, command: Mapping[str, Any]) -> None:
        match command["do"]:
            case "contents":
                account = Account(**command["account"])
                self._contents = self._run(self._reader.contents(account, command["answers"]))
                overview = overview_data(self._contents)
                self._write({"contents": overview, "newest_first": self._reader.NEWEST_FIRST})
            case "people":
                page = self._run(self._reader.people(self._read(), command["cursor"]))
                self._write({"items": page.items, "next": page.next_cursor})
            case "conversations":
                page = self._run(self._reader.conversations(self._read(), command["cursor"]))
                self._write({"items": page.items, "next": page.next_cursor})
            case "names":
                self._people = {}
                self._names = Names(**command["names"], people=self._people)
            case "add_people":
                self._people |= {item[0]: Person(*item) for item in command["people"]}
            case "page":
                self._page(command)

    def _page(self, command: Mapping[str, Any]) -> None:
        conversation = HistoryConversation(**command["conversation"])
        since, until = command["since"], command["until"]
        operation = self._reader.page(self._read(), conversation, command["cursor"], since=since, until=until)
        page = self._run(operation)
        self._write(
            {
                "lines": [line_of(record, self._names) for record in page.records],
                "next": page.next_cursor,
                "reached": page.reached,
                "rate": page.rate,
            }
        )

    def _read(self) -> Contents:
        if self._contents is None:
            raise Unreadable("the contents of the account are not read yet")
        return self._contents

    def _run(self, operation: Operation[T]) -> T:
        try:
            step = next(operation)
            while True:
                step = operation.send(self._response(step))
        except StopIteration as done:
            result: T = done.value
            return result

    def _response(self, step: Step) -> CallResponse:
        """Ask for a step, and return the response. Ends the process if the importer sends none."""
        call = step.call
        self._write(
            {"step": {"http": call.method, "path": call.path, "query": call.query, "name": step.method}}
        )
        line = self._commands.readline()
        if not line:
            raise SystemExit(0)
        answer = orjson.loads(line)
        body = self._commands.read(answer["size"])
        return CallResponse(answer["status"], answer["headers"], _json(body))

    def _write(self, response: Any) -> None:
        self._out.write(framed(encoded(response)))
        self._out.flush()


def _json(body: bytes) -> Any:
    """Return the value of JSON; None for anything else. Raises `MemoryError`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # As bad JSON, which it is not, the page would be read again and again.
        if error.msg.startswith(_NO_MEMORY):
            raise MemoryError from None
        return None


def _failure(failure: ChannelFailure) -> dict[str, Any]:
    return {
        "kind": failure.kind,
        "code": failure.code,
        "text": failure.text,
        "retry_after": failure.retry_after,
        "scope": failure.scope,
        "needed": list(failure.needed),
    }


def main() -> None:
    """Handle commands until standard input ends."""
    provider, spec, limits = (
        sys.argv[1],
        HistorySpec.model_validate_json(sys.argv[2]),
        orjson.loads(sys.argv[3]),
    )
    commands, out = sys.stdin.buffer, sys.stdout.buffer
    os.nice(NICENESS)
    reader = load_page_reader(provider, spec)
    confine(memory_bytes=limits["memory_bytes"])
    try:
        _Session(reader, commands, out, limits["cpu_s"]).handle_all()
    except Unreadable as error:
        out.write(framed(encoded({"error": str(error)})))
    except MemoryError:
        megabytes = limits["memory_bytes"] // 2**20
        out.write(framed(encoded({"error": _TOO_LARGE.format(megabytes=megabytes)})))
    out.flush()


if __name__ == "__main__":
    main()

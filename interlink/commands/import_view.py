"""Show an import on a terminal, and ask the person there."""

import sys
from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from interlink.commands.common import print_line
from shared.contracts.errors import Misconfigured


class TerminalView:
    """Shows lines and a progress bar, which needs a terminal on standard error, and asks questions.

    With `json`, standard output is left to the result. `yes` answers every question.
    """

    def __init__(self, *, yes: bool, json: bool) -> None:
        self.on_interrupt = ""
        self._yes = yes
        self._json = json
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._end_bar()

    def line(self, text: str) -> None:
        """Show a line."""
        self._end_bar()
        print_line(text, wrong=self._json)

    def progress(self, label: str, done: int, total: int, note: str = "") -> None:
        """Show how far something is."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, note=note)
        self._bar.update(self._task, description=label, completed=done, total=total, note=note)

    def confirm(self, question: str) -> bool:
        """Return the answer to a yes-or-no question. Raises `Misconfigured` if nobody can answer."""
        self._end_bar()
        self.require_answers()
        if self._yes:
            return True
        try:
            return typer.confirm(question, err=self._json)
        except typer.Abort:
            raise KeyboardInterrupt from None

    def require_answers(self) -> None:
        """Raise `Misconfigured` if nobody can answer a question."""
        if not self._yes and not sys.stdin.isatty():
            raise Misconfigured("this asks before it changes the chat, and nobody can answer here: add --yes")

    def _end_bar(self) -> None:
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None

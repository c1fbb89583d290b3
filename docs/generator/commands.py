"""The page of the command `interlink`, from the command itself."""

from collections.abc import Iterator
from typing import Any, Final

import typer.main

from docs.generator.markdown import table
from interlink.cli import app

_INTRODUCTION: Final = """\
# The command interlink

Generated from the command itself: `interlink --help` says the same. After `make setup` it is
`.venv/bin/interlink`.
Status 0 is success, 1 is a finding or a failure, 2 is wrong usage or settings.
"""


def commands_page() -> str:
    """Return the page: every command with its arguments and options."""
    root = typer.main.get_command(app)
    return "\n".join([_INTRODUCTION, *_sections("interlink", root)])


def _sections(name: str, command: Any) -> Iterator[str]:
    below = getattr(command, "commands", None)
    if below is None:
        yield f"## {name}\n\n{_help(command)}\n\n{_parameters(command)}"
        return
    for child in sorted(below):
        yield from _sections(f"{name} {child}", below[child])


def _help(command: Any) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        names = [*parameter.opts, *parameter.secondary_opts] if is_option else [_argument_name(parameter)]
        if parameter.envvar:
            names.append(str(parameter.envvar))
        required = " (required)" * bool(parameter.required)
        meaning = getattr(parameter, "help", None) or ""
        rows.append((", ".join(f"`{name}`" for name in names) + required, _default(parameter), meaning))
    return table(("argument, option or variable", "default", "meaning"), rows)


def _argument_name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _default(parameter: Any) -> str:
    value = getattr(parameter.default, "value", parameter.default)
    if callable(value) or value in (None, False, ""):
        return ""
    return f"`{str(value).lower() if value is True else value}`"

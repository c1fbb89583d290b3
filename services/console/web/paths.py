"""Build the addresses of lists and objects, and read the `done` message of an address."""

from urllib.parse import quote

from starlette.requests import Request

from services.console.pages.kinds import Json, Kind, read


def filled(pattern: str, values: Json) -> str:
    """Return a path with each `{name}` replaced by its encoded value; `{job.id}` reads a nested field."""
    parts = pattern.split("{")
    found = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}")
        found.append(quote(str(read(name)(values) or ""), safe="") + rest)
    return "".join(found)


def list_address(kind: Kind, request: Request) -> str:
    """Return the address of the requested list, or of the list with the requested object."""
    return "/console/" + filled(kind.path, request.path_params)


def done_message(kind: Kind, request: Request) -> str:
    """Return the message for `done` in the address; empty without it."""
    name = request.query_params.get("done")
    actions = (*kind.actions, *kind.list_actions)
    done = {**kind.notes, **{action.name: action.done for action in actions}}
    return done.get(name, "Done.") if name else ""

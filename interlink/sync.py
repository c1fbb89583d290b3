"""`interlink sync`: what the commands ask the hub for, and how they show it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from shared.contracts.errors import Misconfigured
from shared.wire.bodies import parse_json

Json = dict[str, Any]
CHAT: Final = "chat"
_ARROWS: Final = {"both": "<->", "in": "-->", "out": "<--"}
"""Between a leg and the others: where messages go."""
_LISTS: Final = frozenset({"include_people", "exclude_people", "include_words", "exclude_words"})


def parse_leg(text: str) -> Json:
    """Return the leg in `[in=|out=]PROVIDER:[ACCOUNT:]CONVERSATION`. Raises `Misconfigured`.

    Everything behind `chat:` is the channel of the chat.
    """
    direction, _, rest = text.partition("=")
    if direction not in ("in", "out"):
        direction, rest = "both", text
    provider, _, place = rest.partition(":")
    account, _, conversation = ("", "", place) if provider == CHAT else place.rpartition(":")
    if not provider or not conversation:
        raise Misconfigured(
            f"{text}: has to be PROVIDER:CONVERSATION, such as slack:C0123 or chat:general, "
            "or PROVIDER:ACCOUNT:CONVERSATION"
        )
    leg = {"provider": provider, "conversation": conversation, "direction": direction}
    return leg | ({"account": account} if account else {})


def parse_settings(texts: Sequence[str]) -> Json:
    """Return settings from texts such as `files=false`; those that are lists may repeat.

    Raises `Misconfigured` for one without a value.
    """
    found: Json = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise Misconfigured(f"{text}: has to be NAME=VALUE, such as files=false")
        if name in _LISTS:
            found.setdefault(name, []).append(value)
        else:
            is_word = value in ("true", "false") or value.isdecimal()
            found[name] = parse_json(value.encode()) if is_word else value
    return found


def mapping_lines(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about a mapping: id, status and name, then each leg with what is wrong with its account."""
    yield "  ".join(filter(None, (mapping["id"], mapping["status"], mapping["name"])))
    for leg in mapping["legs"]:
        yield f"  {_ARROWS[leg['direction']]} {_leg(leg)}"
        if leg["problem"]:
            yield f"      problem: {leg['problem']}"
    if mapping["reason"]:
        yield f"  problem: {mapping['reason']}"
    if mapping["fix"]:
        yield f"  fix: {mapping['fix']}"


def preview_lines(preview: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about a mapping that is not saved: its legs, and what will not follow."""
    legs = preview["legs"]
    for leg in legs:
        yield f"{_ARROWS[leg['direction']]} {_leg(leg)}"
        for problem in leg["problems"]:
            yield f"    problem: {problem}"
        for capability in leg["capabilities"]:
            if not capability["available"]:
                yield f"    cannot {capability['name']}: {capability['reason']}"
            elif capability["note"]:
                yield f"    to {capability['name']}: {capability['note']}"
    for item in preview["not_following"]:
        source, target = legs[item["from_leg"]], legs[item["to_leg"]]
        names = f"{_leg(source)} -> {_leg(target)}"
        yield f"not from {names}: {item['what']} ({item['reason']})"
    for problem in preview["problems"]:
        yield f"problem: {problem}"
    yield "can be saved" if preview["ok"] else "cannot be saved"


def result_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each leg of a test."""
    for leg in result["legs"]:
        place = f"{leg['provider']} {leg['conversation']}"
        if leg["ok"]:
            yield f"{place}: sent  {leg['permalink'] or ''}".rstrip()
        else:
            yield f"{place}: failed: {leg['reason']}" + (f" {leg['fix']}" if leg["fix"] else "")


def message_lines(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about a message: where it was written, and its state at each target with its trace.

    A message of a list has no traces.
    """
    source = message["source"]
    marks = [name for name in ("edited", "deleted") if message[name]]
    yield "  ".join((message["id"], message["received_at"], source["provider"], *marks))
    author = source["author"]["name"] or source["author"]["id"]
    yield f"  {author}: {message['excerpt']}  {source['permalink'] or ''}".rstrip()
    for target in message["targets"]:
        place = f"{target['provider']}:{target['conversation']}"
        yield f"  -> {place}  {target['state']}  (leg {target['leg']})"
        if target["reason"]:
            yield f"    problem: {target['reason']}"
        if target["fix"]:
            yield f"    fix: {target['fix']}"
        for entry in target.get("trace", ()):
            attempt = f" (attempt {entry['attempt']})" if entry["attempt"] else ""
            yield f"    {entry['at']}  {entry['step']}{attempt}  {entry['detail']}".rstrip()


def _leg(leg: Mapping[str, Any]) -> str:
    name = f" ({leg['name']})" if leg["name"] else ""
    account = "" if leg["provider"] == CHAT or not leg["account"] else f"{leg['account']}:"
    return f"{leg['provider']}:{account}{leg['conversation']}{name}"

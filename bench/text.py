"""Time to parse and to render a message of 200 characters in each dialect, against markdown-it-py alone."""

from collections.abc import Callable
from time import process_time
from typing import Any, Final

from markdown_it import MarkdownIt

from bench.stages import Bench
from shared.providers.slack.blocks import parse_body
from shared.providers.slack.render import Renderer
from shared.providers.telegram.entities import parse_entities
from shared.providers.telegram.render import render as render_telegram
from shared.richtext.markdown import parse_markdown, render_markdown
from shared.richtext.plain import parse_plain, render_plain
from shared.richtext.tree import Document

TEXTS: Final = {
    "usual": "Morning [@Ann](mention://user/U1), the **deploy of 4.2** is done, see the "
    "[log](https://ci.example.com/runs/4711). Run `make check` before you merge, it takes _two_ minutes. "
    "Questions: [#ops](mention://channel/C1)!",
    "lists": "Before you merge:\n\n- run `make check`\n- read **the log** of "
    "[run 4711](https://ci.example.com/runs/4711)\n- ask [@Ann](mention://user/U1)\n\n"
    "Then:\n\n1. merge\n2. wait for the _deploy_\n3. tell the whole team",
}
"""About 200 characters of Markdown: with seven marks, mentions and links, and with two lists."""
MRKDWN: Final = (
    "Morning <@U1>, the *deploy of 4.2* is done, see the <https://ci.example.com/runs/4711|log>. Run "
    "`make check` before you merge, it takes _two_ minutes. Questions: <#C1>! :wave: And that is it."
)
_ROUNDS: Final = 15
_ROUND_S: Final = 0.03
"""Length of one round."""


def text(bench: Bench) -> dict[str, Any]:
    """Return microseconds of CPU for each text, dialect and direction, and of the library."""
    calls: dict[str, dict[str, Callable[[], object]]] = {}
    for name, markdown in TEXTS.items():
        for dialect, (parse, render) in _dialects(markdown).items():
            calls[f"{dialect}, {name}"] = {"parse": parse, "render": render}
    calls["Slack mrkdwn, usual"] = {"parse": lambda: parse_body({"text": MRKDWN})}
    library = MarkdownIt("commonmark", {"html": False})
    calls["markdown-it-py, usual"] = {"parse": lambda: library.parse(TEXTS["usual"])}
    us = {what: {way: _us(call) for way, call in ways.items()} for what, ways in calls.items()}
    for what, ways in us.items():
        bench.say(f"text, {what}: " + ", ".join(f"{way} {value:.0f} us" for way, value in ways.items()))
    alone = us.pop("markdown-it-py, usual")["parse"]
    return {"us": us, "library_us": alone, "times": us["Markdown, usual"]["parse"] / alone}


def _dialects(markdown: str) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return how each dialect parses and renders a text."""
    tree: Document = parse_markdown(markdown)
    slack = {"blocks": [{"type": "rich_text", "elements": Renderer().elements(tree)}]}
    telegram = render_telegram(tree)
    entities = list(telegram.entities)
    plain = render_plain(tree).text
    return {
        "Markdown": (lambda: parse_markdown(markdown), lambda: render_markdown(tree)),
        "Slack blocks": (lambda: parse_body(slack), lambda: Renderer().elements(tree)),
        "Telegram": (lambda: parse_entities(telegram.text, entities), lambda: render_telegram(tree)),
        "plain": (lambda: parse_plain(plain), lambda: render_plain(tree)),
    }


def _us(call: Callable[[], object]) -> float:
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        count = 0
        started = process_time()
        while process_time() - started < _ROUND_S:
            for _ in range(20):
                call()
            count += 20
        rounds.append((process_time() - started) / count * 1e6)
    return min(rounds)

"""Jira's wiki markup as Markdown. Pure.

The result is Markdown of a stranger: it is made safe where Markdown is (`people_markdown`). Each pattern has
an upper bound, so that the work grows with the length of the text only.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote as percent_encode

from shared.wire.markdown import escape

_MACRO: Final = re.compile(r"\{(code|noformat|quote|panel)(?::([^{}\n]{0,200}))?\}")
_STYLE: Final = re.compile(r"\{(?:color|anchor)(?::[^{}\n]{0,200})?\}")
_CODE_FENCE: Final = "~" * 12
_LANGUAGE: Final = re.compile(r"(?:language=)?([A-Za-z0-9_+#-]{1,20})(?:\||\Z)")
_TITLE: Final = re.compile(r"(?:\A|\|)title=([^|]{1,200})")
_HEADING: Final = re.compile(r"h([1-6])\. +")
_QUOTE: Final = re.compile(r"bq\. +")
_RULE: Final = re.compile(r"-{4,}")
_ITEM: Final = re.compile(r"([*#]{1,10}|-) +(?=\S)")
_NUMBER: Final = re.compile(r"\A(\d{1,9})(?=[.)](?:\s|$))")
_BARS: Final = re.compile(r"(?:\\\|){1,2}")
_URL_CHARACTERS: Final = "!#$%&'()*+,/:;=?@[]~"
_MARKS: Final = {"strong": "**", "emphasis": "*", "deleted": "~~", "inserted": "", "citation": "*"}
_MAX_DEPTH: Final = 3
"""Maximum depth of nested emphasis."""


def _pair(name: str, mark: str) -> str:
    """Return the pattern of text between two equal marks."""
    sign = re.escape(mark)
    return rf"(?<![\w{sign}]){sign}(?![\s{sign}])(?P<{name}>[^{sign}\n]{{1,300}})(?<!\s){sign}(?![\w{sign}])"


_INLINE: Final = re.compile(
    "|".join(
        (
            r"(?P<line_break>\\\\)\s?",
            r"\\(?P<escaped>[!-/:-@\[-`{-~])",
            r"\{\{(?P<code>.{1,300}?)\}\}",
            r"\[~(?P<person>[^\[\]\n]{1,100})\]",
            r"\[\^(?P<file>[^\[\]\n]{1,200})\]",
            r"\[(?:(?P<label>[^\[\]|\n]{1,300})\|)?(?P<target>[a-z]{2,10}:[^\[\]|\s]{1,2000})(?:\|[^\[\]\n]{0,50})?\]",
            r"\[(?P<place>[^\[\]|\n]{1,300})\|[^\[\]\n]{0,300}\]",
            r"!(?P<image>[^\s!|]{1,300}\.[A-Za-z0-9]{2,5})(?:\|[^!\n]{0,100})?!",
            r"(?<![A-Za-z0-9])(?P<url>(?:https?://|mailto:)[^\s|\[\]{}<>\"]{1,2000})",
            _pair("strong", "*"),
            _pair("emphasis", "_"),
            _pair("deleted", "-"),
            _pair("inserted", "+"),
            r"\?\?(?P<citation>[^?\n]{1,300})\?\?",
        )
    )
)


def wiki_to_markdown(text: str) -> str:
    """Return wiki markup as Markdown. Of what Markdown cannot say, the text stays."""
    text = _STYLE.sub("", text.replace("\r\n", "\n"))
    lines: list[str] = []
    quote, code, end = "", "", 0
    for macro in _MACRO.finditer(text):
        name, argument = macro[1], macro[2] or ""
        if code and name != code:
            continue  # it is part of the code
        content = text[end : macro.start()]
        lines += _code_lines(content, quote) if code else _block_lines(content, quote)
        end = macro.end()
        if name in ("code", "noformat"):
            code = "" if code else name
            language = _LANGUAGE.match(argument)
            lines += (
                [f"{quote}{_CODE_FENCE}{language[1] if language else ''}"] if code else [quote + _CODE_FENCE]
            )
        elif name == "quote":
            quote = "" if quote else "> "
            lines.append("")
        elif title := _TITLE.search(argument):  # of a panel
            lines += [quote, f"{quote}**{escape(title[1])}**", quote]
    lines += _code_lines(text[end:], quote) if code else _block_lines(text[end:], quote)
    return "\n".join(lines)


def _code_lines(text: str, quote: str) -> Iterator[str]:
    return (f"{quote}{line}" for line in text.strip("\n").split("\n"))


def _block_lines(text: str, quote: str) -> Iterator[str]:
    """Yield the lines of a text without macros."""
    previous = ""
    for line in map(str.strip, text.split("\n")):
        kind, markdown = _block_line(line, previous)
        if kind and previous and (kind != previous or kind == "heading"):
            yield quote  # in Markdown a list, for example, goes on up to an empty line
        if kind == "table" and previous != "table" and not line.startswith("||"):
            columns = len(_BARS.findall(markdown)) - 1
            yield f"{quote}{'| ' * columns}|"
            yield f"{quote}{'| --- ' * columns}|"
        yield quote + (_BARS.sub("|", markdown) if kind == "table" else markdown)
        if kind == "table" and previous != "table" and line.startswith("||"):
            yield f"{quote}{'| --- ' * (len(_BARS.findall(markdown)) - 1)}|"
        previous = kind


def _block_line(line: str, previous: str) -> tuple[str, str]:
    """Return the kind of a line (nothing for an empty one), and its Markdown."""
    if heading := _HEADING.match(line):
        return "heading", f"{'#' * int(heading[1])} {_inline(line[heading.end() :])}"
    if mark := _QUOTE.match(line):
        return "quote", f"> {_inline(line[mark.end() :])}"
    if _RULE.fullmatch(line):
        return "rule", "---"
    if item := _ITEM.match(line):
        marks = item[1] if previous == "list" else item[1][-1]
        indent = "".join("   " if mark == "#" else "  " for mark in marks[:-1])
        return "list", f"{indent}{'1.' if marks[-1] == '#' else '-'} {_inline(line[item.end() :])}"
    if line.startswith("|") and line.endswith("|") and len(line) > 2:
        return "table", _inline(line).replace("\n", " ")
    markdown = _inline(line)
    if markdown.startswith(("-", "+", "=")):
        return "text", f"\\{markdown}"
    return ("text" if line else ""), _NUMBER.sub(r"\1\\", markdown)


def _inline(text: str, depth: int = 0) -> str:
    """Return the text of a line as Markdown."""
    pieces: list[str] = []
    end = 0
    for match in _INLINE.finditer(text):
        pieces += (escape(text[end : match.start()]), _write(match, depth))
        end = match.end()
    return "".join((*pieces, escape(text[end:])))


def _write(match: re.Match[str], depth: int) -> str:
    """Return what is not plain text in a line as Markdown."""
    kind = match.lastgroup or ""
    content = match[kind]
    if kind in _MARKS:
        inner = _inline(content, depth + 1) if depth < _MAX_DEPTH else escape(content)
        return f"{_MARKS[kind]}{inner}{_MARKS[kind]}"
    match kind:
        case "line_break":
            return "\n"
        case "code":
            return escape(content) if "|" in content or "`" in content else f"`{content}`"
        case "person":
            name = "someone" if content.startswith("accountid:") else content
            return escape(f"@{name}")
        case "target":
            return f"[{escape(match['label'] or content)}](<{percent_encode(content, safe=_URL_CHARACTERS)}>)"
        case "image":
            is_url = content.lower().startswith(("http://", "https://"))
            return (
                f"[image](<{percent_encode(content, safe=_URL_CHARACTERS)}>)" if is_url else escape(content)
            )
        case "url":
            return content
    return escape(content)

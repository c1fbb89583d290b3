"""Lines of a message for the files that it goes without. Pure."""

from collections.abc import Sequence
from typing import Final

from services.sync.files.fetch import FileProblem
from shared.connections.files.names import safe_name, shown_size
from shared.richtext.build import clean_line
from shared.richtext.tree import Document, Inline, LineBreak, Link, Paragraph, Text

_MAX_LINES: Final = 10


def with_problems(body: Document, problems: Sequence[FileProblem]) -> Document:
    """Add a paragraph with a line for each file that is missing: name, size and reason.

    The name is a link if the file has a public address. Beyond ten files, the last line counts the others.
    """
    if not problems:
        return body
    lines: list[Inline] = []
    for problem in problems[:_MAX_LINES]:
        lines += [*_line(problem), LineBreak()]
    if len(problems) > _MAX_LINES:
        lines.append(Text(f"… and {len(problems) - _MAX_LINES} more files"))
    else:
        lines.pop()
    return Document((*body.blocks, Paragraph(tuple(lines))))


def _line(problem: FileProblem) -> Sequence[Inline]:
    attachment = problem.attachment
    name = safe_name(attachment.filename)
    size = f" ({shown_size(attachment.size)})" if attachment.size is not None and attachment.size >= 0 else ""
    reason = clean_line(f"{size}: {problem.text}")
    if problem.link:
        return Link(problem.link, (Text(name),)), Text(reason)
    return (Text(f"{name}{reason}"),)

"""Refuse words that docs/glossary.md replaces: a step of `make check`.

Identifiers of the code are split at underscores and capitals; none of their parts may be one of `WORDS`.
Texts of code and documents may not have any of `PHRASES`. `STORED` are names that documents, manifests,
settings or commands have: they cannot change.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CODE = ("services", "shared", "interlink", "tests")
SENTENCE_WORDS = {"longest", "most", "way", "whose"}
"""Allowed in names of tests, which are sentences."""
GENERATED = ("shared/providers/", "docs/providers/", "docs/reference/providers/")
"""Pages about providers, made from their manifests."""
WORDS = {
    "anew": "again, or the verb: refresh, rotate, rewrap",
    "arrive": "callback",
    "arrived": "received, event",
    "arriving": "callback",
    "begun": "started, state",
    "bury": "dead_letter",
    "dance": "authorization",
    "dances": "authorizations",
    "door": "webhook definition",
    "entered": "manual credentials",
    "entering": "manual credentials",
    "insist": "write_with_retry",
    "kept": "stored, cached, retained",
    "lacking": "missing",
    "lane": "endpoint state",
    "lanes": "endpoint states",
    "leash": "process group",
    "longest": "max",
    "most": "max",
    "pump": "poll loop",
    "said": "value, text, detail",
    "shake": "handshake",
    "told": "publish, notify, detail",
    "unfillable": "missing value",
    "unsaid": "redacted",
    "untold": "outbox_pending",
    "way": "scheme, credential",
    "ways": "schemes, credentials",
    "whose": "account",
    "wish": "request",
}
STORED = {
    "interlink/provider/samples.py": {"entered", "kept", "whose"},
    "services/delivery/settings.py": {"most_in_flight"},
    "shared/manifests/connect_models.py": {"entered", "scope_untold"},
}
TERMS = {("services/sync/", "tests/sync"): {"lane", "lanes"}}
"""Words that are terms of the glossary in one part of the code, and are replaced in the others."""
PHRASES = {
    r"\bmade anew\b": "refreshed, rotated, created again",
    r"\bbegun anew\b": "restarted",
    r"\b(is|are|was|were) told\b": "gets, is notified, is configured with",
    r"\bwithout a word\b": "without a reason",
    r"\bput aside\b": "dead-lettered, disabled",
    r"\bof then\b": "of that time",
    r"\bat the door\b": "at the gateway",
    r"\bthe platform's\b": "the provider's",
    r"\bby hand over\b": "manually",
    r"\bwhoever has\b": "the holder",
}


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return the names that a module defines, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def words(name: str) -> list[str]:
    """Split an identifier into its words, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def faults(path: str, text: str) -> Iterator[str]:
    """Return a line for each word or phrase of a file that the glossary replaces."""
    if path.endswith(".py") and path.startswith(CODE):
        allowed = STORED.get(path, set())
        terms = {term for paths, part_terms in TERMS.items() if path.startswith(paths) for term in part_terms}
        for line, name in identifiers(ast.parse(text)):
            for word in words(name):
                if name.startswith("test_") and word in SENTENCE_WORDS:
                    continue
                if word in WORDS and word not in terms and name not in allowed:
                    yield f"{path}:{line}: {name}: say {WORDS[word]}"
    for phrase, better in PHRASES.items():
        for match in re.finditer(phrase, text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{path}:{line}: {match[0]!r}: say {better}"


def main() -> int:
    """Check the code and the documents that git does not ignore; return 1 if anything was found."""
    listed = subprocess.run(  # noqa: S603 -- our own arguments
        # Also files that are new and not ignored.
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *CODE, "*.md"],  # noqa: S607 -- git from PATH
        capture_output=True,
        text=True,
        check=True,
    )
    found = [
        fault
        for path in listed.stdout.split()
        if path.endswith((".py", ".md")) and not path.startswith(GENERATED) and Path(path).exists()
        for fault in faults(path, Path(path).read_text(encoding="utf-8"))
    ]
    for fault in found:
        print(fault)  # noqa: T201 -- the result of the step
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

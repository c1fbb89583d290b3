"""The checker's rules for a manifest's `history` section and the `PageReader` in `history.py`."""

from collections.abc import Iterator
from pathlib import Path

from shared.contracts.errors import Misconfigured
from shared.manifests.models import Manifest
from shared.manifests.provider_code import load_page_reader
from shared.manifests.registry import MANIFEST

_CLASS = "PageReader"


def history_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what does not fit together: section and code, scopes and the purpose `import`."""
    spec, code = manifest.history, folder / "history.py"
    if spec is None:
        if code.is_file() and _CLASS in code.read_text("utf-8", "replace"):
            yield f"{MANIFEST}: history: missing: {_CLASS} needs its rates and errors"
        return
    try:
        load_page_reader(manifest.id, spec)
    except Misconfigured as error:
        yield str(error)
    if not (spec.base or (manifest.connect and manifest.connect.api)):
        yield f"{MANIFEST}: history.base: missing: connect.api has no base address either"
    if spec.base and manifest.channel and spec.base != manifest.channel.base:
        yield f"{MANIFEST}: history.base: calls are sent to channel.base: leave it out, or make both the same"
    requested = set(manifest.connect.purposes.get("import", ())) if manifest.connect else set()
    for scope in sorted(spec.scopes.keys() - requested):
        yield f"{MANIFEST}: history.scopes: connect.purposes.import does not request {scope}: add it"

"""Which names in a recipe may be imported or fetched: those of runs that this account trained on this machine.

Its record lies in the account's state folder, outside all run folders. A line stands for one recipe with its source: the
SHA-256 of recipe.json, and that of the source file's path and content. A recipe that names nothing needs no line.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import platformdirs

from rushlight import files
from rushlight.data import DATASETS, needs_network
from rushlight.errors import RunError, StorageError
from rushlight.models import find_source, source_digest
from rushlight.texts import Note
from rushlight.training.recipe import Recipe

MOST_OF_RECORD = 256 << 20  # bytes: two million runs
SOURCES = ("source", "validation", "test")  # of the data, in a recipe


def record() -> Path:
    """Return where this account's record is."""
    return Path(platformdirs.user_state_dir("rushlight", appauthor=False)) / "trained-here"


def remember(folder: Path, recipe: Recipe) -> None:
    """Note that this account trains the run in `folder`, if its recipe names something to import or to fetch.

    Where the state folder cannot be written, the user is asked for the names later.
    """
    names = {str(recipe.data[key]) for key in SOURCES if key in recipe.data}
    if "import" not in recipe.model and not any(name in DATASETS for name in names):
        return
    path = record()
    with contextlib.suppress(OSError, StorageError):
        if not path.parent.exists():
            files.make_folder(path.parent)
            path.parent.chmod(0o700)
        if not is_known(folder, recipe):
            files.append_bytes(path, line_of(folder, recipe))


def is_known(folder: Path, recipe: Recipe) -> bool:
    """Tell whether this account trained this run here, with its source as it is now."""
    path = record()
    try:
        are_ours = files.is_ours_alone(path.parent) and files.is_ours_alone(path)
        return are_ours and line_of(folder, recipe) in files.read_bytes(path, MOST_OF_RECORD).splitlines(keepends=True)
    except OSError:
        return False


def line_of(folder: Path, recipe: Recipe) -> bytes:
    """Return the line of the record that stands for a recipe and its source. Raises OSError."""
    source = b""
    if (reference := recipe.model.get("import")) is not None:
        source = f"{find_source(reference)}\n{source_digest(reference)}".encode("utf-8", "surrogateescape")
    recipe_json = files.read_bytes(folder / "recipe.json", files.MOST_JSON)
    digests = (hashlib.sha256(part).hexdigest() for part in (recipe_json, source))
    return f"{' '.join(digests)}\n".encode()


def check_importable(folder: Path, recipe: Recipe) -> None:
    """Raise RunError where a run's model was a live object, or names code that this account did not train it with."""
    described = recipe.model
    if described.get("live"):
        raise RunError("live-model", run=folder.name, model=described["class"], short=described["name"])
    reference = described.get("import")
    if reference is None or is_known(folder, recipe):
        return
    source = find_source(reference)
    own, reason = reference, Note("training.trust.unknown")
    if source is None or folder.resolve().parent in source.parents:
        own, reason = (
            f"net.py:{described['name']}",
            Note("training.trust.in-runs" if source else "training.trust.not-found"),
        )
    elif described.get("source_sha256") not in (None, source_digest(reference)):
        reason = Note("training.trust.changed")
    raise RunError("foreign-model", run=folder.name, reference=reference, reason=reason, own=own)


def check_fetchable(folder: Path, recipe: Recipe) -> None:
    """Raise RunError where the data of a run that this account did not train would be fetched over the network."""
    wanted = [recipe.data[key] for key in SOURCES if needs_network(recipe.data.get(key))]
    if wanted and not is_known(folder, recipe):
        raise RunError("foreign-data", run=folder.name, name=wanted[0])

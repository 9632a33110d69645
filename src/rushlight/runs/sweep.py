"""What a killed deletion left: a deleted run gets a name that nothing else has, so that anybody may delete the rest."""

from __future__ import annotations

from pathlib import Path

from rushlight import files

DELETED = ".deleted"


def name_when_deleted(folder: Path) -> Path:
    """Return the name that a run gets before it is deleted: `first-try.deleted.0a1b2c3d.part`."""
    return files.temporary_beside(folder.with_name(folder.name + DELETED))


def sweep_deleted(runs: Path) -> None:
    """Delete what is left of runs whose deletion came to no end. Two processes that do it at once are not in each other's way."""
    for folder in runs.glob(f"*{DELETED}.????????{files.TEMPORARY}"):
        files.disk.delete_tree(folder)

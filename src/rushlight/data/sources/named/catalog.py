"""The datasets that have a name, as `catalog.toml` declares them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Content:
    """One file inside a download, as the cache keeps it: unpacked.

    `sha256` is None where nobody published it; the digest of the download then vouches for it. `member` is the file's
    path inside a tar archive, '' when the download is one gzipped file.
    """

    name: str
    size_bytes: int
    sha256: str | None = None
    member: str = ""

    @property
    def split(self) -> Literal["train", "test"]:
        """The split that the file belongs to, by its name."""
        return "test" if self.name.startswith(("test", "t10k")) else "train"


@dataclass(frozen=True)
class RemoteFile:
    """One file as its publisher offers it."""

    name: str
    size_bytes: int
    sha256: str
    contents: tuple[Content, ...]


@dataclass(frozen=True)
class NamedDataset:
    """A dataset known by name; `sources` are tried in order, see `catalog.toml`.

    `shape` is one image's: (channels, height, width).
    """

    name: str
    title: str
    layout: Literal["idx", "cifar", "shipped"]
    files: tuple[RemoteFile, ...]
    sources: tuple[str, ...]
    licence: str
    classes: tuple[str, ...]
    citation: str
    homepage: str
    shape: tuple[int, int, int]
    train_count: int
    test_count: int


def read_catalog(path: Path) -> dict[str, NamedDataset]:
    """Return the declared datasets by name, in the order of the file."""
    datasets = {}
    for name, facts in tomllib.loads(path.read_text("utf-8")).items():
        facts["files"] = [
            RemoteFile(**{**file, "contents": tuple(Content(**content) for content in file["contents"])})
            for file in facts.get("files", [])
        ]
        lists = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
        datasets[name] = NamedDataset(name=name, **{**facts, **lists})
    return datasets


DATASETS = read_catalog(Path(__file__).with_name("catalog.toml"))

"""The cache of named datasets: one folder each, holding unpacked files and a record of their digests.

    <cache>/fashion-mnist/train-images-idx3-ubyte          what opening reads; there whole or not at all
                          files.json                       {name: {"bytes", "sha256", "source"}}
                          train-images-idx3-ubyte.damaged  a file whose content had changed, kept for the user

Files are checked whole each time they are used: SHA-256 of Fashion-MNIST's 55 MB takes about 30 ms.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import platformdirs

from rushlight import files
from rushlight.data.sources.named.catalog import Content, NamedDataset, RemoteFile
from rushlight.files import sha256_of
from rushlight.texts import Note

RECORD = "files.json"

Progress = Callable[[str, int, int | None], None]  # (file, bytes so far, bytes in all if known)


class SourceRefusal(Exception):
    """Why one source could not give one file, as `note`. Remembered while the next source is tried."""

    def __init__(self, note: str) -> None:
        super().__init__(note)
        self.note = note


def cache_folder(variable: str = "RUSHLIGHT_DATA", name: str = "data") -> Path:
    """Return the folder that the environment variable names, else `name` in this account's cache folder."""
    chosen = os.environ.get(variable, "").strip()
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("rushlight", appauthor=False)) / name


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the content of `files.json`, {} when it is missing or damaged (the files are then fetched again)."""
    content = files.readable_json(folder / RECORD, {}) or {}
    return {name: entry for name, entry in content.items() if isinstance(entry, dict)}


def find_faults(dataset: NamedDataset, folder: Path) -> dict[str, str]:
    """Return, by name, why a cached file cannot be used ('' when it is not there); empty when all are whole."""
    record, faults = read_record(folder), dict[str, str]()
    for content in (content for file in dataset.files for content in file.contents):
        expected = content.sha256 or record.get(content.name, {}).get("sha256")
        try:
            if (size := (folder / content.name).stat().st_size) != content.size_bytes:
                faults[content.name] = Note("data.size-differs", found=size, expected=content.size_bytes)
            elif expected is None:
                faults[content.name] = Note("data.digest-not-recorded")
            elif (found := sha256_of(folder / content.name)) != expected:
                faults[content.name] = Note("data.content-changed", found=found, expected=expected)
        except FileNotFoundError:
            faults[content.name] = ""
        except OSError as error:
            faults[content.name] = Note("data.unreadable", reason=error.strerror or error)
    return faults


def is_complete(dataset: NamedDataset, folder: Path) -> bool:
    """Tell whether all files are there in the right size; quick, since nothing is read."""
    try:
        contents = [content for file in dataset.files for content in file.contents]
        return all((folder / content.name).stat().st_size == content.size_bytes for content in contents)
    except OSError:
        return False


def unpack_published(packed: Path, file: RemoteFile, folder: Path, source: str) -> None:
    """Check a published file and write its contents into the cache.

    A file with the published digest is trusted. A gzipped file without it (compressed anew by a distribution, say) is
    good too if its content has the published digest. Of a tar archive the declared members are read, by exact name.

    Raises:
        SourceRefusal: it is another file, torn or damaged. Nothing of it has entered the cache.
        StorageError: the disk refused.
    """
    found, wanted = sha256_of(packed), {content.member: content for content in file.contents}
    if found != file.sha256 and not ("" in wanted and wanted[""].sha256):
        raise SourceRefusal(Note("data.not-the-published-file", name=packed.name, found=found, expected=file.sha256))
    try:
        if "" in wanted:
            with gzip.open(packed) as stream:
                admit(stream, wanted.pop(""), folder, source)
        else:
            with tarfile.open(packed, "r|gz") as archive:
                for member in archive:
                    if member.name in wanted and member.isfile() and (extracted := archive.extractfile(member)):
                        admit(extracted, wanted.pop(member.name), folder, source)
    except SourceRefusal as refusal:
        raise SourceRefusal(Note("data.fault-of-file", name=packed.name, reason=refusal.note)) from refusal
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = Note("data.archive-damaged", reason=error)
        raise SourceRefusal(Note("data.fault-of-file", name=packed.name, reason=reason)) from error
    if wanted:
        reason = Note("data.archive-lacks", names=", ".join(wanted))
        raise SourceRefusal(Note("data.fault-of-file", name=packed.name, reason=reason))


def admit(stream: IO[bytes] | gzip.GzipFile, content: Content, folder: Path, source: str) -> None:
    """Write one unpacked file into the cache, if it has the declared size and digest, and record it.

    Raises:
        SourceRefusal: it has not; the cache is as it was.
    """
    body = stream.read(content.size_bytes + 1)  # no more: a gzip file of a few kilobytes can unpack to a full memory
    digest = hashlib.sha256(body).hexdigest()
    if len(body) > content.size_bytes:
        raise SourceRefusal(Note("data.content-too-long", expected=content.size_bytes))
    if len(body) < content.size_bytes:
        raise SourceRefusal(Note("data.content-size-differs", found=len(body), expected=content.size_bytes))
    if content.sha256 not in (None, digest):
        raise SourceRefusal(Note("data.content-not-published", found=digest, expected=content.sha256))
    files.write_bytes(folder / content.name, body)
    entry = {"bytes": len(body), "sha256": digest, "source": source}
    files.write_json(folder / RECORD, {**read_record(folder), content.name: entry})

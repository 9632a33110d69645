"""The cache of named datasets: one folder each, holding unpacked files and a record of their digests.

    <cache>/fashion-mnist/train-images-idx3-ubyte     what opening reads; never there in part
                          files.json                  {name: {"bytes", "sha256", "source"}}
                          train-images-idx3-ubyte.gz.download  a download, as far as it came
                          train-images-idx3-ubyte.damaged        a file that was found damaged, set aside

Files are checked whole each time they are used: SHA-256 of Fashion-MNIST's 55 MB takes about 30 ms.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import platformdirs

from rushlight import files
from rushlight.data.sources.named.catalog import Content, NamedDataset, Refusal, RemoteFile

RECORD = "files.json"
CHUNK = 1 << 20


def cache_folder(variable: str = "RUSHLIGHT_DATA", name: str = "data") -> Path:
    """Return where datasets, or other things by `name`, are kept: where the variable says, or in this account's cache folder."""
    chosen = os.environ.get(variable, "").strip()
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("rushlight", appauthor=False)) / name


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `files.json` says, {} when it is missing or damaged (the files are then fetched again)."""
    try:
        content = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}


def find_fault(folder: Path, content: Content, record: dict[str, dict[str, Any]]) -> str | None:
    """Say what is wrong with a cached file: None when it is whole, '' when it is not there."""
    path = folder / content.name
    recorded = record.get(content.name, {}).get("sha256")
    digest = content.digest or (f"sha256:{recorded}" if recorded else None)
    try:
        size = path.stat().st_size
        if size != content.size_bytes:
            return f"it has {size:,} bytes instead of {content.size_bytes:,}"
        if digest is None:
            return "its digest was not recorded"
        found = digest_of(path, digest)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None if found == digest else f"its content changed: {found} instead of {digest}"


def is_complete(dataset: NamedDataset, folder: Path) -> bool:
    """Tell whether all files are there in the right size; quick, so without reading them."""
    contents = [content for file in dataset.files for content in file.contents]
    try:
        return all((folder / content.name).stat().st_size == content.size_bytes for content in contents)
    except OSError:
        return False


def digest_of(path: Path, like: str) -> str:
    """Return the file's digest by the algorithm of `like`, written the same way ('sha256:…')."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{found.hexdigest()}"


def unpack(packed: Path, file: RemoteFile, folder: Path, source: str) -> None:
    """Check a download and put its contents into the cache.

    A download with the published digest is trusted. A gzipped file without it (compressed anew by a
    distribution, say) is good too if its content has the published digest.

    Raises:
        Refusal: the file is another one, torn or damaged. Nothing of it has entered the cache.
        StorageError: the disk refused.
    """
    found = digest_of(packed, file.digest)
    if found != file.digest and not (len(file.contents) == 1 and file.contents[0].digest):
        raise Refusal(f"{packed.name} is not the published file: {found} instead of {file.digest}")
    try:
        if file.contents[0].member:
            unpack_tar(packed, file, folder, source)
        else:
            admit(gunzipped(packed), file.contents[0], folder, source)
    except Refusal as refusal:
        raise Refusal(f"{packed.name}: {refusal}") from refusal


def unpack_tar(packed: Path, file: RemoteFile, folder: Path, source: str) -> None:
    """Take the declared members out of a tar archive, by exact name, and nothing else."""
    wanted = {content.member: content for content in file.contents}
    try:
        with tarfile.open(packed, "r|gz") as archive:
            for member in archive:
                if member.name in wanted and member.isfile() and (stream := archive.extractfile(member)):
                    admit(pieces(stream), wanted.pop(member.name), folder, source)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise Refusal(f"the archive is damaged ({error})") from error
    if wanted:
        raise Refusal(f"the archive lacks {', '.join(wanted)}")


def gunzipped(packed: Path) -> Iterator[bytes]:
    """Give a gzipped file's content in pieces."""
    try:
        with gzip.open(packed) as stream:
            yield from pieces(stream)
    except (EOFError, zlib.error, OSError) as error:
        raise Refusal(f"it is no whole gzip file ({error})") from error


def read_pieces(path: Path) -> Iterator[bytes]:
    """Give a plain file's content in pieces."""
    try:
        with path.open("rb") as stream:
            yield from pieces(stream)
    except OSError as error:
        raise Refusal(f"{path.name} cannot be read: {error.strerror or error}") from error


def pieces(stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Give a stream's content in pieces."""
    while piece := stream.read(CHUNK):
        yield piece


def admit(chunks: Iterable[bytes], content: Content, folder: Path, source: str) -> None:
    """Write one unpacked file into the cache, if it has the declared size and digest, and record it.

    Raises:
        Refusal: it has not; the cache is as it was.
    """
    expected = content.digest or "sha256:"
    algorithm = expected.partition(":")[0]
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", algorithm}}
    size = 0
    with files.replacing(folder / content.name) as target:
        for chunk in chunks:
            size += len(chunk)
            if size > content.size_bytes:  # a gzip file of a few kilobytes can unpack to a full disk
                raise Refusal(f"its content is longer than the {content.size_bytes:,} bytes it should have")
            target.write(chunk)
            for running in hashes.values():
                running.update(chunk)
        if size != content.size_bytes:
            raise Refusal(f"its content has {size:,} bytes instead of {content.size_bytes:,}")
        found = f"{algorithm}:{hashes[algorithm].hexdigest()}"
        if content.digest and found != content.digest:
            raise Refusal(f"its content is not the published one: {found} instead of {content.digest}")
    entry = {"bytes": size, "sha256": hashes["sha256"].hexdigest(), "source": source}
    files.write_json(folder / RECORD, {**read_record(folder), content.name: entry})


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it can be looked at; returns its new name."""
    aside = path.with_name(path.name + ".damaged")
    with files.explained(path):
        path.replace(aside)
    return aside


def sweep(folder: Path) -> None:
    """Delete what killed processes left unpublished; only under the lock, when nobody else writes here."""
    with files.explained(folder):
        for left in folder.glob(f"*{files.TEMPORARY}"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

"""Downloading one file over HTTP(S) by pooch. Proxies come from the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from rushlight import files
from rushlight.data.sources.named.cache import Progress, SourceRefusal
from rushlight.data.sources.named.catalog import RemoteFile
from rushlight.texts import Note

ANSWER_S = 6.0  # for look-up, connection and first answer together: a network that drops packets is given up quickly
READ_S = 10.0  # for the next bytes of a connection
RETRIES = 1  # the next mirror is another
CHUNK_BYTES = 1 << 18


class DownloadBar:
    """The progress bar that pooch fills. It refuses a file of another size before its content arrives."""

    def __init__(self, file: RemoteFile, progress: Progress | None) -> None:
        self.file, self.progress = file, progress
        self.done = 0  # bytes
        self.is_answered = self.is_abandoned = False

    @property
    def total(self) -> int:
        """The size of the published file in bytes; set by pooch to the size that the server offers, 0 if unknown."""
        return self.file.size_bytes

    @total.setter
    def total(self, offered: int) -> None:
        self.is_answered, self.done = True, 0
        if offered not in (0, self.total):
            raise SourceRefusal(Note("data.offers-other-size", found=offered, expected=self.total))

    def update(self, count: int) -> None:
        """Add `count` bytes; pooch counts the last chunk as a full one."""
        self.done += count
        if self.is_abandoned or self.done >= self.total + 2 * CHUNK_BYTES:
            raise SourceRefusal(Note("data.sends-too-much", expected=self.total))
        if self.progress:
            self.progress(self.file.name, min(self.done, self.total), self.total)

    def reset(self) -> None:
        """Count from 0: at the end pooch adds the whole size at once."""
        self.done = 0

    def close(self) -> None:
        """Do nothing: pooch's protocol."""


def download(mirror: str, file: RemoteFile, folder: Path, progress: Progress | None = None) -> Path:
    """Download one file into `folder` and return its path; its digest has been checked.

    A thread does it: looking up a host's name can be neither interrupted nor limited in time.

    Raises:
        SourceRefusal: the server cannot be reached, refuses, offers another file, or keeps failing.
        StorageError: the disk refused.
    """
    meter, errors, responses = DownloadBar(file, progress), list[BaseException](), list[Any]()

    def fetch() -> None:
        import pooch

        pooch.get_logger().addFilter(is_no_narration)
        headers = {"User-Agent": "rushlight", "Accept-Encoding": "identity"}
        registry = {file.name: f"sha256:{file.sha256}"}
        try:
            downloader = pooch.HTTPDownloader(
                progressbar=meter, chunk_size=CHUNK_BYTES, timeout=READ_S, headers=headers,
                verify=os.environ.get("SSL_CERT_FILE") or True,
                hooks={"response": lambda response, **options: responses.append(response)},
            )  # fmt: skip
            pooch.create(folder, mirror, registry=registry, retry_if_failed=RETRIES).fetch(
                file.name, downloader=downloader
            )
        except BaseException as error:  # raised below, in the thread that waits
            errors.append(error)
        finally:
            for response in responses:  # pooch leaves those that failed open
                response.close()
            pooch.get_logger().removeFilter(is_no_narration)

    thread = threading.Thread(target=fetch, daemon=True, name="rushlight-download")
    thread.start()
    try:
        deadline = time.monotonic() + ANSWER_S
        while thread.is_alive():
            thread.join(0.05)
            if not meter.is_answered and time.monotonic() > deadline:
                raise SourceRefusal(Note("data.no-answer", seconds=ANSWER_S))
    finally:
        meter.is_abandoned = True  # after Ctrl-C the thread ends with its next chunk
    if errors:
        with files.explained(folder / file.name):
            raise explained_failure(errors[0])
    return folder / file.name


def is_no_narration(record: logging.LogRecord) -> bool:
    """Tell whether pooch's message is more than what it is doing: the progress shows that."""
    return record.levelno > logging.INFO


def explained_failure(error: BaseException) -> BaseException:
    """Return a failure of the network or of the digest as a SourceRefusal with its root's words; all else as it is."""
    import requests

    if not isinstance(error, (requests.RequestException, ValueError)):
        return error  # the disk's
    root: BaseException = error
    while cause := root.__cause__ or root.__context__:  # ConnectionError, MaxRetryError, NewConnectionError, …
        root = cause
    return SourceRefusal(getattr(root, "strerror", None) or str(root).partition(" Deleted download")[0])

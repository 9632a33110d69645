"""Downloading over HTTP(S): resumable, patient where it helps, quick to give up where it does not.

A download grows in a file beside its final place. What arrived stays when the connection breaks, the process
is killed or the machine is switched off; the next try asks for the rest only. Proxies are taken from the
environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), certificates from SSL_CERT_FILE and SSL_CERT_DIR, both by the
standard library.
"""

from __future__ import annotations

import http.client
import queue
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rushlight import files
from rushlight.data.sources.named.catalog import Refusal

Progress = Callable[[str, int, int | None], None]  # (what is being fetched, bytes so far, bytes in all if known)

TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
CHUNK = 1 << 18


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try again after a failure that may pass.

    `answer_s` bounds look-up, connection and first answer together: a network that drops packets is given up
    quickly. `attempts` counts tries in a row that brought no new byte.
    """

    answer_s: float = 6.0
    read_s: float = 10.0
    attempts: int = 3
    backoff_s: float = 0.5
    package_s: float = 300.0


class PassingFailure(Exception):
    """A failure that trying again may mend."""


def download(
    url: str, path: Path, size_bytes: int | None, *, patience: Patience, progress: Progress | None = None
) -> None:
    """Make the file at `path` the whole of what `url` offers, going on from what is there.

    The content is not checked here: the caller knows the digest.

    Raises:
        Refusal: the server cannot be reached, refuses, offers another size, or keeps failing.
        StorageError: the disk refused.
    """
    most, fruitless = length(path), 0
    while True:
        try:
            transfer(url, path, size_bytes, patience, progress)
            return
        except PassingFailure as failure:
            arrived = length(path)
            fruitless = 0 if arrived > most else fruitless + 1
            most = max(most, arrived)
            if fruitless >= patience.attempts:
                raise Refusal(f"{failure} ({patience.attempts} tries in a row)") from failure
            time.sleep(patience.backoff_s * 2 ** max(fruitless - 1, 0))


def transfer(url: str, path: Path, size_bytes: int | None, patience: Patience, progress: Progress | None) -> None:
    """Do one try: ask for what is missing and append it arrives."""
    done = length(path)
    if size_bytes is not None and done == size_bytes:
        return
    if size_bytes is not None and done > size_bytes:
        done = start_over(path)
    response = ask(url, path, done, patience)
    try:
        if done and not continues(response, done, size_bytes):
            done = start_over(path)
        total = check_size(response, done, size_bytes)
        name = url.rsplit("/", 1)[-1]
        while chunk := read_some(response, done, total):
            files.append_bytes(path, chunk)
            done += len(chunk)
            if total is not None and done > total:
                start_over(path)
                raise Refusal(f"sent more than the {total:,} bytes it should have")
            if progress:
                progress(name, done, total)
    finally:
        response.close()
    if total is not None and done < total:
        raise PassingFailure(f"the connection broke after {done:,} of {total:,} bytes")
    if done == 0:
        files.write_bytes(path, b"")  # an empty file was offered: the digest will judge it


def ask(url: str, path: Path, done: int, patience: Patience) -> http.client.HTTPResponse:
    """Open the address, from byte `done` on; explain a failure and say whether it may pass."""
    headers = {"User-Agent": "rushlight", "Accept": "*/*"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        return answer_in_time(urllib.request.Request(url, headers=headers), patience)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # our part is longer than what is offered now
            start_over(path)
            raise PassingFailure("the server does not know the part that is missing") from error
        message = f"answered {error.code} {error.reason}"
        raise (PassingFailure if error.code in TRANSIENT_STATUS else Refusal)(message) from error
    except urllib.error.URLError as error:
        raise explained_failure(error.reason, patience) from error
    except (http.client.HTTPException, OSError) as error:
        raise explained_failure(error, patience) from error


def explained_failure(reason: object, patience: Patience) -> Exception:
    """Return the failure in words: only a connection that was made and then lost is worth another try."""
    match reason:
        case socket.gaierror():
            return Refusal(f"its name cannot be looked up ({reason.strerror or reason}): no network, or no DNS")
        case ConnectionRefusedError():
            return Refusal("the connection was refused")
        case TimeoutError():
            return Refusal(f"no answer in {patience.answer_s:g} seconds")
        case ssl.SSLCertVerificationError():
            return Refusal(f"its certificate is not trusted here ({reason.verify_message})")
        case ConnectionError() | http.client.HTTPException():
            return PassingFailure(f"the connection broke ({reason})")
        case _:
            return Refusal(str(reason))


def answer_in_time(request: urllib.request.Request, patience: Patience) -> http.client.HTTPResponse:
    """Open `request`, giving up after `answer_s` in all.

    The standard library's time-out holds for each address of a host in turn, and not at all for looking the
    name up; with several of each it can take minutes. So a thread asks, and is left behind when it takes too
    long.
    """
    answers: queue.Queue[http.client.HTTPResponse | BaseException] = queue.Queue()
    is_given_up = threading.Event()

    def ask_now() -> None:
        try:
            answer = urllib.request.urlopen(request, timeout=patience.read_s)
        except BaseException as error:  # handed to the thread that waits
            answer = error
        answers.put(answer)
        if is_given_up.is_set():
            discard(answers)

    threading.Thread(target=ask_now, daemon=True, name="rushlight-ask").start()
    try:
        answer = answers.get(timeout=patience.answer_s)
    except queue.Empty:
        is_given_up.set()
        discard(answers)  # it may have come between the two
        raise TimeoutError from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def discard(answers: queue.Queue[http.client.HTTPResponse | BaseException]) -> None:
    """Close an answer that nobody waits for any more."""
    try:
        answer = answers.get_nowait()
    except queue.Empty:
        return
    if isinstance(answer, (http.client.HTTPResponse, urllib.error.HTTPError)):
        answer.close()


def continues(response: http.client.HTTPResponse, done: int, size_bytes: int | None) -> bool:
    """Tell whether the answer is the rest of what we have: some servers ignore Range and send everything."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status != 206 or found is None or int(found[1]) != done:
        return False
    return size_bytes is None or found[2] in ("*", str(size_bytes))


def check_size(response: http.client.HTTPResponse, done: int, size_bytes: int | None) -> int | None:
    """Return how many bytes there will be in all; refuse another file before its bytes are fetched."""
    if response.status == 206 and not done:
        raise Refusal("sent a part that was not asked for")
    if response.length is None:
        return size_bytes
    total = done + response.length
    if size_bytes is not None and total != size_bytes:
        raise Refusal(f"offers {total:,} bytes instead of {size_bytes:,}")
    return total


def read_some(response: http.client.HTTPResponse, done: int, total: int | None) -> bytes:
    """Return what has arrived, b'' at the end."""
    try:
        return response.read1(CHUNK)
    except TimeoutError as error:
        raise PassingFailure(f"stalled after {done:,} bytes") from error
    except (http.client.HTTPException, OSError) as error:
        raise PassingFailure(f"the connection broke after {done:,} bytes ({error})") from error


def start_over(path: Path) -> int:
    """Drop what was fetched so far; returns 0, the bytes that are left of it."""
    with files.explained(path):
        path.unlink(missing_ok=True)
    return 0


def length(path: Path) -> int:
    """Return the file's length in bytes, 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

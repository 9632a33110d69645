"""One image file as pixels of a given shape; what is broken comes back as a reason, not as a crash.

An image is turned upright (EXIF), laid over white where it is transparent, made grey or RGB with 8 bits, and resized
by Pillow's bilinear filter, which averages over all the pixels it shrinks away (antialiasing); its sides are stretched
to fit, not cropped. Training and predicting share this one way.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union, cast

import numpy as np

from rushlight.data.spec import FeatureSpec
from rushlight.errors import DataError
from rushlight.files import open_file
from rushlight.texts import Note

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # EXIF 2.32: these lay the image on its side
# Pillow goes by content: without these an EPS named .png would start Ghostscript. MPO is opened as JPEG.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF")
MOST_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte of RGB
LARGE, ONE_AT_A_TIME = 1 << 24, threading.Lock()  # pixels from which images are decoded one after the other
PILLOW = re.compile(r"PIL\..*")
SILENT = ("ignore", None, Warning, PILLOW, 0)  # as `warnings.filterwarnings` notes it
SILENCING = threading.Lock()
WANTED: list[None] = []  # an entry for each block that wants it silent

Result = TypeVar("Result")
Source: TypeAlias = Union[Path, io.BytesIO, "Image.Image"]


@dataclass(frozen=True)
class BadImage:
    """A file that is no image, or a broken one."""

    path: Path
    reason: str


class Unusable(Exception):
    """An image that Pillow reads and nobody here can use; `note` says why."""

    def __init__(self, note: Note) -> None:
        super().__init__(note)
        self.note = note


@dataclass(frozen=True)
class Header:
    """What an image's header says: its upright size and whether it is grey."""

    height: int
    width: int
    is_grey: bool


def read_image(source: Source | str | bytes, features: FeatureSpec) -> np.ndarray:
    """Read one image, a file's bytes among others, as uint8 of `features.shape`, (channels, height, width), or DataError."""
    if isinstance(source, (str, bytes)):
        source = Path(source) if isinstance(source, str) else io.BytesIO(source)
    return np.array(read_shape(source, features.shape), order="C")


def read_shape(source: Source, shape: tuple[int, ...]) -> np.ndarray:
    """Read one image as uint8 of exactly `shape`, (channels, height, width), laid out any way; DataError if unreadable."""
    with no_image_warnings():
        pixels = attempt(partial(read_pixels, shape=shape), source)
    if isinstance(pixels, BadImage):
        raise DataError("image-not-readable", path=pixels.path, reason=pixels.reason)
    return pixels


def read_headers(paths: Sequence[Path]) -> tuple[dict[Path, Header], list[BadImage]]:
    """Read every image's header, in threads; return the headers and the files that have none."""
    found = dict(zip(paths, in_threads(read_image_header, paths), strict=True))
    bad = [header for header in found.values() if isinstance(header, BadImage)]
    return {path: header for path, header in found.items() if isinstance(header, Header)}, bad


def read_image_header(path: Path) -> Header:
    """Return the upright size of an image and whether it is grey."""
    from PIL import Image

    with open_file(path) as file, Image.open(file, formats=FORMATS) as image:
        check_size(image)
        width, height = image.size
        knows_exif = image.format != "PNG" or "exif" in image.info  # else Pillow decodes a whole PNG to look for it
        if knows_exif and image.getexif().get(ORIENTATION, 1) in LYING:
            width, height = height, width
        is_grey = image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16")
        return Header(height, width, is_grey)


def read_pixels(source: Source, shape: tuple[int, ...]) -> np.ndarray:
    """Decode one image into uint8 of exactly `shape`, (channels, height, width), which may lie pixel by pixel."""
    from PIL import Image

    channels, height, width = shape
    with contextlib.ExitStack() as opened:
        if isinstance(source, Image.Image):
            image = source
        else:
            file = opened.enter_context(open_file(source)) if isinstance(source, Path) else source
            image = opened.enter_context(Image.open(file, formats=FORMATS))
        check_size(image)
        if image.size[0] * image.size[1] > LARGE:
            opened.enter_context(ONE_AT_A_TIME)
        image = in_mode(image, "L" if channels == 1 else "RGBA" if channels == 4 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image upright, with 8 bits, and laid over white where it is transparent."""
    from PIL import Image, ImageOps

    image.load()  # some formats tell their mode and their EXIF only then
    if image.getexif().get(ORIENTATION, 1) != 1:  # else it would be copied, here and where its mode is right already
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise Unusable(Note("data.float-pixels"))
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise Unusable(Note("data.wide-pixels"))
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    has_alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if has_alpha and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def check_size(image: Image.Image) -> None:
    """Refuse an image whose header claims so many pixels that unpacking it could fill the memory."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Unusable(Note("data.too-many-pixels", width=f"{width:,}", height=f"{height:,}", most=MOST_PIXELS))


def attempt(read: Callable[[Any], Result], source: Source) -> Result | BadImage:
    """Return what `read` gives, or a BadImage with the reason it fails."""
    from PIL import Image

    path = source if isinstance(source, Path) else Path(Note("data.image-in-memory"))
    try:
        return read(source)
    except FileNotFoundError:
        return BadImage(path, Note("data.no-such-file"))
    except Image.DecompressionBombError:
        return BadImage(path, Note("data.far-too-many-pixels", most=MOST_PIXELS))
    except Unusable as error:
        return BadImage(path, error.note)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        if isinstance(source, Path) and source.exists() and source.stat().st_size == 0:
            return BadImage(path, Note("data.empty-file"))
        said = str(error).replace(str(path), "").replace(repr(str(path)), "").strip(" ':") or type(error).__name__
        return BadImage(path, Note("data.no-image") if "cannot identify" in said else said)


def in_threads(read: Callable[[Path], Result], paths: Sequence[Path]) -> list[Result | BadImage]:
    """Apply `read` to every file in a small thread pool: Pillow lets go of Python's lock while it decodes."""
    with no_image_warnings(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(partial(attempt, read), paths))


@contextlib.contextmanager
def no_image_warnings() -> Iterator[None]:
    """Silence Pillow's warnings on odd metadata and on sizes, which `check_size` refuses by itself; in all threads.

    `warnings.catch_warnings` puts back the filters that it found, whatever another thread has done to them since; this
    takes away its own filter, with the last one who wanted it.
    """
    with SILENCING:
        if SILENT not in warnings.filters:
            warnings.filterwarnings("ignore", module=PILLOW.pattern)
        WANTED.append(None)
    try:
        yield
    finally:
        with SILENCING:
            WANTED.pop()
            if not WANTED and SILENT in warnings.filters:  # else a `catch_warnings` that began before has taken it away
                cast(list[Any], warnings.filters).remove(SILENT)

"""The NVIDIA cards of this machine, as their driver tells them: torch is not needed for that."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

from rushlight.texts import Note

NO_CARD = 100  # CUDA_ERROR_NO_DEVICE


class Card(NamedTuple):
    """A card: its number in CUDA's order, and its name."""

    number: int
    name: str


def cuda_cards() -> list[Card]:
    """Return the cards; none where there is no driver.

    A driver that does not work gives one, named by its error: whoever tries to use that card says more.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return []
    if error := driver.cuInit(0):
        return [] if error == NO_CARD else [Card(0, Note("serve.card-error", code=error))]
    count, card, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGetCount(ctypes.byref(count))
    cards = []
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(card), number)
        driver.cuDeviceGetName(name, len(name), card)
        cards.append(Card(number, name.value.decode("utf-8", "replace")))
    return cards

"""Fonts for pictures: matplotlib's own, and, for Chinese and its neighbours, an installed one."""

from __future__ import annotations

import functools
import logging
import unicodedata

LATIN_FONT = "DejaVu Sans"  # comes with matplotlib
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB",
    "Heiti SC", "SimSun", "Arial Unicode MS", "Droid Sans Fallback",
)  # fmt: skip

# Where HOME cannot be written, matplotlib keeps its cache elsewhere, and says so at length.
logging.getLogger("matplotlib").addFilter(lambda record: "MPLCONFIGDIR" not in record.msg and "mkdir" not in record.msg)


def font_of(text: str) -> str | None:
    """Return the name of a font for a text; None where no installed font has its letters."""
    is_cjk = any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return cjk_font() if is_cjk else LATIN_FONT


@functools.cache
def cjk_font() -> str | None:
    """Return the name of an installed font that has Chinese characters, None if there is none."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return next((name for name in CJK_FONTS if name in installed), None)

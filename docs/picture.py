"""Draw the README's picture: a real `rushlight train` in a terminal, as an SVG. `python docs/picture.py [ARGUMENT …]`"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

PICTURE = Path(__file__).parent / "train.svg"
COLUMNS = 84
THEME = TerminalTheme(
    (33, 29, 24), (232, 224, 210),
    [(60, 54, 46), (224, 108, 96), (148, 196, 110), (240, 190, 90), (110, 165, 220), (190, 140, 200), (110, 190, 190), (232, 224, 210)],
    [(130, 120, 105), (240, 130, 118), (170, 215, 130), (255, 210, 120), (140, 190, 240), (210, 165, 220), (140, 215, 215), (255, 250, 240)],
)  # fmt: skip


def main() -> None:
    """Run the command, keep what it prints with its colours, and write the picture."""
    arguments = sys.argv[1:] or ["train"]
    colours = {"RUSHLIGHT_LANGUAGE": "en", "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "PYTHONIOENCODING": "utf-8"}
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.run(
            [sys.executable, "-m", "rushlight", *arguments], cwd=folder, env={**os.environ, **colours},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=True,
        ).stdout  # fmt: skip
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "green"), (" ".join(["rushlight", *arguments]), "bold")))
    console.print(Text.from_ansi("\n".join(shortened(printed.rstrip().splitlines()))))
    picture = console.export_svg(title="rushlight", theme=THEME)
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # fonts of a CDN: the reader's own will do
    PICTURE.write_text(picture, encoding="utf-8")
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")


def shortened(lines: list[str]) -> Iterator[str]:
    """Yield the lines that a terminal still shows at the end, with the notes and the table of classes left out."""
    is_shown = True
    for line in lines:
        words = re.sub(r"\x1b\[[\d;]*m", "", line)
        if words.startswith(("Read from", "by class", "next:")):
            is_shown = False
            yield "…"
        elif words.startswith(("  epoch", "confusion")):
            is_shown = True
        if is_shown and not re.match(r"epoch \d+/|testing \d+/", words):  # progress, which a terminal overwrites
            yield line


main()

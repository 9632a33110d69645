"""Build the documentation in both languages: `python -m docs [FOLDER]`. The pages stand in `site/`; a warning is an error."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

DOCS = Path(__file__).parent
TREES = ".doctrees"  # by which a folder that this made is known
LANGUAGES = {"en": DOCS, "zh": DOCS / "zh"}  # where the pages of a language stand


def main() -> int:
    """Build every language afresh; return 0 when all of them could be built without a warning."""
    parser = argparse.ArgumentParser("python -m docs", description="Build the documentation in both languages.")
    parser.add_argument("folder", nargs="?", type=Path, default=DOCS.parent / "site", help="replaced as a whole (site)")
    site: Path = parser.parse_args().folder.resolve()
    if site.exists() and any(site.iterdir()) and not (site / TREES).is_dir():
        parser.error(f"{site} has something else in it")
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    failures = [language for language in LANGUAGES if not build(language, site)]
    shutil.copy(DOCS / "_static" / "choose.html", site / "index.html")
    print(f"open {site / 'index.html'}" if not failures else f"not built: {', '.join(failures)}")
    return len(failures)


def build(language: str, site: Path) -> bool:
    """Build the pages of one language; return whether that went well."""
    options = ["--fresh-env", "--fail-on-warning", "--keep-going", "--quiet", "--tag", language, "-c", str(DOCS)]
    trees = ["-d", str(site / TREES / language)]
    return build_main([*options, *trees, str(LANGUAGES[language]), str(site / language)]) == 0


sys.exit(main())

"""Build the documentation in both languages: `python -m docs [FOLDER]`. The pages stand in `site/`; a warning is an error."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

DOCS = Path(__file__).parent
SITE = Path(sys.argv[1]).resolve() if sys.argv[1:] else DOCS.parent / "site"
LANGUAGES = {"en": DOCS, "zh": DOCS / "zh"}  # where the pages of a language stand


def main() -> int:
    """Build every language afresh; return 0 when all of them could be built without a warning."""
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir(parents=True)
    failures = [language for language in LANGUAGES if not build(language)]
    shutil.copy(DOCS / "_static" / "choose.html", SITE / "index.html")
    print(f"open {SITE / 'index.html'}" if not failures else f"not built: {', '.join(failures)}")
    return len(failures)


def build(language: str) -> bool:
    """Build the pages of one language; return whether that went well."""
    options = ["--fresh-env", "--fail-on-warning", "--keep-going", "--quiet", "--tag", language, "-c", str(DOCS)]
    trees = ["-d", str(SITE / ".doctrees" / language)]
    return build_main([*options, *trees, str(LANGUAGES[language]), str(SITE / language)]) == 0


sys.exit(main())

"""`python -m rushlight` is `rushlight`."""

import sys
from pathlib import Path

if sys.path[:1] == [str(Path.cwd())]:  # Python puts the current folder first: a file there could shadow a library
    sys.path.append(sys.path.pop(0))

from rushlight.cli import main

if __name__ == "__main__":
    main()

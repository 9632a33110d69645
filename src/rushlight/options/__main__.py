"""`python -m rushlight.options`: print the reference of all options."""

from __future__ import annotations

import sys

from rushlight.options.reference import reference

sys.stdout.write(reference())

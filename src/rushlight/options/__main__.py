"""`python -m rushlight.options`: print the reference of all options."""

from __future__ import annotations

import sys

from rushlight.options.reference import options_reference

sys.stdout.write(options_reference())

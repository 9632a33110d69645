"""Settings that must stand before a card is used for the first time."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else products on a card are not deterministic

"""What a server says no to, with the status of HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from rushlight.errors import RushlightError


class Refusal(RushlightError):
    """A request that is not answered: `status` is HTTP's, `headers` go out with it. Its words name no path and no code."""

    def __init__(self, status: int, key: str, /, headers: Mapping[str, str] | None = None, **values: object) -> None:
        self.status, self.headers = status, dict(headers or {})
        super().__init__(key, **values)

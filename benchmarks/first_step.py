"""Run a `rushlight` command up to its first optimizer step, and end there: `benchmarks.start` and `benchmarks.resume` time it.

    python -m benchmarks.first_step train mlp fashion-mnist …

Nothing is done differently on the way: torch's own hook on optimizers tells of the first step.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    """Run the command; leave the process at its first step."""
    import torch.optim.optimizer as optimizers

    from benchmarks.measure import hand_back

    began = time.perf_counter()

    def leave(*_: object) -> None:
        hand_back({"seconds_after_torch": time.perf_counter() - began})
        os._exit(0)

    optimizers.register_optimizer_step_post_hook(leave)
    from rushlight.cli import main as run

    run(sys.argv[1:])


if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        if not ended.code:
            sys.exit("no optimizer took a step")
        raise

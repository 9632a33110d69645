"""Execute machine code once: `python -m rushlight.training.engine.sandbox CODE THREADS PARENT`, the layouts as JSON on its input.

What the code does to the process that executes it is then known before a training lends it its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import torch

from rushlight.training.engine.compiler import EXECUTED, end_with
from rushlight.training.engine.package import laid_out


def main(arguments: Sequence[str]) -> None:
    """Execute the code on tensors of zeros, laid out as they will be."""
    code, threads, parent = arguments
    end_with(int(parent))
    torch.set_num_threads(int(threads))
    torch._C._aoti.AOTIModelContainerRunnerCpu(code, 1).run(laid_out(json.load(sys.stdin)))
    sys.stdout.write(EXECUTED)
    sys.stdout.flush()
    os._exit(0)  # how an interpreter comes to its end is not what is tried


if __name__ == "__main__":
    main(sys.argv[1:])

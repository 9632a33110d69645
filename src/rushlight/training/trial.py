"""Execute machine code once and end: `python -m rushlight.training.trial CODE LAYOUTS THREADS`.

What the code does to the process that executes it is then known before a training lends it its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch

from rushlight.training.compiled import laid_out


def main(arguments: Sequence[str]) -> None:
    """Execute the code on tensors of zeros, laid out as they will be."""
    code, takes, threads = arguments
    torch.set_num_threads(int(threads))
    torch._C._aoti.AOTIModelContainerRunnerCpu(code, 1).run(laid_out(json.loads(takes)))


if __name__ == "__main__":
    main(sys.argv[1:])

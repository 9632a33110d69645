"""What limits a training step, from the times of its parts and of torch's operators."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from rushlight.device import precision_refusal, usable_cores
from rushlight.formats import format_count
from rushlight.texts import Note
from rushlight.training.state import Training

PARTS = ("data", "forward", "loss", "backward", "update", "rest")
PASSES = ("forward", "loss", "backward")
WARM_UP = 5  # steps
BRIEF = 10e-6  # seconds: a shorter call costs more to start than to compute
PRODUCTS = re.compile(
    r"aten::(_?(add|badd)?b?(mm|mv)(_activation)?|.*(conv[123]d|convolution|attention|_rnn).*|.*linear.*|dot|einsum)"
)


class Operator(NamedTuple):
    """One of torch's operators in one part of a step; its time is without that of the operators it calls."""

    name: str  # "aten::mm"
    part: str
    calls: float  # per step
    seconds: float  # per step, while traced


def summarize(training: Training, steps: list[dict[str, float]], operators: Sequence[Operator]) -> dict[str, Any]:
    """Return the content of profile.json; `steps` has the seconds of each timed step, by part, in their order.

    Compiled steps have no forward pass of their own: only the kind that most steps are is counted. Shares are of the
    means: where workers deliver several batches at once, most steps wait for none, and the median wait is nothing.
    """
    timed = steps[WARM_UP:] or steps
    timed = max(([step for step in timed if bool(step["forward"]) == is_eager] for is_eager in (True, False)), key=len)
    if bool(timed[0]["forward"]) != any(operator.part in PASSES for operator in operators):
        operators = []  # of steps of the other kind
    means = {part: fmean(step[part] for step in timed) for part in PARTS}
    whole = sum(means.values())
    shares = {cause: seconds / whole for cause, seconds in causes(means, operators).items()}
    limit = max(shares, key=lambda cause: shares[cause])
    return {
        "step_seconds": whole, "median_seconds": median(sum(step.values()) for step in timed), "steps": len(timed),
        "parts": {
            part: {"seconds": mean, "median_seconds": median(step[part] for step in timed), "share": mean / whole}
            for part, mean in means.items()
        },
        "operators": [each._asdict() for each in sorted(operators, key=lambda operator: -operator.seconds)],
        "causes": shares,
        "limit": {"cause": limit, "share": shares[limit], "sentence": sentence(training, limit, shares[limit], operators)},
    }  # fmt: skip


def causes(parts: Mapping[str, float], operators: Sequence[Operator]) -> dict[str, float]:
    """Divide the seconds of a step by what they are spent on; they add up to the step.

    `products` are matrix products and convolutions, `operators` all others that take long, `overhead` Python and the
    start of brief operators; `passes` are these three where no operator is known. `compiled` is all but the data.
    """
    passes = sum(parts[part] for part in PASSES)
    if not passes:
        return {"data": parts["data"], "compiled": parts["update"] + parts["rest"]}
    long = [each for each in operators if each.part in PASSES and each.seconds > each.calls * BRIEF]
    products = sum(each.seconds for each in long if PRODUCTS.fullmatch(each.name))
    others = sum(each.seconds for each in long if not PRODUCTS.fullmatch(each.name))
    slowdown = max(1.0, (products + others) / passes)  # by tracing
    found = {"products": products / slowdown, "operators": others / slowdown}
    found["overhead" if operators else "passes"] = max(0.0, passes - sum(found.values()))
    return {**found, **{part: parts[part] for part in ("data", "update", "rest")}}


def sentence(training: Training, cause: str, share: float, operators: Sequence[Operator]) -> Note:
    """Return what limits a step, and what helps."""
    recipe, key = training.recipe, cause
    if cause == "data" and training.data.train.kind == "resident":
        key += "-resident"
    elif cause in ("update", "overhead") and recipe.numerics == "exact":
        key += "-exact"
    elif (
        cause == "products" and recipe.precision == "float32" and precision_refusal("bfloat16", training.device) is None
    ):
        key += "-bfloat16"
    parameters = sum(parameter.numel() for parameter in training.model.parameters() if parameter.requires_grad)
    return Note(
        f"training.limit.{key}", share=share, cores=usable_cores(), precision=recipe.precision,
        parameters=format_count(parameters), optimizer=type(training.optimizer).__name__,
        count=round(sum(each.calls for each in operators if each.part in PASSES and each.seconds < each.calls * BRIEF)),
    )  # fmt: skip

"""Where the time of a training step went, and what limits it, in one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rushlight.console import format_count, format_step

PARTS = ("data", "forward", "loss", "backward", "update", "compiled", "rest")  # compiled: all but the data in one
PASSES = ("forward", "loss", "backward")
BRIEF = 10e-6  # seconds: calls shorter than that cost more to start than to compute
LISTED = 20  # operators in profile.json
PRODUCTS = re.compile(
    r"_?(add|badd)?b?(mm|mv)(_activation)?|.*(conv[123]d|convolution|attention|_rnn).*|.*linear.*|dot|einsum"
)


@dataclass(frozen=True)
class Operator:
    """One of torch's operators in one part of a step: how often it was called, and its own time, without what it calls."""

    name: str  # "aten::mm"
    part: str
    calls: float  # per step
    seconds: float  # per step

    @property
    def is_brief(self) -> bool:
        """Whether its calls are so short that starting them is what they cost."""
        return self.seconds < self.calls * BRIEF

    @property
    def is_product(self) -> bool:
        """Whether it is a matrix product or a convolution."""
        return PRODUCTS.fullmatch(self.name.removeprefix("aten::")) is not None


@dataclass(frozen=True)
class Setting:
    """What there is to choose otherwise: the advice depends on it."""

    reading: str  # "resident" in memory, "streamed", or "loader": streamed by a DataLoader of the user's
    workers: int  # processes that read
    cores: int
    optimizer: str
    parameters: int  # those that train
    precision: str
    numerics: str
    device: str
    threads: int  # of torch
    has_bfloat16: bool  # in hardware
    has_loss: bool = True  # whether the loss can be told from the forward pass: not in an objective of the user's own


@dataclass(frozen=True)
class Profile:
    """Where the time of a step went: seconds per step by part (means over `steps` steps); these add up to the step.

    In `working` seconds of it the training thread was on a processor. `operators` are those of `traced_steps` further steps, whose time the tracing made longer.
    """

    setting: Setting
    parts: dict[str, float]
    steps: int
    working: float
    warm_up_steps: int = 0
    operators: tuple[Operator, ...] = ()
    traced_steps: int = 0

    @property
    def step(self) -> float:
        """The seconds of one step."""
        return sum(self.parts.values())

    def share(self, seconds: float) -> float:
        """Return what part of a step so many seconds are, from 0 to 1."""
        return seconds / self.step if self.step else 0.0


# ── what limits it ───────────────────────────────────────────────────────────────────────────────────────────


def limit_of(profile: Profile) -> str:
    """Return what takes most of a step: one of the keys of `causes`."""
    found = causes(profile)
    return max(found, key=lambda cause: found[cause])


def causes(profile: Profile) -> dict[str, float]:
    """Divide the seconds of a step by what they are spent on; they add up to the step.

    data       waiting for the batch
    waiting    the processor was not at work otherwise: other programs have it, or the model itself waits
    rest       between the steps
    update     the optimizer, where it does arithmetic rather than start operations
    products   matrix products and convolutions
    operators  other operations that take long
    calls      Python, and operations so short that starting them is what they cost
    passes     where no operators are known: the forward and backward passes, whatever is in them
    compiled   where steps are compiled: all of these
    """
    waiting = waiting_in(profile)
    share = 1 - waiting / (profile.step - profile.parts["data"]) if waiting else 1.0
    parts = {part: seconds if part == "data" else share * seconds for part, seconds in profile.parts.items()}
    found = {"data": parts["data"], "waiting": waiting}
    if parts["compiled"]:
        return {**found, "compiled": parts["compiled"]}
    found |= {"rest": parts["rest"], "update": parts["update"]}
    if not profile.operators:
        return {**found, "passes": sum(parts[part] for part in PASSES)}
    if 2 * long_operators(profile, parts, ["update"]) < parts["update"]:
        found["update"] = 0.0
    found["products"] = long_operators(profile, parts, PASSES, are_products=True)
    found["operators"] = long_operators(profile, parts, PASSES, are_products=False)
    found["calls"] = max(0.0, profile.step - sum(found.values()))
    return found


def waiting_in(profile: Profile) -> float:
    """Return the seconds of a step, its data aside, in which the training thread was not on a processor, at the least.

    All of the time on a processor may have been for what is not data. On a GPU the thread waits for that.
    """
    other = profile.step - profile.parts["data"]
    return min(other, max(0.0, other - profile.working)) if profile.setting.device == "cpu" else 0.0


def long_operators(
    profile: Profile, seconds: Mapping[str, float], parts: Iterable[str], are_products: bool | None = None
) -> float:
    """Return the seconds that the operators which are not brief take in some parts, which take `seconds`.

    Tracing makes everything longer, so the operators of a part are scaled down to what the part takes untraced.
    """
    total = 0.0
    for part in parts:
        inside = [operator for operator in profile.operators if operator.part == part]
        traced = sum(operator.seconds for operator in inside)
        scale = min(1.0, seconds[part] / traced) if traced else 0.0
        total += scale * sum(
            operator.seconds for operator in inside
            if not operator.is_brief and are_products in (None, operator.is_product)
        )  # fmt: skip
    return total


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────


def sentence(profile: Profile) -> str:
    """Return what limits a step, and what helps, in one sentence."""
    cause = limit_of(profile)
    share = f"{profile.share(causes(profile)[cause]):.0%}"
    setting, is_exact = profile.setting, profile.setting.numerics == "exact"
    if cause == "data":
        return about_data(profile, share)
    if cause == "products":
        return f"Matrix products and convolutions take {share} of a step: {about_arithmetic(setting)}."
    if cause == "update":
        fused = ", and --numerics fast may do it in one pass" if is_exact else ""
        which = f"{format_count(setting.parameters)} parameters by {setting.optimizer}"
        return f"Updating {which} takes {share} of a step: a larger --batch-size does it less often{fused}."
    if cause == "calls":
        merged = ", and --numerics fast may merge them" if is_exact else ""
        brief = round(sum(operator.calls for operator in profile.operators if operator.is_brief))
        return (
            f"Python and the start of {brief:,} small operations take {share} of a step: "
            f"a larger --batch-size gets more out of each of them{merged}."
        )
    if cause == "operators":
        name, most = longest(profile)
        return (
            f"Operations other than matrix products take {share} of a step, {name} most of all ({most:.0%}): "
            "the trace shows each of them."
        )
    if cause == "rest":
        return (
            f"What is done around the step (clearing gradients, recording losses, the screen) takes {share} of it: "
            "a larger --batch-size makes fewer steps."
        )
    if cause == "waiting":
        fewer = " (then OMP_NUM_THREADS=1 may be faster)" if setting.threads > 1 else ""
        return (
            f"In {share} of a step the processor is not at work on it: other programs use it too{fewer}, "
            "or the model waits for something itself."
        )
    if cause == "compiled":
        return (
            f"The compiled step takes {share} of the time, in one piece: there is little to gain around it, "
            "and --compile never shows what it consists of."
        )
    inside = (
        "the trace shows what in them" if profile.traced_steps else "without a trace there is no telling what in them"
    )
    return f"The forward and backward passes take {share} of a step; {inside}."


def about_data(profile: Profile, share: str) -> str:
    """Return the sentence for a training that waits for its data."""
    setting = profile.setting
    if setting.reading == "resident":
        return (
            f"Taking a batch from memory and preparing it takes {share} of a step: the data is in memory already, so workers "
            "would not help, but a larger --batch-size gets more out of each operation."
        )
    option = "num_workers={} in the DataLoader" if setting.reading == "loader" else "--workers {}"
    if not setting.workers:
        computing = max(profile.step - profile.parts["data"], 1e-9)
        wanted = max(1, min(setting.cores, math.ceil(profile.parts["data"] / computing)))
        return (
            f"Reading the data takes {share} of a step: let other processes read while this one computes "
            f"({option.format(wanted)})."
        )
    if setting.workers < setting.cores:
        return (
            f"Waiting for the data takes {share} of a step, with {workers_of(setting)} reading it: "
            f"more of them help ({option.format(setting.cores)}, one for each core)."
        )
    return (
        f"Waiting for the data takes {share} of a step, with {workers_of(setting)} reading it on {setting.cores} "
        f"core{'' if setting.cores == 1 else 's'}: make a sample cheaper to read (smaller images, simpler transforms), "
        "or give it more workers if they mostly wait for a disk or a network."
    )


def about_arithmetic(setting: Setting) -> str:
    """Return what to do about a step that is limited by its matrix products."""
    if setting.precision == "float32" and setting.has_bfloat16:
        return "that is this machine's limit in float32, and --precision bfloat16 may lower it (rushlight env tells whether the hardware has it)"
    if setting.device == "cpu":
        return f"that is this machine's limit in {setting.precision}; a smaller model or a GPU lowers it"
    return f"that is this device's limit in {setting.precision}; a smaller model lowers it"


def longest(profile: Profile) -> tuple[str, float]:
    """Return the operator beside the matrix products that takes most of the passes, and its share of the traced step."""
    inside = [operator for operator in profile.operators if operator.part in PASSES and not operator.is_product]
    name, _, seconds = max(by_name(inside), key=lambda row: row[2])
    return name.removeprefix("aten::"), seconds / traced_step(profile)


def by_name(operators: Iterable[Operator]) -> list[tuple[str, float, float]]:
    """Add up the parts: (name, calls, seconds) per step, the longest first."""
    total: dict[str, tuple[float, float]] = {}
    for operator in operators:
        calls, seconds = total.get(operator.name, (0.0, 0.0))
        total[operator.name] = (calls + operator.calls, seconds + operator.seconds)
    return sorted(((name, *sums) for name, sums in total.items()), key=lambda row: -row[2])


def traced_step(profile: Profile) -> float:
    """Return the seconds that shares of operators are of: the step, or what its operators took if tracing made that more."""
    return max(profile.step, sum(operator.seconds for operator in profile.operators)) or math.inf


def about_reading(profile: Profile) -> str | None:
    """Return how long reading took against all else, for data that is streamed."""
    setting, waiting = profile.setting, profile.parts["data"]
    if setting.reading == "resident":
        return None
    what = f"Waiting for the {workers_of(setting)}" if setting.workers else "Reading"
    return f"{what} took {format_step(waiting)} of a step, all else {format_step(profile.step - waiting)}."


def workers_of(setting: Setting) -> str:
    """Return '1 worker', '4 workers'."""
    return f"{setting.workers} worker{'' if setting.workers == 1 else 's'}"


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """Return the profile as JSON-ready values; times are seconds per step, shares are of the step."""
    found, limit = causes(profile), limit_of(profile)
    parts = {name: {"seconds": seconds, "share": profile.share(seconds)} for name, seconds in profile.parts.items()}
    operators = [
        {"name": name, "calls": calls, "seconds": seconds, "share": seconds / traced_step(profile)}
        for name, calls, seconds in by_name(profile.operators)[:LISTED]
    ]
    return {
        "step_seconds": profile.step, "steps": profile.steps, "warm_up_steps": profile.warm_up_steps, "parts": parts,
        "working_seconds": profile.working,
        "operators": operators, "traced_steps": profile.traced_steps,
        "causes": {cause: profile.share(seconds) for cause, seconds in found.items()},
        "limit": {"cause": limit, "share": profile.share(found[limit]), "sentence": sentence(profile)},
        "reading": about_reading(profile), "setting": vars(profile.setting),
    }  # fmt: skip

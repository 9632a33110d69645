"""What limits a step, in one sentence: every cause, from steps whose times are known."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushlight.options import check_options
from rushlight.training.profile import figures
from rushlight.training.profile.figures import PARTS, PASSES, PRODUCTS, WARM_UP, Operator, causes, summarize
from rushlight.training.setup.prepare import start_training
from rushlight.training.state import Training

CONVOLUTION = Operator("aten::mkldnn_convolution", "forward", 2, 6e-3)
POOLING = Operator("aten::max_pool2d_with_indices", "forward", 2, 6e-3)
VIEW = Operator("aten::view", "forward", 200, 200e-6)
SQUARE_ROOT = Operator("aten::sqrt", "update", 4, 6e-3)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    """A training of a small network on data in memory, of which no step is executed."""
    options: Any = {"epochs": 1, "runs": tmp_path_factory.mktemp("runs"), "quiet": True}
    options |= {"model_arguments": {"hidden": (8,)}, "numerics": "fast"}
    with contextlib.ExitStack() as stack:
        yield start_training("mlp", "digits", check_options(options), stack)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of four cores, without bfloat16."""
    monkeypatch.setattr(figures, "usable_cores", lambda: 4)
    monkeypatch.setattr(figures, "precision_refusal", lambda precision, device: "no")


def parts(**seconds: float) -> dict[str, float]:
    """Ten milliseconds by part; of these, what is not given goes to the forward pass."""
    given = {**dict.fromkeys(PARTS, 0.1e-3), **seconds}
    given["forward"] = seconds.get("forward", 10e-3 - sum(given[part] for part in PARTS if part != "forward"))
    return given


def limit(training: Training, *operators: Operator, **seconds: float) -> tuple[str, str]:
    """The cause, and the sentence, which must be one."""
    found = summarize(training, [parts(**seconds)], operators)["limit"]
    assert found["sentence"].endswith(".")
    assert ". " not in found["sentence"]
    return found["cause"], found["sentence"]


def exactly(training: Training) -> Training:
    """The same training with exact numerics."""
    return replace(training, recipe=replace(training.recipe, numerics="exact"))


# ── what limits it ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_that_waits_for_its_data_is_told_to_read_it_by_more_processes(training: Training) -> None:
    split = training.data.train
    object.__setattr__(streamed := replace(split), "kind", "streamed")  # type: ignore[type-var]
    found = limit(replace(training, data=replace(training.data, train=streamed)), CONVOLUTION, data=7.1e-3)
    assert found[0] == "data"
    assert "takes 71% of a step: let more processes read it (--workers 4, or num_workers=4" in found[1]
    found = limit(training, CONVOLUTION, data=7.1e-3)
    assert found[0] == "data"
    assert "workers would not help" in found[1]


@pytest.mark.parametrize(
    ("has_bfloat16", "precision", "words"),
    [
        (True, "float32", "--precision bfloat16 may lower it"),
        (False, "float32", "this machine's limit in float32, and a smaller model"),
        (True, "bfloat16", "this machine's limit in bfloat16, and a smaller model"),
    ],
)
def test_a_step_of_matrix_products_has_the_machines_limit(
    has_bfloat16: bool, precision: str, words: str, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "precision_refusal", lambda precision, device: None if has_bfloat16 else "no")
    recipe = replace(training.recipe, precision=precision)  # type: ignore[arg-type]
    cause, said = limit(replace(training, recipe=recipe), CONVOLUTION, VIEW)
    assert cause == "products"
    assert said.startswith("Matrix products and convolutions take 60% of a step")
    assert words in said


def test_a_step_of_other_long_operations_is_told_from_one_of_products(training: Training) -> None:
    cause, said = limit(training, POOLING, Operator("aten::mm", "backward", 1, 1e-3), VIEW)
    assert cause == "operators"
    assert "Operations other than matrix products take 60% of a step" in said


def test_a_large_update_is_told_with_the_optimizer_and_what_it_updates(training: Training) -> None:
    cause, said = limit(training, SQUARE_ROOT, VIEW, update=6.5e-3)
    assert cause == "update"
    assert said.startswith("Updating 610 parameters by AdamW takes 65% of a step")
    assert "--numerics fast" not in said
    assert "--numerics fast" in limit(exactly(training), SQUARE_ROOT, VIEW, update=6.5e-3)[1]


def test_many_short_operations_are_told_as_pythons_and_their_starts(training: Training) -> None:
    cause, said = limit(training, VIEW, SQUARE_ROOT)
    assert cause == "overhead"
    assert "Python and the start of 200 small operations take 97% of a step" in said
    assert "--numerics fast" in limit(exactly(training), VIEW)[1]


def test_long_operations_that_prepare_the_data_are_none_of_the_passes(training: Training) -> None:
    found = causes(parts(data=4e-3), [Operator("aten::mul", "data", 1, 4e-3), VIEW])
    assert (found["data"], found["operators"]) == (4e-3, 0)


def test_what_is_done_around_the_steps_can_be_the_limit_too(training: Training) -> None:
    cause, said = limit(training, VIEW, rest=6e-3)
    assert cause == "rest"
    assert "takes 60% of it" in said


def test_a_compiled_step_is_one_piece_and_says_how_to_see_what_it_consists_of(training: Training) -> None:
    steps = [{**dict.fromkeys(PARTS, 0.0), "data": 5e-6, "rest": 35e-6}]
    found = summarize(training, steps, [])
    assert found["causes"] == {"data": pytest.approx(1 / 8), "compiled": pytest.approx(7 / 8)}
    assert "The compiled step takes 88% of the time, in one piece" in found["limit"]["sentence"]
    assert "--compile never" in found["limit"]["sentence"]


def test_without_a_trace_the_passes_are_all_that_can_be_told(training: Training) -> None:
    cause, said = limit(training)
    assert cause == "passes"
    assert "The forward and backward passes take 97% of a step: without a trace there is no telling" in said


# ── many steps ───────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_to_warm_up_are_not_counted_unless_there_are_no_others(training: Training) -> None:
    slow, ordinary = parts(data=1.0), parts(data=1e-3)
    found = summarize(training, [slow] * WARM_UP + [ordinary] * 3, [])
    assert (found["steps"], found["parts"]["data"]["seconds"]) == (3, 1e-3)
    assert summarize(training, [slow] * 2, [])["steps"] == 2


def test_most_steps_decide_whether_the_profile_is_of_compiled_ones(training: Training) -> None:
    compiled = {**dict.fromkeys(PARTS, 0.0), "data": 5e-6, "rest": 35e-6}
    found = summarize(training, [parts()] * (WARM_UP + 3) + [compiled] * 4, [])
    assert (found["steps"], found["limit"]["cause"]) == (4, "compiled")
    found = summarize(training, [parts()] * (WARM_UP + 5) + [compiled] * 4, [])
    assert (found["steps"], found["parts"]["rest"]["seconds"]) == (5, pytest.approx(0.1e-3))


def test_operators_of_steps_of_the_other_kind_are_not_told(training: Training) -> None:
    compiled = {**dict.fromkeys(PARTS, 0.0), "data": 5e-6, "rest": 35e-6}
    around = Operator("aten::add_", "rest", 3, 9e-6)
    assert summarize(training, [compiled], [CONVOLUTION, around])["operators"] == []
    assert [each["name"] for each in summarize(training, [compiled], [around])["operators"]] == ["aten::add_"]
    found = summarize(training, [parts()], [around])
    assert (found["operators"], found["limit"]["cause"]) == ([], "passes")


def test_batches_that_come_several_at_once_are_waited_for_though_the_median_wait_is_nothing(training: Training) -> None:
    steps = [parts(data=80e-3 if index % 4 == 0 else 0.0, forward=1e-3) for index in range(WARM_UP + 40)]
    found = summarize(training, steps, [])
    assert found["parts"]["data"]["median_seconds"] == 0
    assert found["parts"]["data"]["seconds"] == pytest.approx(20e-3)
    assert found["limit"]["cause"] == "data"


# ── adding up ────────────────────────────────────────────────────────────────────────────────────────────────

seconds = st.floats(0, 10, allow_subnormal=False)
operators = st.lists(
    st.builds(
        Operator, st.sampled_from(["aten::mm", "aten::relu", "my::op", "aten::convolution_backward"]), st.sampled_from(PARTS),
        st.floats(1, 1000), seconds,
    ),
    max_size=8,
)  # fmt: skip
steps = st.fixed_dictionaries(dict.fromkeys(PARTS, seconds))


@given(steps, operators)
def test_causes_divide_the_step_whatever_was_measured(step: dict[str, float], found: list[Operator]) -> None:
    """Tracing may have taken longer than the steps it stands for: no cause takes more than there is."""
    divided = causes(step, found)
    assert all(spent >= 0 for spent in divided.values())
    assert math.isclose(sum(divided.values()), sum(step.values()), rel_tol=1e-9, abs_tol=1e-12)
    passes = sum(step[part] for part in PASSES)
    assert divided.get("products", 0.0) + divided.get("operators", 0.0) <= passes * (1 + 1e-9) + 1e-12


@given(st.lists(steps, min_size=1, max_size=8).filter(lambda all_: all(sum(step.values()) for step in all_)), operators)
def test_shares_are_of_the_step_and_every_profile_has_its_sentence(
    training: Training, timed: list[dict[str, float]], found: list[Operator]
) -> None:
    content = summarize(training, timed, found)
    assert math.isclose(sum(part["seconds"] for part in content["parts"].values()), content["step_seconds"])
    assert math.isclose(sum(part["share"] for part in content["parts"].values()), 1.0)
    assert math.isclose(sum(content["causes"].values()), 1.0)
    assert content["limit"]["cause"] in content["causes"]
    assert content["limit"]["sentence"].endswith(".")


def test_operators_are_listed_the_heaviest_first(training: Training) -> None:
    found = summarize(training, [parts()], [VIEW, POOLING, SQUARE_ROOT._replace(seconds=1e-3)])["operators"]
    assert [each["name"] for each in found] == ["aten::max_pool2d_with_indices", "aten::sqrt", "aten::view"]
    assert found[1] == {"name": "aten::sqrt", "part": "update", "calls": 4, "seconds": 1e-3}


@pytest.mark.parametrize(
    ("name", "is_product"),
    [
        ("aten::mm", True), ("aten::addmm", True), ("aten::bmm", True), ("aten::baddbmm", True), ("aten::addmv", True),
        ("aten::mkldnn_convolution", True), ("aten::convolution_backward", True), ("aten::cudnn_convolution", True),
        ("aten::_slow_conv2d_forward", True), ("aten::_scaled_dot_product_flash_attention_for_cpu", True),
        ("aten::mkldnn_linear", True), ("aten::_cudnn_rnn", True), ("aten::_addmm_activation", True),
        ("aten::add", False), ("aten::mul_", False), ("aten::native_batch_norm", False), ("aten::sum", False),
        ("aten::_softmax", False), ("aten::max_pool2d_with_indices", False), ("aten::normal_", False),
    ],
)  # fmt: skip
def test_matrix_products_and_convolutions_are_known_by_name(name: str, is_product: bool) -> None:
    assert bool(PRODUCTS.fullmatch(name)) == is_product

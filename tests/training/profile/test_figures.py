"""What limits a step, in one sentence: every cause, from profiles whose figures are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushlight.training.profile.figures import (
    PARTS,
    PASSES,
    Operator,
    Profile,
    Setting,
    about_reading,
    by_name,
    causes,
    limit_of,
    profile_to_json,
    sentence,
)

SETTING = Setting(
    reading="resident", workers=0, cores=4, optimizer="AdamW", parameters=670_000, precision="float32", numerics="fast",
    device="cpu", threads=4, has_bfloat16=False,
)  # fmt: skip
CONVOLUTION = Operator("aten::mkldnn_convolution", "forward", 2, 6e-3)
POOLING = Operator("aten::max_pool2d_with_indices", "forward", 2, 6e-3)
VIEW = Operator("aten::view", "forward", 200, 200e-6)
SQUARE_ROOT = Operator("aten::sqrt", "update", 4, 6e-3)


def profile(*operators: Operator, setting: Setting = SETTING, **parts: float) -> Profile:
    """A profile of ten milliseconds a step; of these, what is not given goes to the forward pass."""
    given = {**dict.fromkeys(PARTS, 0.1e-3), "compiled": 0.0, **parts}
    given["forward"] = parts.get("forward", 10e-3 - sum(given[part] for part in PARTS if part != "forward"))
    return Profile(setting, given, 100, 10e-3, 10, operators, 5 if operators else 0)


def said(found: Profile) -> str:
    """The sentence, which must be one."""
    text = sentence(found)
    assert text.endswith(".")
    assert ". " not in text
    return text


# ── the data ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reading": "streamed"}, "Reading the data takes 71% of a step: let other processes read while this one computes (--workers 3)."),
        ({"reading": "streamed", "cores": 2}, "(--workers 2)"),
        ({"reading": "loader"}, "(num_workers=3 in the DataLoader)"),
        ({"reading": "streamed", "workers": 1}, "with 1 worker reading it: more of them help (--workers 4, one for each core)"),
        ({"reading": "loader", "workers": 2}, "with 2 workers reading it: more of them help (num_workers=4 in the DataLoader"),
        ({"reading": "streamed", "workers": 4}, "with 4 workers reading it on 4 cores: make a sample cheaper to read"),
        ({"reading": "streamed", "workers": 2, "cores": 1}, "on 1 core: make a sample cheaper to read"),
        ({"reading": "resident"}, "workers would not help"),
    ],
)  # fmt: skip
def test_a_step_that_waits_for_its_data_is_told_to_read_in_other_ways(changes: dict[str, object], words: str) -> None:
    found = profile(CONVOLUTION, setting=replace(SETTING, **changes), data=7.1e-3)  # type: ignore[arg-type]
    assert limit_of(found) == "data"
    assert words in said(found)
    assert "71% of a step" in said(found)


def test_the_time_of_reading_stands_against_all_else_where_data_is_streamed() -> None:
    streamed = replace(SETTING, reading="streamed")
    assert about_reading(profile(data=2e-3, setting=streamed)) == "Reading took 2.00 ms of a step, all else 8.00 ms."
    waiting = profile(data=50e-6, setting=replace(streamed, workers=2))
    assert about_reading(waiting) == "Waiting for the 2 workers took 50 µs of a step, all else 9.95 ms."
    assert about_reading(profile(data=2e-3)) is None


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"has_bfloat16": True}, "--precision bfloat16 may lower it"),
        ({}, "this machine's limit in float32; a smaller model or a GPU lowers it"),
        ({"has_bfloat16": True, "precision": "bfloat16"}, "this machine's limit in bfloat16; a smaller model or a GPU"),
        ({"device": "cuda"}, "this device's limit in float32; a smaller model lowers it"),
    ],
)
def test_a_step_of_matrix_products_has_the_machines_limit(changes: dict[str, object], words: str) -> None:
    found = profile(CONVOLUTION, VIEW, setting=replace(SETTING, **changes))  # type: ignore[arg-type]
    assert limit_of(found) == "products"
    assert said(found).startswith("Matrix products and convolutions take 60% of a step")
    assert words in said(found)


def test_a_step_of_other_long_operations_names_the_longest() -> None:
    found = profile(POOLING, Operator("aten::mm", "backward", 1, 1e-3), VIEW)
    assert limit_of(found) == "operators"
    assert "take 60% of a step, max_pool2d_with_indices most of all (60%)" in said(found)


def test_a_large_update_is_told_with_the_optimizer_and_what_it_updates() -> None:
    found = profile(SQUARE_ROOT, VIEW, update=6.5e-3)
    assert limit_of(found) == "update"
    assert said(found).startswith("Updating 670k parameters by AdamW takes 65% of a step")
    assert "--numerics fast" not in said(found)
    assert "--numerics fast" in said(replace(found, setting=replace(SETTING, numerics="exact")))


@pytest.mark.parametrize("part", ["forward", "update"])
def test_many_short_operations_are_told_as_pythons_and_their_starts(part: str) -> None:
    found = profile(replace(VIEW, part=part), update=6e-3)
    assert limit_of(found) == "calls"
    assert "Python and the start of 200 small operations take 98% of a step" in said(found)
    assert "--numerics fast" in said(replace(found, setting=replace(SETTING, numerics="exact")))


def test_what_is_done_around_the_steps_can_be_the_limit_too() -> None:
    found = profile(VIEW, rest=6e-3)
    assert limit_of(found) == "rest"
    assert "takes 60% of it" in said(found)


@pytest.mark.parametrize(("threads", "advises"), [(4, True), (1, False)])
def test_a_processor_that_others_use_is_told_before_the_steps_own_work(threads: int, advises: bool) -> None:
    found = replace(profile(CONVOLUTION, VIEW, setting=replace(SETTING, threads=threads)), working=2e-3)
    assert limit_of(found) == "waiting"
    assert said(found).startswith("In 79% of a step the processor is not at work on it")
    assert ("OMP_NUM_THREADS=1" in said(found)) == advises
    assert limit_of(replace(found, setting=replace(SETTING, device="cuda"))) == "products"


def test_waiting_for_the_data_is_not_taken_for_a_busy_processor() -> None:
    found = replace(profile(CONVOLUTION, data=7e-3, setting=replace(SETTING, reading="streamed")), working=3e-3)
    assert causes(found)["waiting"] == 0
    assert limit_of(found) == "data"


def test_a_compiled_step_is_one_piece_and_says_how_to_see_what_it_consists_of() -> None:
    found = Profile(SETTING, {**dict.fromkeys(PARTS, 0.0), "data": 5e-6, "compiled": 35e-6}, 800, 40e-6, 10, (VIEW,), 8)
    assert causes(found) == {"data": 5e-6, "waiting": 0.0, "compiled": 35e-6}
    assert "The compiled step takes 88% of the time, in one piece" in said(found)
    assert "--compile never" in said(found)


def test_without_a_trace_the_passes_are_all_that_can_be_told() -> None:
    found = profile()
    assert limit_of(found) == "passes"
    assert "The forward and backward passes take 97% of a step; without a trace there is no telling" in said(found)
    assert said(replace(found, traced_steps=5)).endswith("; the trace shows what in them.")


# ── adding up ────────────────────────────────────────────────────────────────────────────────────────────────

seconds = st.floats(0, 10, allow_subnormal=False)
operators = st.builds(
    Operator, st.sampled_from(["aten::mm", "aten::relu", "my::op", "aten::convolution_backward"]), st.sampled_from(PARTS),
    st.floats(1, 1000), seconds,
)  # fmt: skip
profiles = st.builds(
    lambda parts, working, found: Profile(SETTING, {**parts, "compiled": 0.0}, 3, working, 1, tuple(found), 2),
    st.fixed_dictionaries(dict.fromkeys(PARTS, seconds)),
    seconds,
    st.lists(operators, max_size=8),
)


@given(profiles)
def test_causes_divide_the_step_whatever_was_measured(found: Profile) -> None:
    """Tracing may have taken longer than the steps it stands for: no cause takes more than there is."""
    divided = causes(found)
    assert all(spent >= 0 for spent in divided.values())
    assert math.isclose(sum(divided.values()), found.step, rel_tol=1e-9, abs_tol=1e-12)
    passes = sum(found.parts[part] for part in PASSES)
    assert divided.get("products", 0.0) + divided.get("operators", 0.0) <= passes * (1 + 1e-9) + 1e-12


@given(profiles)
def test_shares_are_of_the_step_and_every_profile_has_its_sentence(found: Profile) -> None:
    content = profile_to_json(found)
    assert math.isclose(sum(part["seconds"] for part in content["parts"].values()), content["step_seconds"])
    if found.step:
        assert math.isclose(sum(part["share"] for part in content["parts"].values()), 1.0)
        assert math.isclose(sum(content["causes"].values()), 1.0)
    assert sum(operator["share"] for operator in content["operators"]) <= 1 + 1e-9
    assert content["limit"]["cause"] in content["causes"]
    assert content["limit"]["sentence"].endswith(".")


def test_an_operator_in_several_parts_is_added_up_for_the_table() -> None:
    rows = by_name(
        [Operator("a::x", "forward", 1, 2.0), Operator("a::y", "loss", 1, 2.5), Operator("a::x", "update", 2, 1.0)]
    )
    assert rows == [("a::x", 3, 3.0), ("a::y", 1, 2.5)]


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
    assert Operator(name, "forward", 1, 1.0).is_product == is_product

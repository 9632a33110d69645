"""What a server counts, for Prometheus: its own figures, and the names that Triton's and TorchServe's dashboards read.

The figures are plain numbers, written by the event loop alone. Those of several processes are added up, and become text, when
they are asked for: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

TEXT = "text/plain;version=0.0.4;charset=utf-8"
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FACES = {  # the first part of a path names the protocol
    "v2": "inference", "v1": "tensorflow", "predictions": "torchserve", "explanations": "torchserve",
    "invocations": "sagemaker", "predict": "rushlight", "inference.GRPCInferenceService": "grpc",
}  # fmt: skip
TRITON = {
    "nv_inference_request_success": "ok", "nv_inference_request_failure": "failed", "nv_inference_count": "rows",
    "nv_inference_exec_count": "batches", "nv_inference_request_duration_us": "request",
    "nv_inference_queue_duration_us": "queue", "nv_inference_compute_infer_duration_us": "compute",
}  # fmt: skip
TORCHSERVE = {
    "ts_inference_requests_total": "ok", "ts_inference_latency_microseconds": "request",
    "ts_queue_latency_microseconds": "queue",
}  # fmt: skip
GAUGES = {  # their labels
    "rushlight_ready": (), "rushlight_workers": (), "nv_inference_pending_request_count": ("model", "version"),
    "rushlight_waiting_rows": ("model", "version"), "rushlight_drift_deviations": ("model", "version", "input"),
    "rushlight_drift_share": ("model", "version", "of"),
}  # fmt: skip
Totals = dict[str, float]
Figures = dict[str, Any]  # numbers, in dicts and lists, as JSON has them
Sample = tuple[str, dict[str, str], float]  # what follows the name, labels, value


class Buckets:
    """A histogram: how many values are at most each limit, and their sum."""

    def __init__(self, limits: tuple[float, ...]) -> None:
        self.limits, self.counts, self.sum = limits, [0] * (len(limits) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.limits, value)] += 1
        self.sum += value

    @property
    def figures(self) -> list[float]:
        """The counts between the limits, and the sum after them."""
        return [*self.counts, self.sum]


class Meter:
    """The figures of one process."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by protocol and status
        self.latency, self.queue, self.compute = Buckets(BUCKETS), Buckets(BUCKETS), Buckets(BUCKETS)
        self.batches = Buckets(ROWS)
        self.models: dict[tuple[str, str], Totals] = {}  # by name and version; one that is replaced in place counts on
        self.shadows: Counter[tuple[str, str]] = Counter()  # by model and outcome

    def totals(self, name: str, version: str) -> Totals:
        """Return the totals of a version of a model."""
        zeros = dict.fromkeys(("ok", "failed", "rows", "batches", "request", "queue", "compute", "failing"), 0.0)
        return self.models.setdefault((name, version), zeros)

    def answered(self, path: str, status: int, seconds: float, totals: Totals | None) -> None:
        """Count one answer; `totals` are those of the version that a prediction was asked of."""
        self.requests[FACES.get(path[1:].split("/", 1)[0], "other"), status] += 1
        self.latency.add(seconds)
        if totals is not None:
            count, total = ("ok", "request") if status < 400 else ("failed", "failing")
            totals[count] += 1
            totals[total] += seconds

    def executed(self, totals: Totals, rows: int, seconds: float, waits: Sequence[float]) -> None:
        """Count one batch, whose requests waited so many seconds."""
        self.batches.add(rows)
        self.compute.add(seconds)
        for wait in waits:
            self.queue.add(wait)
        totals["rows"] += rows
        totals["batches"] += 1
        totals["queue"] += sum(waits)
        totals["compute"] += seconds

    def counts(self) -> Figures:
        """Return what only ever grows, by what it is a figure of."""
        return {
            "requests": nested(self.requests), "shadows": nested(self.shadows), "models": nested(self.models),
            "latency": self.latency.figures, "queue": self.queue.figures, "compute": self.compute.figures,
            "batches": self.batches.figures,
        }  # fmt: skip


def prometheus(counts: Figures, gauges: Mapping[str, Mapping[Any, float]]) -> bytes:
    """Return counts, and gauges by the key of their labels, in Prometheus' text format."""
    lines: list[str] = []
    for name, kind, found in families(counts, gauges):
        lines.append(f"# TYPE {name} {kind}")
        for suffix, labels, value in found:
            inner = ",".join(f'{label}="{escaped(text)}"' for label, text in labels.items())
            lines.append(f"{name}{suffix}{{{inner}}} {float(value)}" if labels else f"{name}{suffix} {float(value)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def families(counts: Figures, gauges: Mapping[str, Mapping[Any, float]]) -> Iterator[tuple[str, str, list[Sample]]]:
    """Give each figure's name, kind and lines."""
    requests, models = by_names(counts["requests"]), by_names(counts["models"])
    yield "rushlight_requests_total", "counter", samples(requests, "protocol", "status")
    yield "rushlight_request_seconds", "histogram", histogram(BUCKETS, counts["latency"])  # from arrival to answer
    yield "rushlight_queue_seconds", "histogram", histogram(BUCKETS, counts["queue"])  # from arrival to the batch
    yield "rushlight_batch_seconds", "histogram", histogram(BUCKETS, counts["compute"])
    yield "rushlight_batch_rows", "histogram", histogram(ROWS, counts["batches"])
    yield "rushlight_shadow_total", "counter", samples(by_names(counts["shadows"]), "model", "outcome")
    yield "rushlight_workers_lost_total", "counter", [("", {}, counts.get("lost", 0))]
    for names, labels in ((TRITON, ("model", "version")), (TORCHSERVE, ("model_name", "model_version"))):
        for name, total in names.items():
            factor = 1e6 if name.endswith(("_us", "microseconds")) else 1
            yield name, "counter", samples({key: own[total] * factor for key, own in models.items()}, *labels)
    for name, of in GAUGES.items():
        yield name, "gauge", samples(gauges[name], *of)
    for digit in "245":
        count = sum(count for (_, status), count in requests.items() if str(status)[0] == digit)
        yield f"Requests{digit}XX", "counter", [("", {"Level": "Host"}, count)]


def statistics(totals: Mapping[str, float], name: str, version: str) -> dict[str, Any]:
    """Return the totals of a version as the statistics extension has them."""
    parts = {
        "success": ("ok", "request"), "fail": ("failed", "failing"), "queue": ("ok", "queue"), "compute_infer": ("batches", "compute"),
    }  # fmt: skip
    figures = {
        part: {"count": int(totals[count]), "ns": int(totals[total] * 1e9)} for part, (count, total) in parts.items()
    }
    return {
        "name": name, "version": version, "inference_count": int(totals["rows"]), "execution_count": int(totals["batches"]),
        "inference_stats": figures,
    }  # fmt: skip


def histogram(limits: Sequence[float], figures: Sequence[float]) -> list[Sample]:
    """Return a histogram's lines: how many values are at most each limit, their sum and their count."""
    *each, total = figures
    counts = [*accumulate(each)]
    bounds = [*map(str, limits), "+Inf"]
    lines: list[Sample] = [("_bucket", {"le": bound}, count) for bound, count in zip(bounds, counts, strict=True)]
    return [*lines, ("_sum", {}, total), ("_count", {}, counts[-1])]


def nested(values: Mapping[Any, Any]) -> Figures:
    """Return values by pairs of keys as a dict of dicts, which JSON has."""
    found: Figures = {}
    for (outer, inner), value in values.items():
        found.setdefault(str(outer), {})[str(inner)] = value
    return found


def by_names(values: Figures) -> dict[tuple[str, str], Any]:
    """Return a dict of dicts by pairs of keys."""
    return {(outer, inner): value for outer, own in values.items() for inner, value in own.items()}


def added(one: Any, other: Any) -> Any:
    """Return the sum of two processes' figures; what only one of them has is as it has it."""
    if isinstance(one, dict):
        both = {name: added(one[name], other[name]) for name in one if name in other}
        return {**one, **other, **both}
    if isinstance(one, list):
        return [added(*pair) for pair in zip(one, other, strict=True)]
    return one + other


def samples(values: Mapping[Any, float], *labels: str) -> list[Sample]:
    """Return a line for each value, whose keys are those of the labels."""
    return [("", dict(zip(labels, map(str, key), strict=True)), value) for key, value in values.items()]


def escaped(text: str) -> str:
    """Return the value of a label as it stands between quotes."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

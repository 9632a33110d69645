"""What a server counts, for Prometheus: its own figures, and the names that Triton's and TorchServe's dashboards read.

The figures are plain numbers, written by the event loop alone, and become text when they are asked for:
https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

TEXT = "text/plain;version=0.0.4;charset=utf-8"
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
Totals = dict[str, float]
Sample = tuple[str, dict[str, str], float]  # what follows the name, labels, value


class Buckets:
    """A histogram: how many values are at most each limit, and their sum."""

    def __init__(self, limits: tuple[float, ...]) -> None:
        self.limits, self.counts, self.sum = limits, [0] * (len(limits) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.limits, value)] += 1
        self.sum += value

    def samples(self) -> list[Sample]:
        """Return the histogram's lines."""
        counts = [*accumulate(self.counts)]
        limits = [*map(str, self.limits), "+Inf"]
        lines: list[Sample] = [("_bucket", {"le": limit}, count) for limit, count in zip(limits, counts, strict=True)]
        return [*lines, ("_sum", {}, self.sum), ("_count", {}, counts[-1])]


class Meter:
    """The figures of one server."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by protocol and status
        self.latency, self.queue, self.compute = Buckets(BUCKETS), Buckets(BUCKETS), Buckets(BUCKETS)
        self.batches = Buckets((1, 2, 4, 8, 16, 32, 64, 128))  # of rows
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

    def families(self, is_ready: bool, batchers: Iterable[Any]) -> Iterator[tuple[str, str, list[Sample]]]:
        """Give each figure's name, kind and lines, those of the queues of all models among them."""
        yield "rushlight_requests_total", "counter", samples(self.requests, "protocol", "status")
        yield "rushlight_request_seconds", "histogram", self.latency.samples()  # from arrival to answer
        yield "rushlight_queue_seconds", "histogram", self.queue.samples()  # from arrival to the batch
        yield "rushlight_batch_seconds", "histogram", self.compute.samples()
        yield "rushlight_batch_rows", "histogram", self.batches.samples()
        yield "rushlight_ready", "gauge", [("", {}, int(is_ready))]
        yield "rushlight_shadow_total", "counter", samples(self.shadows, "model", "outcome")
        for names, labels in ((TRITON, ("model", "version")), (TORCHSERVE, ("model_name", "model_version"))):
            for name, total in names.items():
                factor = 1e6 if name.endswith(("_us", "microseconds")) else 1
                yield name, "counter", samples({key: own[total] * factor for key, own in self.models.items()}, *labels)
        queues = {(batcher.model.name, batcher.model.version): batcher for batcher in batchers}
        jobs, rows = (
            {key: len(own.waiting) for key, own in queues.items()},
            {key: own.waiting_rows for key, own in queues.items()},
        )
        yield "nv_inference_pending_request_count", "gauge", samples(jobs, "model", "version")
        yield "rushlight_waiting_rows", "gauge", samples(rows, "model", "version")
        means = {(*key, name): value for key, own in queues.items() for name, value in own.drift.deviations().items()}
        shares = {(*key, name): value for key, own in queues.items() for name, value in own.drift.shares().items()}
        yield "rushlight_drift_deviations", "gauge", samples(means, "model", "version", "input")
        yield "rushlight_drift_share", "gauge", samples(shares, "model", "version", "of")
        for digit in "245":
            count = sum(count for (_, status), count in self.requests.items() if str(status)[0] == digit)
            yield f"Requests{digit}XX", "counter", [("", {"Level": "Host"}, count)]

    def text(self, is_ready: bool, batchers: Iterable[Any]) -> bytes:
        """Return all figures in Prometheus' text format."""
        lines: list[str] = []
        for name, kind, found in self.families(is_ready, batchers):
            lines.append(f"# TYPE {name} {kind}")
            for suffix, labels, value in found:
                inner = ",".join(f'{label}="{escaped(text)}"' for label, text in labels.items())
                lines.append(
                    f"{name}{suffix}{{{inner}}} {float(value)}" if labels else f"{name}{suffix} {float(value)}"
                )
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")


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


def samples(values: Mapping[Any, float], *labels: str) -> list[Sample]:
    """Return a line for each value, whose keys are those of the labels."""
    return [("", dict(zip(labels, map(str, key), strict=True)), value) for key, value in values.items()]


def escaped(text: str) -> str:
    """Return the value of a label as it stands between quotes."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

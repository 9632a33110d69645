"""What a server counts, for Prometheus: its own figures, and the names that Triton's and TorchServe's dashboards read.

The figures are plain numbers, written by the event loop alone, and become Prometheus' families when they are asked for.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

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


class Buckets:
    """A histogram: how many values are at most each limit, and their sum."""

    def __init__(self, limits: tuple[float, ...]) -> None:
        self.limits, self.counts, self.sum = limits, [0] * (len(limits) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.limits, value)] += 1
        self.sum += value

    def family(self, name: str) -> HistogramMetricFamily:
        """Return the histogram under a name."""
        limits = [*map(str, self.limits), "+Inf"]
        return HistogramMetricFamily(
            *with_words(name), buckets=[*zip(limits, accumulate(self.counts), strict=True)], sum_value=self.sum
        )


class Meter:
    """The figures of one server."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by protocol and status
        self.latency, self.queue, self.compute = Buckets(BUCKETS), Buckets(BUCKETS), Buckets(BUCKETS)
        self.batches = Buckets((1, 2, 4, 8, 16, 32, 64, 128))  # of rows
        self.models: dict[tuple[str, str], Totals] = {}  # by name and version; a version that is loaded again counts on
        self.shadows: Counter[tuple[str, str]] = Counter()  # by model and outcome

    def totals(self, name: str, version: str) -> Totals:
        """Return the totals of a version of a model."""
        zeros = dict.fromkeys(("ok", "failed", "rows", "batches", "request", "queue", "compute"), 0.0)
        return self.models.setdefault((name, version), zeros)

    def answered(self, path: str, status: int, seconds: float, totals: Totals | None) -> None:
        """Count one answer; `totals` are those of the version that a prediction was asked of."""
        self.requests[FACES.get(path[1:].split("/", 1)[0], "other"), status] += 1
        self.latency.add(seconds)
        if totals is not None:
            totals["ok" if status < 400 else "failed"] += 1
            totals["request"] += seconds

    def executed(self, totals: Totals, rows: int, seconds: float, queued: float) -> None:
        """Count one batch, whose requests waited `queued` seconds together."""
        self.batches.add(rows)
        self.compute.add(seconds)
        self.queue.add(queued)
        totals["rows"] += rows
        totals["batches"] += 1
        totals["queue"] += queued
        totals["compute"] += seconds

    def families(self, is_ready: bool, batchers: Iterable[Any]) -> Iterator[Any]:
        """Give the figures, with those of the queues of all models."""
        by_protocol = CounterMetricFamily(*with_words("rushlight_requests"), labels=["protocol", "status"])
        for (protocol, status), count in self.requests.items():
            by_protocol.add_metric([protocol, str(status)], count)
        yield by_protocol
        yield self.latency.family("rushlight_request_seconds")  # from arrival to answer
        yield self.queue.family("rushlight_queue_seconds")  # from arrival to the batch
        yield self.compute.family("rushlight_batch_seconds")
        yield self.batches.family("rushlight_batch_rows")
        yield GaugeMetricFamily(*with_words("rushlight_ready"), value=int(is_ready))
        shadows = CounterMetricFamily(*with_words("rushlight_shadow"), labels=["model", "outcome"])
        for key, count in self.shadows.items():
            shadows.add_metric([*key], count)
        yield shadows
        for names, labels in ((TRITON, ["model", "version"]), (TORCHSERVE, ["model_name", "model_version"])):
            for name, total in names.items():
                factor = 1e6 if name.endswith(("_us", "microseconds")) else 1
                family = CounterMetricFamily(*with_words(name), labels=labels)
                for key, totals in self.models.items():
                    family.add_metric([*key], totals[total] * factor)
                yield family
        jobs = GaugeMetricFamily(*with_words("nv_inference_pending_request_count"), labels=["model", "version"])
        rows = GaugeMetricFamily(*with_words("rushlight_waiting_rows"), labels=["model", "version"])
        means = GaugeMetricFamily(*with_words("rushlight_drift_deviations"), labels=["model", "version", "input"])
        shares = GaugeMetricFamily(*with_words("rushlight_drift_share"), labels=["model", "version", "of"])
        for batcher in batchers:
            own = [batcher.model.name, batcher.model.version]
            jobs.add_metric(own, len(batcher.waiting))
            rows.add_metric(own, batcher.waiting_rows)
            for name, value in batcher.drift.deviations().items():
                means.add_metric([*own, name], value)
            for name, value in batcher.drift.shares().items():
                shares.add_metric([*own, name], value)
        yield from (jobs, rows, means, shares)
        for digit in "245":
            family = CounterMetricFamily(*with_words(f"Requests{digit}XX"), labels=["Level"])
            of_class = (count for (_, status), count in self.requests.items() if str(status)[0] == digit)
            family.add_metric(["Host"], sum(of_class))
            yield family

    def text(self, is_ready: bool, batchers: Iterable[Any]) -> bytes:
        """Return all figures in Prometheus' text format."""
        families = [*self.families(is_ready, batchers)]
        content: bytes = generate_latest(Collected(families))  # all that it asks for is collect()
        # prometheus-client ends counters in _total, which those whose names others chose have not
        return re.sub(
            rb"(?m)^((?:# (?:HELP|TYPE) )?(?:nv_|Requests|ts_inference_latency|ts_queue)\w+?)_total\b", rb"\1", content
        )


class Collected:
    """Families of figures, as a registry of prometheus-client gives them."""

    def __init__(self, families: list[Any]) -> None:
        self.families = families

    def collect(self) -> list[Any]:
        """Give the families."""
        return self.families


def statistics(totals: Mapping[str, float], name: str, version: str) -> dict[str, Any]:
    """Return the totals of a version as the statistics extension has them."""
    parts = {
        "success": ("ok", "request"), "fail": ("failed", ""), "queue": ("ok", "queue"), "compute_infer": ("batches", "compute"),
    }  # fmt: skip
    figures = {
        part: {"count": int(totals[count]), "ns": int(totals.get(total, 0) * 1e9)}
        for part, (count, total) in parts.items()
    }
    return {
        "name": name, "version": version, "inference_count": int(totals["rows"]), "execution_count": int(totals["batches"]),
        "inference_stats": figures,
    }  # fmt: skip


def with_words(name: str) -> tuple[str, str]:
    """Return a name, and the words in it for Prometheus' help."""
    return name, name.replace("_", " ")

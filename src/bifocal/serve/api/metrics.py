"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..posts import Answer

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "bifocal_requests", "Requests, by door and status.", ("door", "status"), registry=registry
        )
        self.latency = Histogram(
            "bifocal_request_seconds", "From head to answer.", ("door",), buckets=SECONDS, registry=registry
        )
        self.stages = Histogram(
            "bifocal_stage_seconds", "Of a post: prepare, model, log.", ("stage",), buckets=SECONDS, registry=registry
        )
        self.batches = Histogram(
            "bifocal_batch_size", "Posts that share a pass.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.actions = Counter("bifocal_decisions", "Decisions.", ("action", "source"), registry=registry)
        self.labels = Counter(
            "bifocal_label_decisions",
            "Of several labels, what each comes to.",
            ("label", "action"),
            registry=registry,
        )
        self.scores = Histogram(
            "bifocal_probability",
            "Calibrated, of the model that decides.",
            buckets=tuple(i / 20 for i in range(1, 21)),
            registry=registry,
        )
        self.patterns = Counter("bifocal_parts", "What posts bring.", ("pattern",), registry=registry)
        self.refused = Counter(
            "bifocal_errors", "Requests and posts that were not served.", ("kind",), registry=registry
        )
        self.deaths = Gauge(
            "bifocal_process_deaths", "Processes that had to be started anew.", ("what",), registry=registry
        )
        self.disagreements = Counter(
            "bifocal_shadow_disagreements", "Posts on which the shadow would act otherwise.", registry=registry
        )
        self.label_disagreements = Counter(
            "bifocal_shadow_label_disagreements",
            "Of several labels, posts on which the shadow comes to another action or class.",
            ("label",),
            registry=registry,
        )
        self.reloads = Counter(
            "bifocal_reloads", "Models, policies, lists or keys taken up.", ("result",), registry=registry
        )

    def stage(self, name: str, start: float) -> float:
        """Observe a stage of a post that ends now; when the next begins."""
        now = monotonic()
        self.stages.labels(name).observe(now - start)
        return now

    def count(self, answer: Answer, pattern: str) -> None:
        """Count a decided post, which brings these parts."""
        self.actions.labels(answer.action or "none", answer.source).inc()
        self.patterns.labels(pattern).inc()
        if answer.decision is not None:
            self.scores.observe(answer.decision.probability)
            for name, one in answer.decision.labels.items():
                self.labels.labels(name, "not asked" if one is None else one.action or "none").inc()
        if answer.shadow is not None and "action" in answer.shadow:  # else it failed
            self.disagreements.inc(answer.shadow["action"] != answer.action)
            for name, one in answer.shadow.get("labels", {}).items():
                self.label_disagreements.labels(name).inc(one["disagrees"])

    def watch(self, name: str, told: str, value: Callable[[], float]) -> None:
        """A gauge that asks when it is read."""
        Gauge(name, told, registry=self.registry).set_function(value)

    def page(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)

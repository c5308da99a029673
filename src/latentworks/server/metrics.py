"""Metrics of the server for Prometheus, at /metrics."""

import time
from collections.abc import Awaitable, Callable, Iterable

from fastapi import Request, Response
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Histogram,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from latentworks.server.budget import Budget
from latentworks.server.service import Service

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
Answer = Callable[[Request], Awaitable[Response]]


class Measures(Collector):
    """Counts and durations of calls, and the state of the service when /metrics is read.

    `registry` has them, and the usual measures of the process. It is not the global one, so that a
    process can make a second application.
    """

    def __init__(self, service: Service, budget: Budget) -> None:
        self.service, self.budget = service, budget
        self.registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR, self):
            self.registry.register(collector)
        self.seconds = Histogram(
            "latentworks_call_seconds",
            "Seconds from a request to its answer",
            ["verb"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.failed = Counter(
            "latentworks_calls_refused",
            "Calls that were answered by an error",
            ["verb", "why"],
            registry=self.registry,
        )

    def timed(self, verb: str, answer: Answer) -> Answer:
        """Return `answer` with its duration and errors recorded."""
        seconds = self.seconds.labels(verb)

        async def measured(request: Request) -> Response:
            started = time.perf_counter()
            try:
                return await answer(request)
            except Exception as error:
                self.failed.labels(verb, type(error).__name__).inc()
                raise
            finally:
                seconds.observe(time.perf_counter() - started)

        measured.__name__ = answer.__name__
        return measured

    def collect(self) -> Iterable[Metric]:
        service = self.service
        named = service.model.version if service.model else None
        version = GaugeMetricFamily(
            "latentworks_model_version", "The version that answers", labels=["model"]
        )
        if named:
            version.add_metric([named.name], named.number)
        yield version
        for name, text, value in (
            ("waiting", "Calls that wait or are being answered", service.waiting),
            ("memory_claimed_bytes", "Memory that requests claim", self.budget.claimed),
            ("swaps", "Times that the server changed its version", service.swaps),
            (
                "refused_versions",
                "1 if the server refuses the version that the alias names",
                len(service.following.refused),
            ),
            (
                "registry_answers",
                "1 if the registry answered the last request",
                service.following.registry == "answers",
            ),
        ):
            yield GaugeMetricFamily(f"latentworks_{name}", text, value=float(value))

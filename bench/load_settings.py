"""The scenarios of MLCommons LoadGen, and what this project sets otherwise than MLPerf's rules.

A run here lasts seconds, not 600: LoadGen generates the load and counts, and none of it is an MLPerf result.
"""

from __future__ import annotations

from importlib import metadata, util
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "server", "offline")
LOADGEN_NAMES: dict[Scenario, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
SAMPLES_PER_QUERY = 8  # MultiStream's, by the rules.
RULE_DURATION_S = 600.0
INSTALL_HINT = "Install the extra: `pip install -e '.[load]' -c constraints.txt`."

# What the wheel embeds for every image classifier, v6.1's seeds among it; its path argument is ignored.
_EMBEDDED_MODEL = "resnet50"
_EMBEDDED = 0
# A server without a bound: LoadGen wants one, and no query here waits for an hour.
_NO_BOUND_S = 3600.0
# LoadGen prepares 2 x duration / expected latency queries and stops early when they run out, so it is told half.
_EXPECTED_SHARE = 0.5


class LoadSettings(BaseModel):
    """Everything that one run sets otherwise than LoadGen's embedded configuration.

    `expected_latency_s` and `expected_samples_per_s` only decide how many queries LoadGen prepares.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: Scenario
    min_duration_s: float
    min_query_count: int
    samples_per_query: int = 1
    expected_latency_s: float | None = None
    expected_samples_per_s: float | None = None
    offered_queries_per_s: float | None = None
    latency_bound_s: float | None = None


def loadgen_version() -> str | None:
    """Return the version of the wheel, None where it is not installed."""
    if util.find_spec("mlperf_loadgen") is None:
        return None
    return metadata.version("mlcommons-loadgen")


def refusal(scenario: Scenario, batch_size: int) -> str:
    """Return in words why a model loaded for a batch size cannot serve a scenario, "" where it can.

    A batch is never filled up in secret: a query of 8 in a batch of 16 would be timed as twice the work.
    """
    if scenario in ("single-stream", "server") and batch_size != 1:
        return f"{scenario} asks for one image at a time, and this trial's batch is {batch_size}"
    if scenario == "multi-stream" and SAMPLES_PER_QUERY % batch_size:
        return (
            f"multi-stream asks for {SAMPLES_PER_QUERY} images at a time, which a batch of {batch_size} does not divide"
        )
    return ""


def loadgen_settings(settings: LoadSettings, image_count: int) -> Any:
    """Return LoadGen's own settings object: the embedded configuration with ours on top."""
    import mlperf_loadgen

    name = LOADGEN_NAMES[settings.scenario]
    made = mlperf_loadgen.TestSettings()
    made.FromConfig("", _EMBEDDED_MODEL, name, _EMBEDDED)
    made.scenario = getattr(mlperf_loadgen.TestScenario, name)
    made.mode = mlperf_loadgen.TestMode.PerformanceOnly
    made.min_duration_ms = round(settings.min_duration_s * 1000)
    made.min_query_count = settings.min_query_count
    made.performance_sample_count_override = image_count
    made.multi_stream_samples_per_query = settings.samples_per_query
    if settings.expected_latency_s is not None:
        expected_ns = int(_EXPECTED_SHARE * settings.expected_latency_s * 1e9)
        made.single_stream_expected_latency_ns = made.multi_stream_expected_latency_ns = max(expected_ns, 1)
    if settings.expected_samples_per_s is not None:
        made.offline_expected_qps = settings.expected_samples_per_s
    if settings.offered_queries_per_s is not None:
        made.server_target_qps = settings.offered_queries_per_s
    bound_s = _NO_BOUND_S if settings.latency_bound_s is None else settings.latency_bound_s
    made.server_target_latency_ns = int(bound_s * 1e9)
    return made

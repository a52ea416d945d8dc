"""Gates: limits on what an evaluation measures. All of them are looked at, and a report says which were missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ntt_cli.config import LEAVE_OUT, EvaluateConfig, advice, limit_of
from ntt_cli.errors import UsageError
from ntt_cli.results import GateResult

BYTES, FLOPS, SPARSITY, DROP = "bytes", "flops", "sparsity", "drop"
"""What gates measure beside the task's metrics."""


@dataclass(frozen=True)
class Gate:
    """A limit: the option as it was typed, what it is about, and whether `limit` is the most or the least."""

    option: str
    measure: str
    limit: float
    most: bool
    of_metrics: bool = True

    def judge(self, value: float) -> GateResult:
        """How a value compares with the limit. One that is not a number meets no limit."""
        passed = value <= self.limit if self.most else value >= self.limit
        return GateResult(gate=self.option, measure=self.measure, value=value, limit=self.limit, passed=passed)


def gates_of(config: EvaluateConfig) -> list[Gate]:
    """All gates, in the order of the options' help."""
    found = []
    if config.min_accuracy is not None:
        found.append(Gate(f"--min-accuracy {config.min_accuracy}", "accuracy", config.min_accuracy, most=False))
    for entries, option, most in ((config.min, "--min", False), (config.max, "--max", True)):
        found += [Gate(f"{option} {entry}", *limit_of(entry), most=most) for entry in entries]
    others = {
        DROP: (config.max_drop, "--max-drop", True),
        BYTES: (config.max_bytes, "--max-bytes", True),
        FLOPS: (config.max_flops, "--max-flops", True),
        SPARSITY: (config.min_sparsity, "--min-sparsity", False),
    }
    for measure, (limit, option, most) in others.items():
        if limit is not None:
            found.append(Gate(f"{option} {limit}", measure, limit, most, of_metrics=False))
    return found


def require_measured(gates: list[Gate], known: set[str]) -> None:
    """Refuse a gate whose metric is not among those that are known.

    Raises:
        UsageError: if there is one.
    """
    for gate in gates:
        if gate.of_metrics and gate.measure not in known:
            what = f"{gate.measure} is not measured here"
            raise UsageError(gate.option, what, hint=advice(gate.measure, sorted(known)))


def judged(gates: list[Gate], metrics: Mapping[str, float], others: Mapping[str, float | None]) -> list[GateResult]:
    """How each gate went; `others` are the measures that are no metrics.

    Raises:
        UsageError: if one's measure is undefined for these samples.
    """
    require_measured(gates, set(metrics))
    found = []
    for gate in gates:
        value = metrics[gate.measure] if gate.of_metrics else others[gate.measure]
        if value is None:
            raise UsageError(gate.option, f"{gate.measure} is not measured here", hint=LEAVE_OUT)
        found.append(gate.judge(value))
    return found

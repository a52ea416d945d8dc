"""What `ntt bench` measured."""

from __future__ import annotations

import statistics

from ntt_cli.documents import Document, Summary

WIDE = 1.25
"""The quotient of an interval's ends from which on it says little."""


class BenchFile(Summary):
    """One form of the network; the first is the checkpoint.

    `runtime` is what runs it: PyTorch, torch.export or onnxruntime. `bytes` is its size on disk, and `zipped_bytes` the
    same by zlib at its usual level; `None` for a network in memory. `flops` are the operations that it does for one
    sample, products with zeros included; `None` for ONNX files, where they are not counted. `difference` is the largest
    difference between an output and the checkpoint's, as a fraction of the largest output; `None` where outputs cannot
    be compared.
    """

    file: str
    runtime: str
    bytes: int | None
    zipped_bytes: int | None
    flops: int | None
    difference: float | None


class BenchComparison(Summary):
    """Times of one form beside the dense network's in the same runtime, taken in turns.

    A pass has `samples` samples. `dense_pass_seconds` and `pass_seconds` are seconds of one pass, by pair, each the
    mean of `passes` passes. `ratio` is the median of their quotients, dense over this form: 2 is twice as fast. `low`
    and `high` are its 95% interval. `verdict` is "faster" if the whole interval is above 1.05, "slower" if it is below
    1/1.05, and "not faster" otherwise.
    """

    file: str
    runtime: str
    samples: int
    passes: int
    dense_pass_seconds: list[float]
    pass_seconds: list[float]
    ratio: float
    low: float
    high: float
    verdict: str

    @property
    def unclear(self) -> bool:
        """Whether the interval is so wide that the form may as well be faster: other programs used the machine."""
        return self.verdict == "not faster" and self.high > WIDE * self.low

    @property
    def dense_median(self) -> float:
        """Seconds of a pass of the dense network."""
        return statistics.median(self.dense_pass_seconds)

    @property
    def median(self) -> float:
        """Seconds of a pass."""
        return statistics.median(self.pass_seconds)


class BenchReport(Document):
    """What `ntt bench` measured.

    `density` is that of the prunable weights, `None` for a dense network. FLOPs are of one sample, counted and not
    measured: `flops_sparse` leaves out products with pruned weights, which no runtime here does. `dense_bytes` are the
    tensors', and the packed ones those of `ntt export --to packed`, plain and with `--dtype float16`, which is `None`
    if a value is beyond float16. `machine` has versions, and what else times depend on.
    """

    document = "bench"

    checkpoint: str
    model: str
    data: str
    device: str
    threads: int
    machine: dict[str, str]
    parameters: int
    prunable: int
    kept: int
    density: float | None
    flops_dense: int
    flops_sparse: int
    dense_bytes: int
    packed_bytes: int
    packed_float16_bytes: int | None
    files: list[BenchFile]
    comparisons: list[BenchComparison]

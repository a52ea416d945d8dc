"""What an NTT step costs: its time and memory over those of a plain SGD step, same model, same batch, in one run.

    python benchmarks/step_cost.py [--threads 1] [--steps 9] [--only ViT] [--growth] [--compile] [--device cuda]
    python benchmarks/step_cost.py --memory [--image-size 224 --batch 16]

Times are the processor's in this process, which other work on the machine disturbs least, with one thread; with more,
or on a GPU, the clock's. Steps are taken in turn, and ratios are medians over the turns. One NTT step is all that
`ntt prune` does in a step, drawing the probe and the teacher's passes included; `cached` has the teacher's answers. The
plain step has the layout that PyTorch gives; `/ best` is over the faster of that and channels last.

Memory is the most that tensors take at once, counted by PyTorch's allocator from before anything of the step was built:
weights, gradients, optimiser and activations, for SGD, AdamW (which `ntt finetune` uses) and NTT alike. `--memory` has
that alone. Torchvision's networks can have `--image-size` pixels a side and `--batch` samples.

`--growth` has more outputs and weights instead. `--compile` has NTT's steps as `ntt prune --compile` takes them; plain
ones stay as they are. `first` is the clock's time of the first NTT step, which is when compiling is done.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import accumulate

import torch
from rich.console import Console
from rich.table import Table
from steps import GROWTH, PLAIN, ZOO, Case, Passes, Step, compiled_passes, ntt_step, plain_step
from torch.profiler import ProfilerActivity, profile


def seconds(step: Step) -> float:
    """Of one call."""
    gpu = torch.cuda.is_initialized()
    clock = time.process_time if torch.get_num_threads() == 1 and not gpu else time.perf_counter
    begun = clock()
    step()
    if gpu:
        torch.cuda.synchronize()
    return clock() - begun


def peak_mib(build: Callable[[Case], Step], case: Case) -> float:
    """The most that tensors take at once while the step is built and taken."""
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        build(case)()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = build(case)
        step()
        step()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return float(max(accumulate(changes))) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--only", choices=list(ZOO))
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases: Mapping[str, Case] = GROWTH if options.growth else ZOO
    times = [] if options.memory else ["SGD, ms", "NTT, ms", "ratio", "quartiles", "/ best", "cached", "first, s"]
    table = Table("model", *times, "SGD, AdamW, NTT, MiB", "/ SGD", "/ AdamW")
    for name, case in cases.items():
        if options.only in {None, name}:
            there = replace(case, device=options.device)
            if case.model.startswith("torchvision:"):
                sides = [options.image_size or side for side in case.shape[1:]]
                there = replace(there, shape=(case.shape[0], *sides), batch=options.batch or case.batch)
            passes = compiled_passes(there) if options.compile else PLAIN
            cells = [] if options.memory else costs(there, options.steps, passes)
            table.add_row(name, *cells, *memory(there, passes))
    said = [f"{options.threads} threads", f"torch {torch.__version__}"]
    said += [] if options.memory else [f"{options.steps} turns"]
    said += ["NTT compiled"] if options.compile else []
    Console(width=140).print(", ".join(said))
    Console(width=140).print(table)


def costs(case: Case, turns: int, passes: Passes) -> list[str]:
    """The cells of one network that tell times."""
    plain, nhwc = plain_step(case), plain_step(case, channels_last=True)
    ntt, cached = (ntt_step(case, cached=known, passes=passes) for known in (False, True))
    begun = time.perf_counter()
    ntt()
    first = time.perf_counter() - begun
    steps = (plain, nhwc, ntt, cached)
    for _ in range(2):
        for step in steps:
            step()
    taken = [tuple(map(seconds, steps)) for _ in range(turns)]
    low, ratio, high = statistics.quantiles([ours / sgd for sgd, _, ours, _ in taken], n=4)
    best = statistics.median(ours / min(sgd, other) for sgd, other, ours, _ in taken)
    known = statistics.median(less / sgd for sgd, _, _, less in taken)
    sgd_ms, ntt_ms = (1e3 * statistics.median(t[i] for t in taken) for i in (0, 2))
    times = f"{sgd_ms:.1f}", f"{ntt_ms:.1f}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", f"{best:.2f}", f"{known:.2f}"
    return [*times, f"{first:.1f}"]


def memory(case: Case, passes: Passes) -> list[str]:
    """The cells of one network that tell memory."""
    builds = plain_step, partial(plain_step, adamw=True), partial(ntt_step, passes=passes)
    *rivals, ours = (peak_mib(build, case) for build in builds)
    return [", ".join(f"{mib:.1f}" for mib in (*rivals, ours)), *(f"{ours / mib:.2f}" for mib in rivals)]


if __name__ == "__main__":
    main()

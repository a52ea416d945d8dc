"""`ntt export` to a form that computes: the network is found, traced, written, and the file compared with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from ntt_cli.config import BATCH_SIZES, COREML, ExportConfig
from ntt_cli.data.batch import Batch, batch_size, rebuilt, select, tensors_of
from ntt_cli.data.bundle import Bundle
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError, UsageError
from ntt_cli.files.export import Exported
from ntt_cli.networks.channels import removed_by, shrink
from ntt_cli.networks.checks import check_forward, require_samples
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.open import open_weights
from ntt_cli.networks.normalisation import known_normalisation, open_inputs
from ntt_cli.networks.prepare import to_functional
from ntt_cli.programs.coreml import as_core_ml_says, write_coreml
from ntt_cli.programs.described import Described, describe, facts_of, in_words
from ntt_cli.programs.onnx import write_onnx
from ntt_cli.programs.program import Program
from ntt_cli.programs.pt2 import write_pt2
from ntt_cli.programs.stored import half_of, stored_in
from ntt_cli.programs.trace import TRACED, outputs_of, returning, trace
from ntt_cli.runs.sources import Sources
from ntt_cli.runtime.events import EventSink
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do

WRITERS: dict[str, Callable[[Path, Program], float | None]] = {
    "pt2": write_pt2,
    "onnx": write_onnx,
    COREML: write_coreml,
}
"""What writes each form, and returns by how much the written program differs from the network, if it can be run."""

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), COREML: ("coremltools",)}
"""The packages that a form needs beyond those of ntt: an extra of the form's name brings them."""


class Written(NamedTuple):
    """Types and shapes of a program's inputs and outputs, and its largest difference from the network, if known."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    difference: float | None


@global_draws_apart()
def run(config: ExportConfig, path: Path, exported: Exported, sources: Sources, on_event: EventSink) -> Written:
    """Write the network with these weights as a program.

    Raises:
        UsageError: if a package is missing.
        NttError: if the network, its weights or its inputs are unusable, or it cannot be such a program.
    """
    for package in NEEDS.get(config.to, ()):
        if find_spec(package) is None:
            hint = f"pip install {' '.join(NEEDS[config.to])}"
            raise UsageError(f"--to {config.to}", f"needs {package}, which is not installed", hint=hint)
    seed_as_users_do(0)
    program = prepare(config, exported, sources, on_event)
    difference = WRITERS[config.to](path, program)
    return Written(in_words(program.about["inputs"]), in_words(program.about["outputs"]), difference)


def prepare(config: ExportConfig, exported: Exported, sources: Sources, on_event: EventSink) -> Program:
    """The network with these weights, traced on the shapes of its inputs.

    Raises:
        UsageError: if nobody named the network.
        DataError: if its inputs have no axis of samples.
    """
    if not config.model:
        raise UsageError(f"--to {config.to}", "needs the network of the checkpoint", hint=_network_of(exported))
    loaded = sources.load_model(config, seed=0)
    weights = open_weights(exported.checkpoint, loaded, on_event, options=config)
    model = to_functional(loaded.module, torch.device("cpu"), on_event, select_outputs=loaded.select_outputs)
    inputs = _inputs(config, loaded, exported, sources, on_event)
    heads = check_forward(model, inputs, on_event, where=config.model)
    x: Batch = inputs.batch(torch.arange(1 if inputs.samples.successive else min(len(inputs), max(BATCH_SIZES))))
    if isinstance(x, Bundle):
        what = "gives values that cannot be divided into samples, and the inputs of a program have an axis of samples"
        raise DataError(inputs.samples.spec, what, hint="name data whose inputs are tensors with a row for each sample")
    written = loaded.module
    if weights.channels is not None:
        removed = removed_by(weights.channels)
        written = shrink(replace(model, select_outputs=heads), removed, _rows(x, TRACED), where=config.model)
    with returning(written, heads, x) as module:
        stored = stored_in(module, half_of(exported.checkpoint))
        traced = trace(stored, _rows(x, TRACED), where=config.model)
        found = describe(traced, heads)
        if config.to == COREML:
            found = as_core_ml_says(found)
        batches = [_rows(x, BATCH_SIZES[0]), _rows(_shorter(x, found), BATCH_SIZES[1])]
        expected = [(batch, outputs_of(module, batch)) for batch in batches]
    facts = facts_of(weights, inputs.normalisation, model=loaded.source, sha256=exported.sha256)
    about = facts | {"inputs": found.inputs, "outputs": found.outputs}
    return Program(traced, found.axes, about, expected, config.model)


def _network_of(exported: Exported) -> str:
    """How to name the network that a checkpoint says it was made with; nothing runs that unasked."""
    record = exported.checkpoint.record
    if record is None:
        return "name it: --model model.py"
    given = [f"--model-arg {shlex.quote(one)}" for one in record.config.get("model_arg", ())]
    return f"name the one that it was made with: {' '.join([f'--model {record.model.source}', *given])}"


def _inputs(
    config: ExportConfig, loaded: LoadedModel, exported: Exported, sources: Sources, on_event: EventSink
) -> Inputs:
    """Samples as the network takes them: those of the data, or noise where nothing but their shape is known.

    Where no data is named, images are of the size that the checkpoint was made with.
    """
    shape_known = config.input_shape is not None or (sources.model is None and loaded.input_shape is not None)
    if config.data is None and not sources.has_data:
        noise = shape_known and (loaded.data is None or config.input_shape)
        given = {"data": f"noise:{max(BATCH_SIZES)}"} if noise else {}
        record = exported.checkpoint.record
        recorded = {} if record is None or config.input_shape else record.image_size
        size = {name: value for name, value in recorded.items() if not config.gives(name)}
        config = config.model_copy(update=given | size)
    known = known_normalisation(config, loaded, exported.checkpoint, on_event)
    samples = sources.load_samples(config, loaded, split="train", labelled=False)
    inputs = open_inputs(samples, device=torch.device("cpu"), known=known, on_event=on_event, labelled=False)
    require_samples(inputs, 1)
    return inputs


def _rows(x: Batch, n: int) -> Batch:
    """`n` samples of a batch, the same ones again where it has fewer."""
    rows: Batch = select(x, torch.arange(n) % batch_size(x))
    return rows


def _shorter(x: Batch, program: Described) -> Batch:
    """The batch with one column less in the tensors whose second axis is free."""
    by_name = x if isinstance(x, dict) else dict(zip(program.inputs, tensors_of(x), strict=True))
    free = program.of_any_length
    cut: Batch = rebuilt(
        x, [part[:, : max(2, part.shape[1] - 1)] if n in free else part for n, part in by_name.items()]
    )
    return cut

"""Networks and sources that were not written with ntt in mind, through all commands.

Each works, with the right values by other means than ntt's own, or is refused by a sentence that says what, where and
what to do. None ends in an internal error. Where a figure is not what somebody would take it for, a line says so.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ntt_cli.cli.app import main
from tests.cli.conftest import Ntt, Result, ntt  # noqa: F401
from tests.sweep import sources
from tests.sweep.networks import NETWORKS
from tests.sweep.sources import Source
from tests.sweep.walk import Pair, Walk

WORKS = {
    "vectors": Pair("mlp", sources.vectors, options=("-a", "width=10"), kernel=True),
    "doubles": Pair("mlp", sources.doubles),
    "halves": Pair("mlp", sources.halves),
    "unbalanced": Pair("mlp", sources.unbalanced),
    "constant feature": Pair("mlp", sources.constant_feature),
    "two samples": Pair("mlp", sources.two_samples, kernel=True),
    "python": Pair("mlp", sources.python("")),
    "tensor dataset": Pair("mlp", sources.python("tensor_dataset")),
    "stream": Pair("mlp", sources.python("stream"), stateful=True),
    "loader": Pair("mlp", sources.python("loader"), stateful=True),
    "bytes": Pair("images mlp", sources.bytes_last),
    "batch norm": Pair("batch norm", sources.bytes_last, stateful=True),
    "other norms": Pair("other norms", sources.folder, dense=("7.weight", "7.bias")),
    "odd convolutions": Pair("odd convolutions", sources.mixed_modes),
    "wavenet": Pair("wavenet", sources.signals),
    "video": Pair("video", sources.films, stateful=True),
    "packed": Pair("packed", sources.padded_tokens, dense=("embedding.weight",), stateful=True),
    "gru": Pair("gru", sources.sequences, stateful=True),
    "cells": Pair("cells", sources.sequences, dense=("start",)),
    "class token": Pair("class token", sources.padded_tokens, dense=("embedding.weight", "position.weight", "token")),
    "rotary": Pair("rotary", sources.padded_tokens, dense=("tok.weight",)),
    "swin": Pair("swin", sources.floats_first, dense=("relative_position_bias_table",)),
    "gpt": Pair("gpt", sources.text, dense=("wte.weight", "wpe.weight")),
    "vit": Pair("vit", sources.folder, dense=("cls_token", "pos_embed")),
    "mixer": Pair("mixer", sources.floats_first),
    "unet": Pair("unet", sources.maps, select_outputs=lambda outputs: outputs.permute(0, 2, 3, 1)),
    "autoencoder": Pair("autoencoder", sources.unlabelled),
    "siamese": Pair("siamese", sources.vectors),
    "experts": Pair("experts", sources.vectors),
    "squeeze": Pair("squeeze", sources.folder_without_a_class, kernel=True),
    "weight norm": Pair(
        "weight norm",
        sources.vectors,
        kernel=True,
        dense=tuple(f"{i}.parametrizations.weight.original0" for i in (0, 2)),
    ),
    "spectral norm": Pair("spectral norm", sources.vectors, stateful=True),
    "highway": Pair("highway", sources.gaps),
    "dense connections": Pair("dense connections", sources.gray),
    "counting": Pair("counting", sources.vectors, stateful=True),
    "straight through": Pair("straight through", sources.vectors),
    "scripted function": Pair("scripted function", sources.vectors),
    "hooks": Pair("hooks", sources.vectors, kernel=True),
    "delegating": Pair("delegating", sources.vectors),
    "odd names": Pair("odd names", sources.vectors),
    "parameter list": Pair("parameter list", sources.vectors, kernel=True),
    "shared": Pair("shared", sources.vectors, kernel=True),
    "unused": Pair("unused", sources.vectors, prune=("--exclude", "auxiliary.weight"), dense=("auxiliary.weight",)),
    "frozen": Pair(
        "frozen", sources.vectors, says={"prune": "frozen parameters stay as they are and dense: 0.0.weight"}
    ),
    "one output": Pair("one output", sources.unlabelled),
    "dict outputs": Pair(
        "dict outputs", sources.vectors, options=("--logits", "kind"), select_outputs=lambda outputs: outputs["kind"]
    ),
    "dataclass outputs": Pair("dataclass outputs", sources.vectors, select_outputs=lambda outputs: outputs.logits),
    "many classes": Pair("many classes", sources.vectors),
    "in place": Pair("in place", sources.vectors),
    "bag": Pair("bag", sources.padded_tokens, dense=("bag.weight",)),
    "views": Pair("views", sources.vectors),
    "seeds globally": Pair("seeds globally", sources.vectors, stateful=True),
    "numpy weights": Pair("numpy weights", sources.vectors),
    "fourier": Pair("fourier", sources.vectors, kernel=True),
    "bilinear": Pair("bilinear", sources.vectors, dense=("centres",)),
    "cached table": Pair("cached table", sources.vectors, stateful=True),
    "small last batch": Pair("small last batch", sources.vectors, stateful=True),
    "unseen tokens": Pair("tokens", sources.seen_and_unseen, dense=("embedding.weight",)),
    "noise": Pair("mlp", sources.noise, kernel=True),
    "random in factory": Pair("mlp", sources.python("random_in_factory"), random=True, stateful=True),
    "augmented": Pair("mlp", sources.python("augmented"), random=True, stateful=True),
    "reads a file": Pair("reads a file", sources.vectors, path="nets/model.py"),
    "relative import": Pair("relative import", sources.vectors, path="nets/model.py"),
    "colon": Pair("mlp", sources.vectors, path="run_12:30:05/model.py"),
    "talkative": Pair("talkative", sources.vectors),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(pair: Pair) -> None:
    path = Path(pair.path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(NETWORKS[pair.network])
    if pair.network == "reads a file":
        path.with_name("net.json").write_text('{"width": 10}')
    if pair.network == "relative import":
        path.with_name("__init__.py").touch()
        path.with_name("blocks.py").write_text(BLOCKS)


BLOCKS = """
from torch import nn

class Block(nn.Sequential):
    def __init__(self, inputs, outputs, last=False):
        super().__init__(nn.Linear(inputs, outputs), nn.Identity() if last else nn.ReLU())
"""


@pytest.mark.parametrize("name", WORKS)
def test_through_all_commands(name: str, ntt: Ntt) -> None:  # noqa: F811
    pair = WORKS[name]
    write(pair)
    Walk(pair, pair.source(), ntt).through_all_commands()


def run(ntt: Ntt, command: str, network: str, source: sources.Source, *options: str) -> Result:  # noqa: F811
    Path("model.py").write_text(NETWORKS[network])
    named = source.test if command == "evaluate" and source.test else source.data
    given = [command, "model.py", *source.options, "--device", "cpu", *options]
    given += [] if named is None else ["--data", named]
    given += ["--sparsity", "0.5", "--steps", "2"] if command == "prune" else []
    return ntt(*given)


REFUSED = {
    "one sample": ("mlp", sources.one_sample, "prune", (), "one.npz: has 1 samples, 2 are needed"),
    "corrupt image": ("batch norm", sources.corrupt_image, "prune", (), "fruit/train/pear #2/img .* cannot be decoded"),
    "scripted module": ("scripted module", sources.vectors, "prune", (), "0 is TorchScript"),
    "unused": (
        "unused",
        sources.vectors,
        "prune",
        (),
        "never uses auxiliary.weight .*\n.*--exclude 'auxiliary.weight'",
    ),
    "dict outputs": ("dict outputs", sources.vectors, "finetune", (), "has several outputs, .*\n.*--outputs hidden"),
    "default type": ("default type", sources.vectors, "finetune", (), "sets torch's default to torch.float64"),
    "dicts": (
        "mlp",
        sources.python("dicts"),
        "prune",
        (),
        r"unexpected keyword .* 'image'\n.* return \(inputs, None\)",
    ),
    "ids and mask": ("mlp", sources.python("ids_and_mask"), "prune", (), "cannot take inputs of shape .*int64"),
    "unlabelled": ("mlp", sources.unlabelled, "finetune", (), "has no labels; fine-tuning needs them"),
    "float pairs": (
        "mlp",
        sources.python("float_pairs"),
        "finetune",
        (),
        r"labels of type float32 and shape \[48, 2\]",
    ),
    "itself": ("mlp", sources.python("itself"), "finetune", (), r"labels of type float32 and shape \[48, 8\]"),
    "targets": ("mlp", sources.targets, "finetune", (), r"labels of type float32 and shape \[40, 2\]"),
    "float labels": ("mlp", sources.float_labels, "finetune", (), "labels of type float32"),
    "rows of labels": ("mlp", sources.rows_of_labels, "finetune", (), "a single 1 in each row.*\n.*--task multi-label"),
    "one output": ("one output", sources.vectors, "finetune", (), "class numbers, or amounts\n.*--task regression"),
    "bag": (
        "bag",
        sources.padded_tokens,
        "prune",
        (),
        "without the derivatives .*embedding_bag.*\n.*--kernel-weight 0",
    ),
    "straight through": ("straight through", sources.vectors, "prune", (), "derivative.*\n.*--kernel-weight 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, ntt: Ntt) -> None:  # noqa: F811
    network, source, command, options, pattern = REFUSED[name]
    result = run(ntt, command, network, source(), *options)
    assert result.code == 2, result.out + result.err
    assert result.out == ""
    assert "\nhint: " in "\n" + result.err
    assert re.search(pattern, result.err), result.err
    assert not list(Path().glob("*sparse*"))
    assert not list(Path().glob("*dense*"))


@pytest.mark.parametrize("name", ["targets", "float_labels", "rows_of_labels", "float_pairs", "itself", "no_labels"])
def test_prune_takes_any_data(name: str, ntt: Ntt) -> None:  # noqa: F811
    write_source = getattr(sources, name, None) or sources.python(name)
    result = run(ntt, "prune", "mlp", write_source(), "--kernel-weight", "0")
    assert result.code == 0, result.err
    assert "labels are not read" in result.err or "no_labels" in name


def test_a_class_that_the_network_never_learnt(ntt: Ntt) -> None:  # noqa: F811
    source = sources.folder_with_another_class()
    assert run(ntt, "finetune", "images mlp", source, "--epochs", "1").code == 0
    result = run(ntt, "evaluate", "images mlp", source, "-c", "dense.safetensors")
    assert result.code == 2
    assert "newer: has classes that the network never learnt: mango" in result.err
    shutil.rmtree("newer/mango")
    result = run(ntt, "evaluate", "images mlp", source, "-c", "dense.safetensors")
    assert result.code == 0
    assert "newer has no samples of an apple" in result.err


@pytest.mark.parametrize(
    ("network", "source", "pattern"),
    [
        ("tokens", sources.beyond_vocabulary, r"model.py: raised IndexError: index out of range in self \(line"),
        (
            "layers alone",
            sources.beyond_vocabulary,
            "the network: raised IndexError: index out of range in self in its",
        ),
        ("checks shapes", sources.many_vectors, "model.py: raised ValueError: at most 32 samples, not 40"),
    ],
)
def test_a_forward_pass_that_fails_late(network: str, source: Callable[[], Source], pattern: str, ntt: Ntt) -> None:  # noqa: F811
    written = source()
    assert run(ntt, "finetune", network, written, "--epochs", "1", "--batch-size", "16").code == 0
    result = run(ntt, "evaluate", network, written, "-c", "dense.safetensors")
    assert result.code == 2, result.err
    assert re.search(pattern, result.err), result.err


@pytest.mark.parametrize(
    ("network", "source", "pattern"),
    [
        ("always dropout", sources.vectors, "warning: .*in evaluation mode"),
        ("softmax", sources.vectors, "warning: .*(probabilit|softmax)"),
        ("weight standardised", sources.bytes_last, r"warning: .*c1\.weight"),
    ],
)
def test_nothing_is_silent(network: str, source: Callable[[], Source], pattern: str, ntt: Ntt) -> None:  # noqa: F811
    result = run(ntt, "prune", network, source(), "--kernel-weight", "0")
    assert result.code == 0, result.err
    assert re.search(pattern, result.err, re.IGNORECASE), result.err


def test_weights_of_others(ntt: Ntt) -> None:  # noqa: F811
    source = sources.vectors()
    assert run(ntt, "finetune", "mlp", source, "--epochs", "1").code == 0
    dense = load_file("dense.safetensors")
    zeros = {
        name: value * (torch.arange(value.numel()).view_as(value) % 2 > 0) if value.ndim > 1 else value
        for name, value in dense.items()
    }
    for name, tensors, code, words in (
        ("prefixed", {f"module.{key}": value for key, value in dense.items()}, 0, "module."),
        ("half", {key: value.half() for key, value in dense.items()}, 0, "float16"),
        ("other names", {f"layer.{key}": value for key, value in list(dense.items())[1:]}, 2, "missing"),
        ("other shape", dense | {"0.weight": torch.ones(5, 8)}, 2, "0.weight"),
        ("zeros", zeros, 0, "0.weight 50"),
    ):
        save_file(tensors, f"{name}.safetensors")
        result = run(ntt, "evaluate", "mlp", source, "-c", f"{name}.safetensors")
        assert result.code == code, result.err
        assert words in result.err, result.err
        if code == 0:
            network = Walk(Pair("mlp", sources.vectors), source, ntt).network()
            network.load_state_dict({key.removeprefix("module."): value.float() for key, value in tensors.items()})
            with torch.no_grad():
                right = (network.eval()(torch.from_numpy(source.x_test)).argmax(1).numpy() == source.y_test).mean()
            # Whoever wrote the file said nothing of normalisation, so inputs are as they are.
            assert f"accuracy     {right:.2%}" in result.out, result.out
    assert run(ntt, "finetune", "mlp", source, "-c", "zeros.safetensors", "--epochs", "1").code == 0
    tuned = load_file("tuned.safetensors")
    for name, value in zeros.items():
        if value.ndim > 1:
            assert torch.equal(tuned[name] == 0, value == 0)


@pytest.mark.parametrize("command", ["prune", "finetune"])
def test_stdout_holds_the_result_alone(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("model.py").write_text(NETWORKS["talkative"])
    source = sources.vectors()
    assert source.data is not None
    more = ["--sparsity", "0.5", "--method", "magnitude"] if command == "prune" else ["--epochs", "1"]
    with pytest.raises(SystemExit) as exit:
        main([command, "model.py", "--data", source.data, "--device", "cpu", "--json", *more])
    assert exit.value.code == 0
    assert json.loads(capfd.readouterr().out)["output"]

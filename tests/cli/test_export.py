from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ntt_cli
from ntt_cli.files.atomic import file_sha256
from tests.cli.conftest import MODEL, Ntt, content

pytestmark = pytest.mark.usefixtures("checkpoints")

PACK = ("export", "sparse.safetensors", "--to", "packed")
PT2 = ("export", "sparse.safetensors", "--to", "pt2", "--model", MODEL)
PACKED = "sparse.packed.safetensors"
ROOT = Path(__file__).parents[2]


def test_for_people_scripts_and_pipes(ntt: Ntt) -> None:
    human = ntt(*PACK)
    size, dense = Path(PACKED).stat().st_size, sum(v.nbytes for v in load_file("sparse.safetensors").values())
    digest = file_sha256(Path(PACKED))
    assert (human.code, human.err) == (0, "")
    assert human.out == f"{PACKED}: {size:,} bytes, 1/{dense / size:.1f} of {dense:,} dense\nSHA-256 {digest}\n"
    assert size < dense / 6
    assert ntt(*PACK, "-q", "-o", "other.safetensors").out == "other.safetensors\n"
    report = ntt(*PACK, "--json", "--force").report
    assert report == {
        "output": PACKED,
        "to": "packed",
        "checkpoint": "sparse.safetensors",
        "dtype": "float32",
        "tensor_count": 6,
        "bytes": size,
        "checkpoint_bytes": Path("sparse.safetensors").stat().st_size,
        "dense_bytes": dense,
        "sha256": digest,
    }


def test_a_program(ntt: Ntt) -> None:
    """Beside plain PyTorch: the file's tensors in the module of the model file."""
    human = ntt(*PT2)
    size = Path("sparse.pt2").stat().st_size
    assert human.code == 0, human.err
    assert human.out.splitlines()[:3] == [
        f"sparse.pt2: {size:,} bytes, for 48,240 dense",
        "inputs: input float32 [batch, 1, 8, 8]",
        "outputs: output float32 [batch, 10]",
    ]
    document = ntt(*PT2, "-o", "other.pt2", "--json", "--data", "noise:3").document
    assert document["outputs"] == {"output": "float32 [batch, 10]"}
    assert document["difference"] <= 1e-5
    assert Path("other.pt2").read_bytes() == Path("sparse.pt2").read_bytes()
    net = ntt_cli.load("dense.safetensors", MODEL).model.eval()
    net.load_state_dict(load_file("sparse.safetensors"))
    program, x = torch.export.load("sparse.pt2").module(), torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(program(x), net(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("known", ["INPUT_SHAPE = (1, 8, 8)", 'DATA = "digits"'])
def test_images_have_the_size_that_the_checkpoint_was_made_with(ntt: Ntt, known: str) -> None:
    Path("pooled.py").write_text(
        f"from torch import nn\n{known}\ndef build_model():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))\n"
    )
    data = () if "DATA" in known else ("--data", "noise:8")
    prune = ("prune", "pooled.py", "-s", "0.5", "--steps", "1", *data, "--image-size", "12x10")
    made = ntt(*prune, "-o", "pooled.safetensors")
    assert made.code == 0, made.err
    export = ("export", "pooled.safetensors", "--to", "pt2", "--model", "pooled.py", "--force", "--json")
    assert ntt(*export).document["inputs"] == {"input": "float32 [batch, 1, 12, 10]"}
    assert ntt(*export, "--image-size", "9").document["inputs"] == {"input": "float32 [batch, 1, 9, 9]"}
    bench = ("bench", "pooled.safetensors", "pooled.pt2", "--model", "pooled.py", "--seconds", "1e-9")
    assert ntt(*export).code == ntt(*bench).code == 0  # of the size that the program takes
    assert ntt("export", "pooled.safetensors", "--to", "hub-folder").code == 0
    assert "- **Images** have 12×10 pixels.\n" in Path("pooled-hub/README.md").read_text(encoding="utf-8")


def test_every_command_takes_it(ntt: Ntt) -> None:
    assert ntt(*PACK).code == 0
    for command in (
        ["evaluate", MODEL, "--limit", "50", "--teacher", "dense.safetensors", "-c"],
        ["prune", MODEL, "-s", "0.95", "--method", "magnitude", "--limit", "20", "-o", "x.safetensors", "--force"]
        + ["--weights"],
    ):
        plain, packed = (ntt(*command, name, "--json") for name in ("sparse.safetensors", PACKED))
        assert (plain.code, packed.code) == (0, 0), packed.err
        told = json.dumps(packed.report).replace(PACKED, "sparse.safetensors")
        size = str(Path(PACKED).stat().st_size), str(Path("sparse.safetensors").stat().st_size)
        assert json.loads(told.replace(*size)) == plain.report
    found = []
    for name in ("sparse.safetensors", PACKED):
        tune = ("finetune", MODEL, "-c", name, "--epochs", "1", "--limit", "60", "-o", "t.safetensors", "--force")
        assert ntt(*tune).code == 0
        found.append(load_file("t.safetensors"))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    agrees = ("evaluate", MODEL, "-c", "tuned.safetensors", "--limit", "50", "--json", "--teacher")
    plain, packed = (ntt(*agrees, name).document["agreement"] for name in ("sparse.safetensors", PACKED))
    assert plain == packed


def test_python_takes_it() -> None:
    packed = ntt_cli.export("sparse.safetensors", to="packed").output
    plain, loaded = ntt_cli.load("sparse.safetensors", MODEL), ntt_cli.load(packed, MODEL)
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in loaded.masks.items())
    assert plain.masks.keys() == loaded.masks.keys() != set()
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    ntt_cli.export(plain, to="packed", output="again.safetensors")
    again = ntt_cli.load("again.safetensors", MODEL)
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())


def test_torch_goes_on_under_the_masks(ntt: Ntt) -> None:
    """The lines of docs/formats.md, and a step of training."""
    assert ntt("export", "sparse.safetensors", "--to", "torch", "-q").out == "sparse.torch.safetensors\n"
    plain, model = ntt_cli.load("sparse.safetensors", MODEL), ntt_cli.load("dense.safetensors", MODEL).model
    lines = (ROOT / "docs/formats.md").read_text().rpartition("```python\n")[2].partition("```")[0]
    exec(lines, {"model": model})
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(model(x), plain.model(x))
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(x).square().sum().backward()
    optimiser.step()
    model(x)  # torch multiplies by the masks in each pass
    moved = dict(model.named_modules())
    for name, mask in plain.masks.items():
        layer, _, parameter = name.rpartition(".")
        value = getattr(moved[layer], parameter)
        assert not torch.equal(value, plain.model.get_parameter(name))
        assert not value[~mask].any()


def test_torch_comes_back(ntt: Ntt) -> None:
    ntt_cli.export("sparse.safetensors", to="torch", output="back.safetensors")
    plain, back = ntt_cli.load("sparse.safetensors", MODEL), ntt_cli.load("back.safetensors", MODEL)
    state = plain.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in back.model.state_dict().items())
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in back.masks.items())
    assert back.masks.keys() == plain.masks.keys()


def test_torch_without_masks(ntt: Ntt) -> None:
    save_file({"w": torch.ones(2, 2)}, "whole.safetensors")
    refused = ntt("export", "whole.safetensors", "--to", "torch")
    assert (refused.code, refused.err) == (
        2,
        "error: --to torch: does nothing: no weight of whole.safetensors has a mask\n"
        "hint: export what ntt prune or ntt finetune wrote\n",
    )
    assert not Path("whole.torch.safetensors").exists()


def test_inspect_verify_and_report(ntt: Ntt) -> None:
    ntt(*PACK)
    plain, packed = ntt("inspect", "sparse.safetensors"), ntt("inspect", PACKED)
    head = f"{PACKED}: {Path(PACKED).stat().st_size:,} bytes, 6 tensors"
    assert packed.out.splitlines()[:2] == [head, "packed by ntt export from sparse.safetensors"]
    assert "\nbytes: 48,240 dense, packed about " in plain.out
    assert sorted(packed.out.splitlines()[2:]) == sorted(plain.out.splitlines()[1:])
    document = ntt("inspect", PACKED, "--json").document
    assert document["packed_record"]["source_sha256"] == file_sha256(Path("sparse.safetensors"))
    assert document["sizes"] == ntt("inspect", "sparse.safetensors", "--json").document["sizes"]
    whole = ntt("verify", PACKED)
    assert whole.out == f"{PACKED}: whole; 6 tensors, written by ntt export\n"
    assert ntt("report", PACKED).out.startswith("sparse.report.html: ")
    Path("sparse.report.safetensors").unlink()
    alone = ntt("report", PACKED)
    assert (alone.code, alone.err.splitlines()[0]) == (
        2,
        f"error: {PACKED}: has no report beside it (sparse.report.safetensors)",
    )


def test_the_report_of_a_run_says_its_sizes(ntt: Ntt) -> None:
    ntt(*PACK)
    report = ntt("inspect", "sparse.report.safetensors", "--json").document["record"]["summary"]
    assert report["sizes"]["dense"] == 48_240
    assert report["sizes"]["packed"] == pytest.approx(Path(PACKED).stat().st_size, rel=0.1)
    assert report["sizes"] == ntt("inspect", "sparse.safetensors", "--json").document["sizes"]
    ntt("report", "sparse.safetensors")
    assert "48,240 dense, packed about " in Path("sparse.report.html").read_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded(ntt: Ntt, dtype: str) -> None:
    assert ntt(*PACK, "--dtype", dtype).code == 0
    whole, loaded = load_file("sparse.safetensors"), ntt_cli.load(PACKED, MODEL)
    for name, value in loaded.checkpoint.tensors.items():
        assert torch.equal(value, whole[name].to(getattr(torch, dtype)).float())
    assert all(torch.equal(mask, whole[name] != 0) for name, mask in loaded.masks.items())
    assert ntt("evaluate", MODEL, "-c", PACKED, "--limit", "50").code == 0
    assert Path(PACKED).stat().st_size < 0.7 * ntt(*PACK, "--json", "--force").document["bytes"]
    ntt(*PACK, "--dtype", dtype, "--force")
    again = ntt("export", PACKED, "--to", "packed", "--dtype", dtype)
    assert again.code == 2
    assert again.err == (
        f"error: --dtype {dtype}: does nothing to {PACKED}: no tensor is of another type\nhint: leave it out\n"
    )


def test_what_a_type_cannot_hold(ntt: Ntt) -> None:
    save_file({"w": torch.tensor([[1e5, 0.0], [0.0, 1.0]])}, "large.safetensors")
    large = ntt("export", "large.safetensors", "--to", "packed", "--dtype", "float16")
    assert large.code == 2
    assert large.err == (
        "error: large.safetensors: w has values beyond 65504, the largest of float16\n"
        "hint: use --dtype bfloat16, or leave it out\n"
    )
    assert not Path("large.packed.safetensors").exists()
    network = torch.nn.Linear(4, 2)
    torch.nn.init.constant_(network.weight, 1e-9)
    result = ntt_cli.prune(network, sparsity=0.5, method="magnitude")
    told: list[object] = []
    ntt_cli.export(result, to="packed", output="tiny.safetensors", dtype="float16", progress=told.append)
    (warned,) = told
    assert getattr(warned, "message", "") == "4 kept weights are too small for float16 and became zero"
    assert int(ntt_cli.load("tiny.safetensors", network).masks["weight"].sum()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sparse.safetensors"], "error: --to: is required\nhint: "),
        (["sparse.safetensors", "--to", "pt3"], "onnx, coreml, hub-folder; did you mean pt2?\nhint: packed: "),
        (["sparse.safetensors", "--to", "zip"], "error: --to zip: is not one of packed, torch, pt2, onnx"),
        (
            [*PACK[1:], "--dtype", "float8"],
            "error: --dtype float8: is not one of float16, bfloat16; did you mean float16?\n",
        ),
        ([*PACK[1:], "-o", "x.pt"], "error: x.pt: is not named .safetensors, which is what is written\n"),
        ([*PACK[1:], "-o", "sparse.safetensors", "--force"], "error: sparse.safetensors: is the checkpoint itself\n"),
        ([*PACK[1:], "-o", "dense.safetensors"], "error: dense.safetensors: exists already\n"),
        ([*PACK[1:], "--model", MODEL], f"error: --model {MODEL}: --to packed writes the weights alone, and does not"),
        ([*PACK[1:], "-d", "digits"], "error: --data digits: --to packed writes the weights alone, and does not read"),
        (
            [*PT2[1:3], "pt2"],
            "error: --to pt2: needs the network of the checkpoint\nhint: name the one that it was made with: --model"
            f" {MODEL}\n",
        ),
        (
            [*PT2[1:], "-o", "x.onnx"],
            "error: x.onnx: is not named .pt2, which is what is written\nhint: name it x.pt2\n",
        ),
        (["missing.safetensors", *PACK[2:]], "error: missing.safetensors: does not exist\n"),
        (["sparse.report.safetensors", *PACK[2:]], "error: sparse.report.safetensors: is a report, not a checkpoint\n"),
    ],
)
def test_refused(ntt: Ntt, arguments: list[str], message: str) -> None:
    before = content()
    result = ntt("export", *arguments)
    assert result.code == 2
    assert message in result.err
    assert content() == before


def test_a_network_in_memory_needs_a_name() -> None:
    sparse = ntt_cli.load("sparse.safetensors", MODEL)
    with pytest.raises(ntt_cli.NttError) as caught:
        ntt_cli.export(sparse, to="packed")
    assert str(caught.value) == "output: is missing: the network is in memory"


def test_folders_and_torch_files(ntt: Ntt) -> None:
    os.mkdir("weights")
    shutil.copy("dense.safetensors", "weights/model.safetensors")
    assert ntt("export", "weights", "--to", "packed", "-q").out == "weights.packed.safetensors\n"
    state = load_file("dense.safetensors")
    torch.save(state, "dense.pt")
    assert ntt("export", "dense.pt", "--to", "packed", "-q", "--force").out == "dense.packed.safetensors\n"
    read = ntt_cli.load("dense.packed.safetensors", MODEL)
    assert all(np.array_equal(value, state[name]) for name, value in read.model.state_dict().items())

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ntt_cli as ntt
from ntt_cli.data.batch import Batch, call, map_batch
from ntt_cli.networks.outputs import tensors_in
from tests.programs.conftest import run_elsewhere
from tests.programs.networks import KINDS, Branches, Counts, Leaves, Loops, images, noise, tokens

LOAD = """
import json, torch
for kind in sys.argv[2:]:
    program = torch.export.load(f"{sys.argv[1]}/{kind}.pt2").module()
    found = []
    for x in torch.load(f"{sys.argv[1]}/{kind}.x", weights_only=True):
        positional, named = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})
        found.append(program(*positional, **named))
    torch.save(found, f"{sys.argv[1]}/{kind}.y")
"""


def parts_of(outputs: object) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(tensors_in(outputs).values())


def expected_of(net: torch.nn.Module, x: Batch) -> list[torch.Tensor]:
    """Plain PyTorch's outputs, of a named tuple each once."""
    with torch.no_grad():
        outputs = call(
            net.eval(), map_batch(torch.Tensor.double, x) if next(net.parameters()).dtype.itemsize > 4 else x
        )
    return list(outputs) if isinstance(outputs, tuple) else parts_of(outputs)


def test_runs_without_the_code_of_the_model(tmp_path: Path, elsewhere: Path) -> None:
    made = {}
    for kind, (build, x) in KINDS.items():
        data = (x, None) if isinstance(x, tuple) else x
        sparse = made[kind] = ntt.prune(build(), data, sparsity=0.5, method="magnitude")
        ntt.export(sparse, to="pt2", data=data, output=tmp_path / f"{kind}.pt2")
        torch.save([map_batch(lambda part, n=n: part[:n], x) for n in (1, 7)], tmp_path / f"{kind}.x")
    run_elsewhere(LOAD, elsewhere, tmp_path, *KINDS)
    for kind, sparse in made.items():
        batches, found = (torch.load(tmp_path / f"{kind}.{part}", weights_only=True) for part in "xy")
        for x, outputs in zip(batches, found, strict=True):
            torch.testing.assert_close(parts_of(outputs), expected_of(sparse.model, x), rtol=1e-5, atol=1e-5)
        state = sparse.model.state_dict()
        written = torch.export.load(tmp_path / f"{kind}.pt2").state_dict
        assert all(torch.equal(value, state[name]) for name, value in written.items())
        assert sparse.masks.keys() <= written.keys()


def test_text_may_be_of_another_length(tmp_path: Path) -> None:
    build, x = KINDS["text"]
    sparse = ntt.prune(build(), x, sparsity=0.5, method="magnitude")
    report = ntt.export(sparse, to="pt2", data=x, output=tmp_path / "net.pt2")
    assert report.inputs == dict.fromkeys(("input_ids", "attention_mask"), "int64 [batch, length]")
    assert report.outputs == {"states": "float32 [batch, length, 8]", "pooled": "float32 [batch, 8]"}
    longer = {name: torch.cat([part, part], dim=1) for name, part in tokens(3).items()}
    with torch.no_grad():
        found = torch.export.load(tmp_path / "net.pt2").module()(**longer)
        expected = sparse.model.eval()(**longer)
    torch.testing.assert_close(found["pooled"], expected.pooled, rtol=1e-5, atol=1e-5)


def test_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net, x = images(), 3 * noise(9, 2, 6, 6) + 1
    ntt.prune(net, x, sparsity=0.75, method="magnitude", mean=[1, 1], std=[3, 3], output="sparse.safetensors")
    report = ntt.export("sparse.safetensors", to="pt2", model=net, data=x)
    assert report.output == "sparse.pt2"
    said = {"ntt.json": ""}
    program = torch.export.load("sparse.pt2", extra_files=said).module()
    about = json.loads(said["ntt.json"])
    assert about["source"] == "sparse.safetensors"
    assert about["source_sha256"] == ntt.verify("sparse.safetensors").sha256
    assert about["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert (about["mean"], about["std"]) == ([1, 1], [3, 3])
    assert about["inputs"] == {"input": {"dtype": "float32", "shape": ["batch", 2, 6, 6]}}
    model = ntt.load("sparse.safetensors", net).model.eval()
    with torch.no_grad():  # it takes normalised inputs, as the network does
        torch.testing.assert_close(program((x - 1) / 3), model((x - 1) / 3))
    held = Path("sparse.pt2").read_bytes()
    assert str(tmp_path).encode() not in held
    assert b"tests/programs" not in held
    ntt.export("sparse.safetensors", to="pt2", model=net, data=x[:4], output="again.pt2")
    assert Path("again.pt2").read_bytes() == held


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Branches,
            "Branches: cannot be written as a program (networks.py, line {}: if x.sum() > 0:): what it computes depends"
            " on the values of its inputs",
        ),
        (
            Loops,
            "Loops: computes for one number of samples alone: it loops over them, or writes their number into a shape",
        ),
        (Leaves, "Leaves: cannot be written as a program (networks.py, line {}: "),
        (Counts, "Counts: a program of it gives other outputs (they differ by 3), so that none is written"),
    ],
)
def test_networks_that_are_no_program(kind: type[torch.nn.Module], said: str, tmp_path: Path) -> None:
    net = kind()
    sparse = ntt.prune(net, noise(9, 4), sparsity=0.5, method="magnitude")
    with pytest.raises(ntt.NttError) as caught:
        ntt.export(sparse, to="pt2", data=noise(9, 4), output=tmp_path / "net.pt2")
    begin, _, end = said.partition("{}")
    message = str(caught.value)
    assert begin in message
    assert end in message
    assert not list(tmp_path.iterdir())

"""A network without some channels as a program: it is smaller, and computes the same."""

from pathlib import Path

import onnxruntime
import pytest
import torch

import ntt_cli as ntt
from tests.pruning.test_channels import TOKENS, X, encoder, network, pruned


@pytest.fixture(scope="module")
def result() -> ntt.PruneResult:
    return pruned(sparsity=0.5)


def test_pt2_has_the_weights_that_are_left(result: ntt.PruneResult, tmp_path: Path) -> None:
    program = torch.export.load(ntt.export(result, to="pt2", output=tmp_path / "small.pt2", data=X).output)
    left = sum(value.numel() for value in program.state_dict.values() if value.ndim > 1)
    assert left == result.report.kept
    torch.testing.assert_close(program.module()(X[:5]), result.model.eval()(X[:5]))


def test_onnx_is_smaller(result: ntt.PruneResult, tmp_path: Path) -> None:
    small = ntt.export(result, to="onnx", output=tmp_path / "small.onnx", data=X)
    whole = ntt.prune(network(), X, sparsity=0.5, method="magnitude")
    assert small.bytes < ntt.export(whole, to="onnx", output=tmp_path / "whole.onnx", data=X).bytes
    session = onnxruntime.InferenceSession(small.output, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: X[:5].numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs), result.model.eval()(X[:5]).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_programs_without_heads_are_smaller_and_take_any_number_of_samples(to: str, tmp_path: Path) -> None:
    result = encoder()
    written = ntt.export(result, to=to, output=tmp_path / f"small.{to}", data=TOKENS)
    expected = result.model.eval()(TOKENS[:5]).detach()
    if to == "pt2":
        program = torch.export.load(written.output)
        assert sum(value.numel() for value in program.state_dict.values() if value.ndim > 1) == result.report.kept
        outputs = program.module()(TOKENS[:5])
    else:
        session = onnxruntime.InferenceSession(written.output, providers=["CPUExecutionProvider"])
        outputs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: TOKENS[:5].numpy()})[0])
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)

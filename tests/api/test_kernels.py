from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import ntt_cli as ntt
from tests.api.objects import left_alone, network, samples

X1, X2 = samples(5)[0], samples(3, seed=2)[0]


def kernel(net: nn.Module, x1: Tensor, x2: Tensor) -> Tensor:
    """By whole Jacobians, in evaluation mode."""
    params = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
    modes = [part.training for part in net.modules()]
    net.eval()
    try:
        parts = [
            torch.cat([j.flatten(2) for j in jacrev(lambda p, x=x: functional_call(net, p, x))(params).values()], dim=2)
            for x in (x1, x2)
        ]
    finally:
        for part, mode in zip(net.modules(), modes, strict=True):
            part.training = mode
    return torch.einsum("ncp,mdp->nmcd", *parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_kernel_is_that_of_whole_jacobians(dtype: torch.dtype) -> None:
    net, x1, x2 = network().to(dtype), X1.to(dtype), X2.to(dtype)
    expected = kernel(net, x1, x2)
    with left_alone(net):
        found = ntt.empirical_ntk(net, x1, x2)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert found.dtype == dtype
    torch.testing.assert_close(
        ntt.empirical_ntk(net, x1, memory_bytes=4096), kernel(net, x1, x1), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_products_are_those_with_the_kernel(micro_batch: int | None) -> None:
    net = network().double()
    x1, x2, v = X1.double(), X2.double(), torch.randn(3, 3, dtype=torch.float64)
    with left_alone(net):
        found = ntt.kernel_vector_product(net, x1, x2, v, micro_batch=micro_batch)
    torch.testing.assert_close(found, torch.einsum("nmcd,md->nc", kernel(net, x1, x2), v))


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode], ids=lambda around: around.__name__)
def test_gradients_that_are_off_do_not_matter(around: type) -> None:
    net, v = network(), torch.ones(3, 3)
    expected = ntt.kernel_vector_product(net, X1, X2, v), ntt.empirical_ntk(net, X1, X2)
    with around(), left_alone(net):
        found = ntt.kernel_vector_product(net, X1, X2, v), ntt.empirical_ntk(net, X1, X2)
    assert all(map(torch.equal, found, expected))


def test_the_result_of_a_function_is_a_network() -> None:
    sparse = ntt.prune(network(), X1, sparsity=0.5, method="magnitude")
    assert torch.equal(ntt.empirical_ntk(sparse, X1), ntt.empirical_ntk(sparse.model, X1))
    v = torch.ones(3, 3)
    assert torch.equal(ntt.kernel_vector_product(sparse, X1, X2, v), ntt.kernel_vector_product(sparse.model, X1, X2, v))
    with pytest.raises(ntt.NttError, match="is a value of type int"):
        ntt.empirical_ntk(3, X1)  # type: ignore[arg-type]

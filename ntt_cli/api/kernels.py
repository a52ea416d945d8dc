"""`ntt_cli.kernel_vector_product` and `ntt_cli.empirical_ntk`: the neural tangent kernel of a network object."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntt_cli.api.calls import apart
from ntt_cli.api.network import SparseNetwork, module_of
from ntt_cli.data.batch import Batch
from ntt_cli.kernels.exact import exact_kernel
from ntt_cli.kernels.product import kernel_vector_product as product_of
from ntt_cli.networks.functional import functional_model
from ntt_cli.runtime.execution import Execution


def kernel_vector_product(
    model: nn.Module | SparseNetwork,
    x1: Batch,
    x2: Batch,
    v: Float[Tensor, "m c"],
    *,
    micro_batch: int | None = None,
) -> Float[Tensor, "n c"]:
    """`K v` with the neural tangent kernel `K = J(x1) J(x2)ᵀ`, `[n, m, c, c]`, which is never formed.

    `J(x)` are the derivatives of the outputs by all trainable parameters, the network in evaluation mode. It costs one
    backward pass on `x2` and one forward-mode pass on `x1`, whatever the number of outputs. For Gaussian `v`,
    `E‖K v‖² = ‖K‖²_F`. Jacot et al. 2018, arXiv 1806.07572; Liu & Zenke 2020, arXiv 2006.08228.

    Args:
        model: the network or the result of a function here, which is left as it is.
        x1: inputs of the kernel's rows, `[n, ...]`, on the network's device: a tensor, or a tuple or dict of them.
        x2: inputs of the kernel's columns, `[m, ...]`.
        v: the vector.
        micro_batch: samples that go through the network at once; all by default.

    Raises:
        RuntimeError: if an operation of the network has no derivative in forward mode.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net, x = torch.nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> ntt.kernel_vector_product(net, x, x, torch.tensor([[1.0], [0.0]]))  # K = x xᵀ + 1
        tensor([[6.],
                [7.]])
    """
    module = module_of(model)
    with apart():
        network = functional_model(module)
        return product_of(network.bind(), network.params, x1, x2, v, execution=Execution(micro_batch)).product


def empirical_ntk(
    model: nn.Module | SparseNetwork,
    x1: Batch,
    x2: Batch | None = None,
    *,
    memory_bytes: int = 2**30,
) -> Float[Tensor, "n m c c"]:
    """The neural tangent kernel `K = J(x1) J(x2)ᵀ` itself, all outputs.

    Rows of Jacobians are taken in parts that fit into the memory given; the shares of Linear and Conv2d layers come
    from their inputs and output gradients, without a tensor of the weight's size. Novak et al. 2022, arXiv 2206.08720.

    Args:
        model: the network or the result of a function here, which is left as it is; its outputs are `[batch, c]`.
        x1: inputs of the kernel's rows, `[n, ...]`, on the network's device: a tensor, or a tuple or dict of them.
        x2: inputs of the kernel's columns, `[m, ...]`; by default `x1`.
        memory_bytes: what derivatives may take at one time.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> net, x = torch.nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        >>> ntt.empirical_ntk(net, x)[:, :, 0, 0]
        tensor([[ 6.,  7.],
                [ 7., 10.]])
    """
    module = module_of(model)
    with apart(), torch.no_grad():
        network = functional_model(module)
        others = x1 if x2 is None else x2
        return exact_kernel(network.bind(), network.params, x1, others, memory_bytes=memory_bytes)

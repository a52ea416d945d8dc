from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.core.functional import functional_model
from ntt_cli.core.kernel_product import answers_and_pullback


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.layers = kind(3, 4, num_layers=2, batch_first=True, bidirectional=True, **options)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {"nonlinearity": "tanh"}), (nn.RNN, {"nonlinearity": "relu"})],
)
def test_recurrent_layers_in_single_precision(kind: type[nn.RNNBase], options: dict[str, object]) -> None:
    # In double precision oneDNN, whose LSTM lacks derivatives, has no part.
    torch.manual_seed(0)
    module = Recurrent(kind, **options)
    x1, x2, probe = torch.randn(2, 5, 3), torch.randn(3, 5, 3), torch.randn(3, 2)
    enabled = torch.backends.mkldnn.enabled
    found = []
    for dtype in (torch.float32, torch.float64):
        model = functional_model(module.to(dtype))
        x1, x2, probe = x1.to(dtype), x2.to(dtype), probe.to(dtype)
        products, pullback = answers_and_pullback(model.bind(), model.params, x1, x2, probe)
        found.append([products.product, *pullback(products).values()])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4 * float(double.detach().abs().max()))
    assert torch.backends.mkldnn.enabled == enabled

import torch
from torch import Tensor, nn

from ntt_cli.masks.channels import Channels
from ntt_cli.methods.ntt.channel_score import Probes, channel_saliencies
from ntt_cli.networks.channels import find_channels
from ntt_cli.networks.functional import functional_model


class Gates(nn.Module):
    """Two hidden layers, the first used by two others, with room for a factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.straight, self.last = nn.Linear(5, 2), nn.Linear(3, 2)
        self.gates: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x)) * self.gates.get("first", 1)
        return self.straight(h) + self.last(torch.sigmoid(self.second(h)) * self.gates.get("second", 1))


def test_saliency_is_the_squared_derivative_by_a_gate() -> None:
    torch.manual_seed(0)
    network = Gates().double()
    model = functional_model(network)
    names = [name for name, p in model.params.items() if p.ndim > 1]
    batches = [torch.randn(20, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)]
    groups = find_channels(functional_model(Gates()), torch.randn(2, 4), names, where="net").groups
    channels = Channels(groups, {name: model.params[name].shape for name in names}, {}, 0, by_flops=False)
    found = channel_saliencies(
        model.bind(), model.params, batches, channels, Probes(2, torch.Generator().manual_seed(1))
    )

    generator = torch.Generator().manual_seed(1)
    gates = {"first": torch.ones(5).double().requires_grad_(), "second": torch.ones(3).double().requires_grad_()}
    network.gates = gates
    expected = {name: torch.zeros(len(gate), dtype=torch.float64) for name, gate in gates.items()}
    for x in (*batches[0].split(16), batches[1]):
        probe = torch.randn(len(x), 2, generator=generator, dtype=torch.float64)
        gradients = torch.autograd.grad((network(x) * probe).sum(), list(gates.values()))
        for name, gradient in zip(gates, gradients, strict=True):
            expected[name] += gradient.square() / 23
    assert {group.layer for group in groups} == gates.keys()
    for group, saliency in zip(groups, found, strict=True):
        torch.testing.assert_close(saliency, expected[group.layer])

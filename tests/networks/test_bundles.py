"""Networks on bundles: outputs, kernel products and distances, against each part by itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ntt_cli.data.batch import halves
from ntt_cli.data.bundle import Bundle
from ntt_cli.kernels.product import compute_outputs, kernel_vector_product, outputs_and_pullback
from ntt_cli.methods.ntt.objective import Objective, outputs_gradient
from ntt_cli.networks.functional import FunctionalModel, functional_model
from ntt_cli.networks.outputs import Heads
from ntt_cli.runtime.execution import Execution


class Tagger(nn.Module):
    """Two heads of unequal lengths: one row a position, and one a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.whole = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inner = self.inner(x).tanh()
        return {"tags": self.outer(inner), "whole": self.whole(inner.mean(1))}


def tagger(seed: int) -> FunctionalModel:
    torch.manual_seed(seed)
    model = functional_model(Tagger().double(), lambda outputs: outputs)
    return replace(model, select_outputs=Heads(lambda outputs: outputs, {"tags": (4, 2), "whole": (1,)}))


def bundle() -> Bundle:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 2), (1, 3, 2), (3, 1, 2), (1, 6, 2)]
    return Bundle(tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def jacobian(model: FunctionalModel, x: Tensor) -> Tensor:
    """`[outputs, parameters]` of all outputs for one part, heads one after the other, by plain autograd."""
    params = {name: p.clone().requires_grad_() for name, p in model.params.items()}
    outputs = torch.func.functional_call(model.module, params, (x,))
    flat = torch.cat([outputs["tags"].flatten(), outputs["whole"].flatten()])
    leaves = list(params.values())
    rows = [torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True) for value in flat]
    return torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])


def test_a_row_holds_the_heads_of_a_part_filled_with_zeros() -> None:
    model, x = tagger(0), bundle()
    sized = model.bind().sized(model.params, x)
    assert sized.sizes == (16, 3)
    assert sized.counts == (18, 7, 9, 13)
    rows = model.bind()(model.params, sized)
    for part, row in zip(x.parts, rows, strict=True):
        outputs = model.returned(part)
        n = outputs["tags"].numel()
        torch.testing.assert_close(row[:n], outputs["tags"].flatten())
        torch.testing.assert_close(row[16 : 16 + len(outputs["whole"])], outputs["whole"].flatten())
        assert int((row == 0).sum()) == 19 - n - len(outputs["whole"])


def test_kernel_products_of_bundles_are_those_of_jacobians() -> None:
    model = tagger(0)
    sized = model.bind().sized(model.params, bundle())
    x1, x2 = halves(sized)
    probe = torch.randn(2, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sizes = [(2 * part.shape[0] * part.shape[1], len(part)) for part in sized.parts]
    counted = [torch.cat([torch.arange(16) < tags, torch.arange(3) < whole]) for tags, whole in sizes]
    u = sum(jacobian(model, part).T @ v[here] for part, v, here in zip(x2.parts, probe, counted[2:], strict=True))
    for micro_batch in (None, 1):
        found = kernel_vector_product(
            model.bind(), model.params, x1, x2, probe, execution=Execution(micro_batch=micro_batch)
        )
        for part, row, here in zip(x1.parts, found.product, counted, strict=False):
            torch.testing.assert_close(row[here], jacobian(model, part) @ u)
            assert not row[~here].any()


def test_distances_and_gradients_do_not_see_the_filling() -> None:
    teacher, student = tagger(0), tagger(1)
    sized = teacher.bind().sized(teacher.params, bundle())
    x1, x2 = halves(sized)
    for name in ("relative", "paper"):
        objective = Objective(name, 0.0, 0.0, heads=teacher.heads.sizes).on(teacher, x1, x2)  # type: ignore[arg-type, union-attr]
        theirs = compute_outputs(teacher.bind(), teacher.params, x1, x2, None)
        ours, pullback = outputs_and_pullback(student.bind(), student.params, x1, x2, None)
        loss, gradient = outputs_gradient(objective, ours, theirs, torch.zeros(()))
        found = pullback(gradient)
        params = {key: p.clone().requires_grad_() for key, p in student.params.items()}
        squares, norms, count = {"tags": 0.0, "whole": 0.0}, {"tags": 0.0, "whole": 0.0}, 0
        for part in sized.parts:
            mine, target = torch.func.functional_call(student.module, params, (part,)), teacher.returned(part)
            for head in squares:
                squares[head] = squares[head] + (mine[head] - target[head]).square().sum()
                norms[head] += float(target[head].square().sum())
                count += target[head].numel()
        want: Tensor = (
            sum(squares[head] / norms[head] for head in squares) / 2
            if name == "relative"
            else sum(squares.values()) / count
        )  # type: ignore[assignment]
        torch.testing.assert_close(loss.logit_distance, want.detach())
        want.backward()
        for key, p in params.items():
            torch.testing.assert_close(found[key], p.grad)

"""`--pattern N:M` on the command line and in Python, from the options to the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt_api
from ntt_cli.api.network import PruneResult
from ntt_cli.config import method_class
from ntt_cli.errors import NttError
from ntt_cli.methods.base import Pruned
from tests.cli.conftest import Ntt

pytestmark = pytest.mark.usefixtures("few_rounds")

NETWORK = """import torch
from torch import nn

INPUT_SHAPE = 3, 6, 6

def build_model():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    )
"""
WHY = "3 inputs are no multiple of 4"


def network() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 4)).eval()


def inputs() -> Tensor:
    return torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def pruned(data: Any = None, **options: Any) -> PruneResult:
    method = options.get("method", "ntt")
    reads = method_class(method).reads if isinstance(method, str) else method.reads
    few = {"steps": 12, "batch_size": 8, "mask_update_every": 2}
    given = {name: value for name, value in few.items() if name in reads} | {"pattern": "2:4"} | options
    result: PruneResult = ntt_api.prune(network(), inputs() if data is None else data, **given)
    return result


def kept_of(mask: Tensor) -> set[int]:
    """How many weights the groups of four keep, along the input axis."""
    return set(mask.unflatten(1, (-1, 4)).sum(dim=2).flatten().tolist())


WITHOUT_LABELS = (
    *("ntt", "gmp", "ntt-shuffled", "obc", "sparsegpt", "reconstruct", "asr", "cts-kl"),
    *("magnitude", "random", "random-rescaled", "lamp", "wanda", "synflow", "logit-snip", "ntk-sap", "phew", "px"),
)


@pytest.mark.parametrize("method", WITHOUT_LABELS)
def test_every_method_keeps_two_of_four(method: str) -> None:
    result = pruned(method=method)
    assert result.masks["0.weight"].all()
    for name in ("3.weight", "6.weight"):
        assert kept_of(result.masks[name]) == {2}, name
        assert torch.equal(result.model.get_parameter(name) != 0, result.masks[name])
    report = result.report
    assert (report.pattern, report.left_out) == ("2:4", {"0.weight": WHY})
    assert (report.kept, report.prunable) == (216 + 288 + 64, 216 + 576 + 128)
    assert report.sparsity == 1 - 568 / 920


@pytest.mark.parametrize("method", ["snip", "iterative-snip", "grasp", "imp"])
def test_so_do_methods_that_see_labels(method: str) -> None:
    result = pruned((inputs(), torch.arange(32) % 4), method=method)
    assert kept_of(result.masks["3.weight"]) == kept_of(result.masks["6.weight"]) == {2}


def test_one_shot_magnitude_keeps_the_largest_of_each_group() -> None:
    weight = network()[3].weight.detach()
    expected = torch.zeros_like(weight, dtype=torch.bool)
    for o, start, y, x in torch.cartesian_prod(*map(torch.arange, (8, 2, 3, 3))).tolist():
        group = weight[o, 4 * start : 4 * start + 4, y, x].abs()
        expected[o, 4 * start + group.topk(3).indices, y, x] = True
    assert torch.equal(pruned(method="magnitude", pattern="3:4").masks["3.weight"], expected)


@pytest.mark.usefixtures("short_auto")
@pytest.mark.parametrize(
    "options",
    [{"mask": "wanda", "mask_update_every": None}, {"schedule": "constant"}, {"preset": "paper"}, {"steps": "auto"}],
)
def test_what_goes_with_it(options: dict[str, Any]) -> None:
    result = pruned(**options)
    assert kept_of(result.masks["3.weight"]) == {2}


def test_masks_move_from_dense_to_the_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no update has a group fewer weights than in the end; others go one by one, wherever scores are lowest."""
    seen: list[Tensor] = []
    from ntt_cli.methods.ntt import loop, score

    def update(*arguments: Any) -> dict[str, Tensor]:
        masks = score.update_masks(*arguments)
        seen.append(masks["3.weight"].unflatten(1, (-1, 4)).sum(dim=2))
        return masks

    monkeypatch.setattr(loop, "update_masks", update)
    pruned(steps=20)
    assert len(seen) == 9
    assert [int(counts.min()) for counts in seen] == [2] * 9
    totals = [int(counts.sum()) for counts in seen]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1] == 288
    assert set(seen[0].flatten().tolist()) == {2, 3, 4}


def test_what_its_own_way_of_choosing_breaks_is_refused() -> None:
    class Own(ntt_api.Method):
        needs = "nothing"
        name = "own"

        def prune(self, context: Any) -> Pruned:
            masks = context.dense()
            masks["3.weight"][1, 4, 0, 2] = False
            result: Pruned = context.pruned(context.params, masks)
            return result

    ntt_api.register_method("own-way")(Own)
    with pytest.raises(NttError) as caught:
        pruned(method=Own)
    what = "method own-way chose 3.weight[0, 0:4, 0, 0] keeps 4 of 4 weights, not 2"
    assert what in str(caught.value)
    assert caught.value.exit_code == 2


REFUSED = [
    (["-s", "0.9"], "--sparsity 0.9: --pattern 2:4 has a sparsity of 0.5"),
    (["--allocation", "erk"], "--allocation erk: --pattern 2:4 says how many weights each layer keeps"),
    (["--layer-density", "6.*=0.5"], "--layer-density '6.*=0.5': --pattern 2:4 says how many weights each layer keeps"),
    (["--pattern", "4:2"], "--pattern 4:2: is not N:M, like 2:4, with N from 1 to below M"),
    (
        ["--pattern", "2:5"],
        "--pattern 2:5: no prunable weight can have it: 0.weight (3 inputs are no multiple of 5), 3.w",
    ),
    (["--method", "eoi"], "--pattern 2:4: method eoi makes weights whose zeros follow no pattern"),
    (
        ["--include", "1.weight"],
        "--include 1.weight: makes no more weights prunable",
    ),
]


@pytest.mark.parametrize(("options", "what"), REFUSED, ids=lambda part: str(part)[:30])
def test_what_contradicts_it(ntt: Ntt, folder: Path, options: list[str], what: str) -> None:
    Path("net.py").write_text(NETWORK)
    done = ntt("prune", "net.py", "--pattern", "2:4", "--method", "magnitude", *options)
    assert done.code == 2
    assert f"error: {what}" in done.err
    assert "hint: " in done.err


def test_from_the_command_line_to_the_tuned_file(ntt: Ntt, folder: Path) -> None:
    Path("net.py").write_text(NETWORK)
    data = ["--data", "noise:40"]
    done = ntt("prune", "net.py", "--pattern", "2:4", "--method", "wanda", *data)
    assert done.code == 0, done.err
    assert f"dense in spite of --pattern 2:4: 0.weight ({WHY})" in done.err
    assert f"pattern 2:4; dense: 0.weight ({WHY})" in done.out
    assert "568 of 920 weights kept, 38.26% sparse" in done.out
    assert ntt("verify", "sparse.safetensors").out.endswith("; 2:4 in all of 176 groups\n")
    assert "pattern 2:4 in 2 of 3 layers; dense: 0.weight" in ntt("inspect", "sparse.safetensors").out
    record = ntt("inspect", "sparse.safetensors", "--json").document["record"]
    assert (record["config"]["pattern"], record["config"]["sparsity"]) == ("2:4", 0.5)
    assert record["layers"]["3.weight"]["groups"] == {"keep": 2, "of": 4, "axis": 1}
    assert "groups" not in record["layers"]["0.weight"]
    Path("data.py").write_text(
        "import torch\ndef data():\n    x = torch.randn(40, 3, 6, 6)\n    return x, torch.arange(40) % 4\n"
    )
    tuned = ntt("finetune", "net.py", "-c", "sparse.safetensors", "-d", "data.py:data", "--epochs", "1")
    assert tuned.code == 0, tuned.err
    assert ntt("verify", "tuned.safetensors", "--json").document["groups"] == {"2:4": 176}
    assert ntt("report", "sparse.report.safetensors").code == 0
    assert "2:4; dense: 0.weight" in Path("sparse.report.html").read_text()


def test_the_plan_knows_the_counts(ntt: Ntt, folder: Path) -> None:
    Path("net.py").write_text(NETWORK)
    done = ntt("prune", "net.py", "--pattern", "1:4", "-d", "noise:40", "--steps", "20", "--dry-run", "--json")
    assert {layer["name"]: layer["kept"] for layer in done.document["layers"]} == {
        "0.weight": 216,
        "3.weight": 144,
        "6.weight": 32,
    }


def test_it_may_stand_in_a_file_of_options(ntt: Ntt, folder: Path) -> None:
    Path("net.py").write_text(NETWORK)
    Path("o.toml").write_text('model = "net.py"\n[prune]\npattern = "2:4"\nmethod = "magnitude"\n')
    done = ntt("prune", "--config", "o.toml", "--json")
    assert json.loads(done.out)["pattern"] == "2:4"

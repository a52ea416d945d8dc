from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ntt_cli as ntt
from ntt_cli.errors import ModelError, UsageError
from ntt_cli.networks.channels import removed_by, shrink
from ntt_cli.networks.functional import functional_model


def network() -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 8),
            nn.Sigmoid(),
            nn.Linear(8, 3),
        )
        for p in made.parameters():  # biases and scales of no special value
            if p.ndim == 1:
                nn.init.uniform_(p, 0.3, 1.0)
    return made


X = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def pruned(method: Any = "magnitude", **options: Any) -> ntt.PruneResult:
    if "target_flops" not in options:
        options = {"sparsity": 0.4} | options
    return ntt.prune(network(), X, structure="channels", method=method, **options)


def smaller(result: Any) -> nn.Module:
    record = result.checkpoint.record
    return shrink(functional_model(result.model), removed_by(record.channels), X[:2], where="net")


@pytest.mark.parametrize("method", ["magnitude", "random", "snip", "ntt", "gmp"])
def test_every_method_leaves_a_network_that_is_smaller(method: str) -> None:
    data = (X, torch.arange(32) % 3) if method == "snip" else X
    steps = {"steps": 4} if method in {"ntt", "gmp"} else {}
    result = ntt.prune(network(), data, structure="channels", method=method, sparsity=0.4, **steps)
    whole, small = result.model.eval(), smaller(result)
    torch.testing.assert_close(small(X), whole(X))
    left = sum(p.numel() for p in small.parameters() if p.ndim > 1)
    assert left == result.report.kept <= 0.6 * result.report.prunable
    largest = 9 + 24 * 4 / 4 + 4 * 8  # of the channels: a filter with its columns
    assert left > 0.6 * result.report.prunable - largest


def test_of_dead_channels_all_is_zero_and_the_record_says_which() -> None:
    result = pruned(sparsity=0.7)
    state, channels = result.checkpoint.tensors, result.checkpoint.record.channels
    assert channels.keys() == {"0", "4"}
    assert all(found.removed for found in channels.values())
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        dead = (state[name].flatten(1) if state[name].ndim > 1 else state[name][:, None]).eq(0).all(1)
        assert dead.nonzero().flatten().tolist() == list(channels["0"].removed)
    assert result.report.structure is not None
    assert {group.layer: group.kept for group in result.report.structure.channels} == {
        layer: found.outputs - len(found.removed) for layer, found in channels.items()
    }


class Encoder(nn.Module):
    """An attention of torch's, and one that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(5, 12), nn.Linear(12, 3)
        self.layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)
        self.num_heads, self.head_dim = 3, 4
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.embed(x))
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.last((x + self.out(attended.transpose(1, 2).flatten(2))).mean(1))


TOKENS = torch.randn(32, 6, 5, generator=torch.Generator().manual_seed(2))


def encoder(method: str = "magnitude", **options: Any) -> ntt.PruneResult:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return ntt.prune(Encoder(), TOKENS, structure="channels", method=method, **{"sparsity": 0.5} | options)


@pytest.mark.parametrize("method", ["magnitude", "ntt"])
def test_heads_go_as_a_whole_and_one_by_one(method: str, tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    notes: list[str] = []
    take = lambda event: notes.append(getattr(event, "message", ""))  # noqa: E731
    result = encoder(method, output=path, progress=take, **({"steps": 4} if method == "ntt" else {}))
    assert any("can be removed: 24 channels in 1 group and 6 heads in 2 attentions" in note for note in notes)
    structure = result.report.structure
    assert structure is not None
    found = {group.layer: group for group in structure.channels}
    assert {name for name, group in found.items() if group.are_heads} == {"layer.self_attn", "qkv"}
    assert sum(found[name].kept for name in ("layer.self_attn", "qkv")) < 6
    assert "of 24 channels and " in structure.in_words
    records = result.checkpoint.record.channels
    for name, copies in (("layer.self_attn", 1), ("qkv", 3)):
        heads = records[name].heads
        assert (heads.heads, heads.kept, heads.width) == (3, found[name].kept, 4)
        assert len(records[name].removed) == copies * 4 * (3 - heads.kept)
    assert records["layer.linear1"].heads is None
    assert ntt.verify(path).channels == sum(len(record.removed) for record in records.values())

    small = shrink(functional_model(result.model), removed_by(records), TOKENS[:2], where="net")
    torch.testing.assert_close(small(TOKENS), result.model.eval()(TOKENS), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in small.parameters() if p.ndim > 1) == result.report.kept


def test_fine_tuning_keeps_heads_dead() -> None:
    before = encoder()
    tuned = ntt.finetune(before, (TOKENS, torch.arange(32) % 3), epochs=2)
    records = before.checkpoint.record.channels
    assert tuned.checkpoint.record.channels == records
    small = shrink(functional_model(tuned.model), removed_by(records), TOKENS[:2], where="net")
    torch.testing.assert_close(small(TOKENS), tuned.model.eval()(TOKENS), rtol=1e-4, atol=1e-5)


def test_operations_are_those_of_the_smaller_network() -> None:
    result = pruned(target_flops=0.5)
    structure = result.report.structure
    filters, units = (group.kept for group in sorted(structure.channels, key=lambda group: group.layer))
    of = lambda f, u: 2 * (9 * f * 4 + 4 * f * u + u * 3)  # noqa: E731  # four positions of 3 × 3 filters
    assert (structure.flops_dense, structure.flops) == (of(6, 8), of(filters, units))
    assert structure.flops <= 0.5 * structure.flops_dense
    assert result.checkpoint.record.config["target_flops"] == 0.5


def test_fine_tuning_keeps_channels_dead(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    before = pruned(output=path)
    tuned = ntt.finetune(before, (X, torch.arange(32) % 3), epochs=2, output=tmp_path / "tuned.safetensors")
    assert tuned.checkpoint.record.channels == before.checkpoint.record.channels
    removed = sum(len(found.removed) for found in before.checkpoint.record.channels.values())
    assert ntt.verify(path).channels == ntt.verify(tmp_path / "tuned.safetensors").channels == removed
    assert not torch.equal(tuned.model[6].weight, before.model[6].weight)
    torch.testing.assert_close(smaller(tuned)(X), tuned.model.eval()(X))


def test_packed_channels_are_verified(tmp_path: Path) -> None:
    packed = ntt.export(pruned(), to="packed", output=tmp_path / "packed.safetensors")
    assert ntt.verify(packed.output).channels == sum(
        len(found.removed) for found in ntt.inspect(packed.output).record.channels.values()
    )


def test_a_run_is_the_same_after_an_interruption(tmp_path: Path) -> None:
    """Channels are found again, and the masks of the state are those of channels."""
    options = {"steps": 6, "checkpoint_every": 0.0, "method": "ntt"}
    whole = pruned(output=tmp_path / "whole.safetensors", **options)

    class Stopping(Exception):
        pass

    def stop(event: object) -> None:
        if type(event).__name__ == "MasksUpdated" and event.step >= 2:  # type: ignore[attr-defined]
            raise Stopping

    with pytest.raises(Stopping):
        pruned(output=tmp_path / "again.safetensors", progress=stop, **options)
    again = pruned(output=tmp_path / "again.safetensors", resume=True, **options)
    assert all(torch.equal(again.checkpoint.tensors[n], t) for n, t in whole.checkpoint.tensors.items())


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"method": "obc"}, "method obc chooses single weights in a way of its own", "choose ntt, gmp"),
        ({"allocation": "erk"}, "compares the channels of all layers and does not read it", "leave it out"),
        ({"layer_density": {"0.weight": 0.5}}, "compares the channels of all layers", "leave it out"),
        ({"sparsity": 0.5, "target_flops": 0.5}, "give either sparsity or target_flops, not both", "leave one"),
        ({"sparsity": 0.99}, "is too high for this model", "use at most 0.9407"),
        ({"target_flops": 0.01}, "is too low for this model", "use at least 0.0996"),
    ],
    ids=["obc", "allocation", "layer_density", "two sizes", "sparsity", "FLOPs"],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        pruned(**options)
    assert caught.value.exit_code == 2
    assert hint in caught.value.hint


def test_operations_are_read_for_channels_alone() -> None:
    with pytest.raises(UsageError, match="it is read with structure channels alone"):
        ntt.prune(network(), X, target_flops=0.5)


def test_without_inputs_there_is_nothing_to_follow() -> None:
    with pytest.raises(UsageError, match="needs inputs to follow through the network"):
        ntt.prune(network(), structure="channels", method="magnitude", sparsity=0.4)


def test_a_network_without_channels_is_refused() -> None:
    with pytest.raises(ModelError, match="has no channels that can be removed"):
        ntt.prune(nn.Linear(4, 3), X.flatten(1)[:, :4], structure="channels", method="magnitude", sparsity=0.4)

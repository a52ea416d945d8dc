"""Beside Python's own reader of TOML, and the configurations that runs would have."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ntt_cli
from ntt_cli.cli.app import main
from ntt_cli.config import COMMANDS, CompareConfig, FinetuneConfig, Options, PruneConfig, recorded
from ntt_cli.config.file import read_config_file
from ntt_cli.config.repeat import command_of, repeating
from ntt_cli.errors import UsageError

PRUNE = {"model": "net.py", "sparsity": 0.9}
CONFIGS = [
    PruneConfig(**PRUNE),
    PruneConfig(**PRUNE, method="magnitude", exclude=("a.*", "b"), allocation="layerwise"),
    PruneConfig(**PRUNE, preset="paper", steps=7, seed=3, weights="w.safetensors", mean="0.1,0.2", grayscale=True),
    PruneConfig(**PRUNE, score="magnitude", layer_density=("fc*=0.5",), micro_batch=2, data="noise:9"),
    PruneConfig(model="net.py:small", pattern="2:4", model_arg=("width=3", "name='a\"b\\c\n'")),
    PruneConfig(model="timm:x", structure="channels", target_flops=0.5),
    FinetuneConfig(model="net.py", checkpoint="sparse.safetensors", epochs=3, optimiser="sgd", learning_rate=0.02),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_what_is_read_again_is_the_same_run(config: Options, tmp_path: Path) -> None:
    command = "prune" if isinstance(config, PruneConfig) else "finetune"
    path = tmp_path / "run.toml"
    path.write_text(repeating(command, recorded(config)), encoding="utf-8")
    assert recorded(type(config)(**read_config_file(path, command))) == recorded(config)


def test_what_the_run_did_not_read_is_left_out() -> None:
    """A method that only scores records NTT's settings, too."""
    settled = {"steps": 6000, "epochs": None, "batch_size": 64, "kernel_weight": 0.0, "weight_penalty": 0.0}
    found = recorded(PruneConfig(**PRUNE, method="magnitude")) | settled
    assert tomllib.loads(repeating("prune", found)) == {"prune": PRUNE | {"method": "magnitude"}}
    layerwise = recorded(PruneConfig(**PRUNE, method="asr")) | {"steps": 0}
    assert "steps" not in tomllib.loads(repeating("prune", layerwise))["prune"]


@pytest.mark.parametrize("name", ["a'\"\\b.py", "]\n[finetune]\nseed = 3\n.py", "\x1b[2J\x9b\u202e\x7f.py", "é 字.py"])
def test_any_name_stays_one_text(name: str) -> None:
    text = repeating("prune", recorded(PruneConfig(**PRUNE | {"model": name})))
    assert tomllib.loads(text) == {"prune": PRUNE | {"model": name}}
    assert text.replace("\n", "").isprintable()


def test_what_may_hold_a_pickle_is_left_to_the_command_line() -> None:
    text = repeating("finetune", recorded(FinetuneConfig(model="net.py", checkpoint="dense.pt")))
    assert tomllib.loads(text) == {"finetune": {"model": "net.py"}}
    assert '# checkpoint = "dense.pt"' in text
    assert text.endswith("add --checkpoint")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"method": "of-mine"}, "method: "),
        ({"model": "torch.nn.modules.container.Sequential"}, "the network was an object in Python"),
        ({"score": "MyScore"}, "score: "),
    ],
)
def test_what_no_command_line_says(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        repeating("prune", recorded(PruneConfig(**PRUNE)) | changed)
    with pytest.raises(ValueError, match=why):
        command_of("prune", recorded(PruneConfig(**PRUNE)) | changed)


COMPARE = {"model": "net.py", "methods": ("ntt", "snip"), "sparsities": (0.8, 0.9), "learning_rates": (0.01, 0.1)}


@pytest.mark.parametrize(
    "config", [*CONFIGS, CompareConfig(**COMPARE), PruneConfig(**PRUNE | {"model": "-x.py"})], ids=str
)
def test_the_command_is_the_same_run(config: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line takes it, and calls its function with the same options."""
    command = next(name for name, kind in COMMANDS.items() if kind is type(config))
    words = shlex.split(command_of(command, recorded(config)))
    assert words[:2] == ["ntt", command]
    given: dict[str, Any] = {}

    def take(**options: Any) -> None:
        given.update({name: options[name] for name in type(config).model_fields if name in options})
        raise UsageError("here", "the test ends")

    monkeypatch.setattr(ntt_cli, command, take, raising=False)
    monkeypatch.setattr("ntt_cli.cli.options.require_named_files", lambda config: None)
    with pytest.raises(SystemExit):
        main(words[1:])
    assert recorded(type(config)(**given)) == recorded(config)


def test_lists_of_a_comparison_are_one_word() -> None:
    command = command_of("compare", recorded(CompareConfig(**COMPARE)))
    assert command == "ntt compare net.py --methods ntt,snip --sparsities 0.8,0.9 --learning-rates 0.01,0.1"

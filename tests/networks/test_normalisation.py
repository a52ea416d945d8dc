from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ntt_cli.config import EvaluateConfig, FinetuneConfig, PruneConfig
from ntt_cli.errors import DataError, NttError, UsageError
from ntt_cli.evaluation import evaluate
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.metadata import MeanStd, Normalisation
from ntt_cli.networks.normalisation import ELSEWHERE
from ntt_cli.pruning import prune
from ntt_cli.runtime.events import Event, Noted, Warned
from ntt_cli.training import finetune
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

DIGITS = "inputs: normalised by mean 0.3085, deviation 0.3774 (the statistics of digits)"
"""Of the first 200 that are drawn, by numpy."""

NAMED = Normalisation(MeanStd((0.25,), (2.0,)), "--mean and --std")


class Said(list[str]):
    """What a command says of its inputs, and its warnings but that of a sparse teacher."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned) and " is sparse already" not in event.message:
            self.append(f"warning: {event.message}")
        elif isinstance(event, Noted) and event.message.startswith("inputs: "):
            self.append(event.message)


def pruned(output: str = "sparse.safetensors", *, head: str = "", **values: Any) -> list[str]:
    """Prune the plain network by magnitude, its file beginning with `head`."""
    model = Path(write_network("plain"))
    model.write_text(model.read_text() + head)
    options = {"method": "magnitude", "sparsity": 0.5, "limit": 200, "device": "cpu", "force": True, "output": output}
    said = Said()
    prune.run(PruneConfig(model=str(model), **(options | values)), said)
    return said


def tuned(**values: Any) -> list[str]:
    options = {"epochs": 1, "limit": 200, "device": "cpu", "force": True, "checkpoint": "sparse.safetensors"}
    said = Said()
    finetune.run(FinetuneConfig(model="plain.py", **(options | values)), said)
    return said


def evaluated(checkpoint: str, **values: Any) -> list[str]:
    said = Said()
    evaluate.run(EvaluateConfig(model="plain.py", checkpoint=checkpoint, device="cpu", **values), said)
    return said


def recorded(path: str) -> Normalisation | None:
    return read_checkpoint(Path(path)).normalisation


def foreign(path: str = "foreign.safetensors") -> str:
    """Weights as anybody saves them."""
    pruned("own.safetensors", sparsity=0)
    save_file(load_file("own.safetensors"), path)
    return path


def test_random_weights_take_the_datas_statistics() -> None:
    assert pruned() == [DIGITS]
    with np.load(Path(prune.__file__).parent.parent / "resources" / "digits.npz") as archive:
        chosen = torch.randperm(1438, generator=torch.Generator().manual_seed(0))[:200]
        values = np.rint(archive["x_train"][chosen.numpy()] * (255 / 16)) / 255
    found = recorded("sparse.safetensors")
    assert found is not None
    assert found.by is not None
    assert (*found.by.mean, *found.by.std) == pytest.approx((values.mean(), values.std()), abs=1e-6)
    assert f"mean {values.mean():.4g}, deviation {values.std():.4g} (" in DIGITS


def test_the_models_file_may_name_them() -> None:
    head = "\nMEAN, STD = 0.25, 2\n"
    line = "inputs: normalised by mean 0.25, deviation 2 (MEAN and STD in plain.py)"
    assert pruned(head=head) == [line]
    assert pruned(head=head, weights=foreign(), output="other.safetensors") == [line]
    assert recorded("other.safetensors") == Normalisation(NAMED.by, "MEAN and STD in plain.py")


def test_options_go_first() -> None:
    line = "inputs: normalised by mean 0.25, deviation 2 (--mean and --std)"
    assert pruned(head="\nMEAN, STD = 1, 3\n", mean="0.25", std="2") == [line]
    assert pruned(weights=foreign(), mean="0.25", std="2") == [line]
    assert recorded("sparse.safetensors") == NAMED


def test_weights_from_elsewhere_take_inputs_as_they_are_from_command_to_command() -> None:
    line = (
        f"inputs: as they are ({ELSEWHERE}); if they were trained with one, give --mean and --std, or write MEAN and"
        " STD in model.py"
    )
    assert pruned(weights=foreign()) == [line]
    assert tuned() == [line]
    assert evaluated("tuned.safetensors") == [line]
    assert evaluated("foreign.safetensors") == [line]
    for path in ("sparse.safetensors", "tuned.safetensors"):
        assert recorded(path) == Normalisation(None, ELSEWHERE)


def test_weights_from_elsewhere_whose_publisher_names_them() -> None:
    Path("hub").mkdir()
    weights = foreign("hub/model.safetensors")
    Path("hub/config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.25], "std": [2.0]}}))
    assert pruned(weights=weights) == ["inputs: normalised by mean 0.25, deviation 2 (config.json beside the weights)"]
    pruned("hub/own.safetensors")
    assert pruned(weights="hub/own.safetensors") == [DIGITS]  # ntt's own record goes before it


TWO_TOWERS = """
import torch
from torch import nn
def build_model():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 8), nn.Linear(4, 8)
        def forward(self, image, other):
            return self.a(image.flatten(1)) + self.b(other.float().flatten(1))
    return Net()
"""


def test_published_numbers_are_for_images_alone() -> None:
    Path("hub").mkdir()
    Path("hub/config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5], "std": [0.25]}}))
    Path("two.py").write_text(TWO_TOWERS)
    image, vector = np.random.default_rng(0).random((8, 1, 8, 8), np.float32), np.ones((8, 4), np.float32)
    np.savez("images.npz", image=image, other=vector)
    np.savez("vectors.npz", image=image[:, 0, 0], other=vector)
    options = {"model": "two.py", "method": "magnitude", "device": "cpu", "sparsity": 0.5}
    run = lambda **values: prune.run(PruneConfig(**(options | values)), heard.append)  # noqa: E731
    heard: list[Event] = []
    run(data="images.npz", output="hub/a.safetensors", seed=0)
    save_file(load_file("hub/a.safetensors"), "hub/model.safetensors")
    heard.clear()
    run(data="images.npz", weights="hub/model.safetensors", output="b.safetensors")
    expected = "several, and config.json beside the weights is for images alone: they are as they are; normalise image"
    assert heard.count(Warned(f"inputs: {expected} where the data are made")) == 1
    assert recorded("b.safetensors") is None


def test_published_numbers_are_not_for_vectors() -> None:
    Path("hub").mkdir()
    Path("hub/config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}))
    weights = foreign("hub/model.safetensors")
    np.savez("vectors.npz", x=np.random.default_rng(0).random((8, 64), np.float32))
    assert pruned(weights=weights, data="vectors.npz", limit=None) == [
        "inputs: as they are (config.json beside the weights is for images)"
    ]
    assert recorded("sparse.safetensors") == Normalisation(None, "config.json beside the weights is for images")


@pytest.mark.parametrize(
    ("configuration", "line"),
    [
        ("{'mean': (0.25,), 'std': (2.0,)}", "inputs: normalised by mean 0.25, deviation 2 (its pretrained_cfg)"),
        ("{}", f"inputs: as they are ({ELSEWHERE})"),
    ],
)
def test_a_factory_that_brings_trained_weights(configuration: str, line: str) -> None:
    head = f"\ndef build_model():\n    net = Net()\n    net.pretrained_cfg = {configuration}\n    return net\n"
    assert pruned(head=head) == [DIGITS]  # random weights of an architecture that has trained ones
    (said,) = pruned(head=f"{head}\nTRAINED = True\n")
    assert said.startswith(line)


def test_what_a_checkpoint_records_is_used_by_later_commands() -> None:
    line = "inputs: normalised by mean 0.25, deviation 2 (--mean and --std)"
    pruned(mean="0.25", std="2")
    assert tuned() == [line]
    assert evaluated("tuned.safetensors") == [line]
    assert pruned("again.safetensors", weights="tuned.safetensors", data="noise:8", input_shape="1x8x8") == [
        "inputs: noise:8 as it is; those of later commands normalised by mean 0.25, deviation 2 (--mean and --std)"
    ]
    assert recorded("again.safetensors") == recorded("tuned.safetensors") == NAMED


def test_a_record_that_differs_from_the_options_is_named() -> None:
    pruned()
    warning, line = tuned(mean="0.25", std="2")
    was = DIGITS.removeprefix("inputs: ").partition(" (")[0]
    assert warning == (
        f"warning: sparse.safetensors was made with inputs {was}; from now on they are normalised by mean 0.25,"
        " deviation 2 (--mean and --std)"
    )
    assert line == "inputs: normalised by mean 0.25, deviation 2 (--mean and --std)"
    assert recorded("tuned.safetensors") == NAMED
    assert evaluated("tuned.safetensors", mean="0.25", std="2") == [line]


def test_a_record_goes_before_the_models_file_with_a_warning() -> None:
    pruned()
    with Path("plain.py").open("a") as file:
        file.write("\nMEAN, STD = 0.25, 2\n")
    warning, line = tuned()
    assert line == DIGITS
    assert "which stays so; MEAN and STD in plain.py say normalised by mean 0.25, deviation 2" in warning


def test_noise_says_nothing_of_the_images_that_come_after_it() -> None:
    assert pruned(data="noise:500", input_shape="1x8x8") == ["inputs: noise:500 as it is"]
    assert recorded("sparse.safetensors") is None
    assert tuned() == [DIGITS]


def test_without_inputs_what_is_known_is_handed_on() -> None:
    line = "inputs: normalised by mean 0.25, deviation 2 (--mean and --std)"
    head, limit = "\nDATA = None\n", None
    assert pruned(head=head, limit=limit) == []
    assert recorded("sparse.safetensors") is None
    assert pruned(head=head, limit=limit, mean="0.25", std="2") == [line]
    assert recorded("sparse.safetensors") == NAMED
    (said,) = pruned(head=head, limit=limit, weights=foreign())
    assert said.startswith(f"inputs: as they are ({ELSEWHERE})")
    assert recorded("sparse.safetensors") == Normalisation(None, ELSEWHERE)


def refusal(error: type[NttError], **values: Any) -> NttError:
    with pytest.raises(error) as caught:
        evaluated("sparse.safetensors", **values)
    assert caught.value.exit_code == 2
    return caught.value


def test_options_that_do_nothing_are_refused() -> None:
    pruned()
    options = {"mean": "0.25", "std": "2"}
    error = refusal(UsageError, data="noise:8", input_shape="1x8x8", teacher="sparse.safetensors", **options)
    assert str(error) == "--mean: does nothing to noise:8"
    np.savez("tokens.npz", x=np.ones((4, 1, 8, 8), np.int64), y=np.zeros(4, np.int64))
    error = refusal(DataError, data="tokens.npz", **options)
    assert "no mean can be subtracted" in str(error)

"""Every command on the architectures that people use: torchvision's own code at a small size, and sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntt_cli.config import EvaluateConfig, FinetuneConfig, PruneConfig
from ntt_cli.errors import DataError, ModelError
from ntt_cli.evaluation import evaluate
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.pruning import prune
from ntt_cli.training import finetune

MODELS = '''
import torch
from torch import nn
from torchvision.models import ConvNeXt, MobileNetV2, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import Bottleneck
from torchvision.models.vgg import VGG, make_layers

def resnet():
    network = ResNet(Bottleneck, [1, 1, 1, 1])
    network.layer3 = network.layer4 = nn.Identity()
    network.fc = nn.Linear(512, 4)
    return network

def vgg_bn():
    network = VGG(make_layers([8, "M", 16, "M"], batch_norm=True), num_classes=4, init_weights=False)
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 4)
    return network

def mobilenet():
    return MobileNetV2(num_classes=4, inverted_residual_setting=[[2, 8, 1, 2], [4, 16, 2, 2]], dropout=0.1)

def vit():
    return VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, dropout=0.1, num_classes=4
    )

def convnext():
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.1, num_classes=4)

class Decoder(nn.Module):
    """Tied embeddings, a causal mask, and a row of logits for each position, in a dict as transformers returns them."""

    def __init__(self, layers=2):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.position = nn.Parameter(0.02 * torch.randn(6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden = self.layers(self.embedding(tokens) + self.position, mask=mask, is_causal=True)
        return {"hidden": hidden, "logits": self.head(hidden)}

class Recurrent(nn.Module):
    def __init__(self, kind, layers=2):
        super().__init__()
        deep = layers > 1
        self.recurrent = getattr(nn, kind)(5, 8, layers, dropout=0.1 * deep, bidirectional=deep, batch_first=True)
        self.head = nn.Linear(16 if deep else 8, 4)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])

def lstm(layers=2):
    return Recurrent("LSTM", layers)

def gru():
    return Recurrent("GRU")

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.kind, self.place = nn.Linear(30, 16), nn.Linear(16, 4), nn.Linear(16, 3)

    def forward(self, x):
        hidden = torch.relu(self.body(x.flatten(1)))
        return {"kind": self.kind(hidden), "place": self.place(hidden).detach()}

def heads():
    return Heads()
'''

PICKING = """
def logits(outputs):
    return outputs["kind"]
"""

IMAGES, TOKENS, SEQUENCES = "images.npz", "tokens.npz", "sequences.npz"
ZOO = [
    ("resnet", IMAGES),
    ("vgg_bn", IMAGES),
    ("mobilenet", IMAGES),
    ("vit", IMAGES),
    ("convnext", IMAGES),
    ("Decoder", TOKENS),
    ("lstm", SEQUENCES),
    ("gru", SEQUENCES),
    ("heads", SEQUENCES),
]


@pytest.fixture(autouse=True)
def _files(folder: Path) -> None:
    random = np.random.default_rng(0)
    Path("zoo.py").write_text(MODELS)
    Path("picking.py").write_text(MODELS + PICKING)
    tokens = random.integers(0, 11, (24, 7))
    following = tokens[:, 1:].copy()
    following[:, 0] = -100
    np.savez(TOKENS, x=tokens[:, :-1], y=following)
    labels = random.integers(0, 4, 24)
    np.savez(IMAGES, x=random.standard_normal((24, 3, 32, 32), dtype=np.float32), y=labels)
    np.savez(SEQUENCES, x=random.standard_normal((24, 6, 5), dtype=np.float32), y=labels)


def settings(name: str, data: str, **more: Any) -> dict[str, Any]:
    logits = "kind" if name == "heads" else None
    return {"model": f"zoo.py:{name}", "data": data, "logits": logits, "device": "cpu", "batch_size": 8} | more


def unused(name: str) -> tuple[str, ...]:
    return ("place*",) if name == "heads" else ()


@pytest.mark.parametrize(("name", "data"), ZOO)
def test_prune_finetune_evaluate(name: str, data: str) -> None:
    pruned = prune.run(
        PruneConfig(**settings(name, data, sparsity=0.6, steps=3, mask_update_every=1, exclude=unused(name))),
        lambda _: None,
    )
    assert pruned.kept == round(0.4 * pruned.prunable)
    assert pruned.agreement is not None
    assert pruned.kernels is not None
    assert pruned.kernels.of_outputs == (66 if name == "Decoder" else 4)
    tuned = finetune.run(
        FinetuneConfig(**settings(name, data, checkpoint=pruned.output, epochs=1, validation=0.25)), lambda _: None
    )
    checkpoint = read_checkpoint(Path(tuned.output))
    for weight, mask in checkpoint.masks.items():
        assert (checkpoint.tensors[weight][~mask] == 0).all()
    result = evaluate.run(
        EvaluateConfig(**settings(name, data, checkpoint=tuned.output, teacher=pruned.output)), lambda _: None
    )
    assert result.agreement is not None
    assert result.accuracy is not None
    assert 0 < result.flops_sparse < result.flops_dense


TRACED = [("vgg_bn", IMAGES, ()), ("Decoder", TOKENS, ("layers=1",)), ("lstm", SEQUENCES, ("layers=1",))]
"""A kind of layer each, and few of them: tracing takes seconds for each layer."""


@pytest.mark.parametrize(("name", "data", "arguments"), TRACED)
def test_steps_are_traced_as_they_are_taken(
    name: str, data: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--compile` compiles, run as it is."""
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)
    found = []
    for compiled in (False, True):
        config = settings(name, data, sparsity=0.6, steps=3, compile=compiled, model_arg=arguments)
        pruned = prune.run(PruneConfig(**config, output=f"{compiled}.safetensors"), lambda _: None)
        found.append(read_checkpoint(Path(pruned.output)).tensors)
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-3, atol=1e-4)


def test_positions_without_a_label_count_for_nothing() -> None:
    model = settings("Decoder", TOKENS)
    tuned = finetune.run(FinetuneConfig(**model, epochs=1, validation=0.0, seed=1), lambda _: None)
    result = evaluate.run(EvaluateConfig(**model, checkpoint=tuned.output), lambda _: None)
    scope: dict[str, Any] = {}
    exec(MODELS, scope)  # noqa: S102  # the model's own code
    network = scope["Decoder"]().eval()
    network.load_state_dict(read_checkpoint(Path(tuned.output)).tensors)
    data = np.load(TOKENS)
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    with torch.no_grad():
        logits = network(x)["logits"][:, 1:].reshape(-1, 11)
    labels = y[:, 1:].reshape(-1)
    assert result.accuracy is not None
    assert result.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def test_a_function_of_the_model_file_picks_the_logits() -> None:
    for model, logits in (("picking.py:heads", None), ("zoo.py:heads", "kind")):
        config = settings("", SEQUENCES, model=model, logits=logits, sparsity=0.5, steps=2, exclude=("place*",))
        prune.run(PruneConfig(**config, output=f"{logits}.safetensors"), lambda _: None)
    first, second = (read_checkpoint(Path(f"{logits}.safetensors")).tensors for logits in (None, "kind"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            {"logits": "sort"},
            "zoo.py:heads: has no output sort; it returns a dict of kind, place",
            "name outputs or layers with --outputs, or define logits(outputs) in model.py to pick one",
        ),
        ({"model": "broken.py:heads", "logits": None}, "logits(outputs) raised KeyError: 'sort'", "mend that function"),
        (
            {"model": "value.py:heads", "logits": None},
            "value.py: logits is of type int, not a function",
            "define logits",
        ),
    ],
)
def test_logits_that_cannot_be_picked(change: dict[str, Any], message: str, hint: str) -> None:
    Path("broken.py").write_text(MODELS + PICKING.replace("kind", "sort"))
    Path("value.py").write_text(MODELS + "\nlogits = 3\n")
    with pytest.raises(ModelError) as caught:
        prune.run(PruneConfig(**settings("heads", SEQUENCES, sparsity=0.5) | change), lambda _: None)
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "data", "y", "message"),
    [
        ("Decoder", TOKENS, np.zeros(24, int), "has labels of shape [24] for logits of shape [24, 6, 11]"),
        ("lstm", SEQUENCES, np.full((24, 3), 2), "has labels of shape [24, 3] for logits of shape [24, 4]"),
        ("Decoder", TOKENS, np.full((24, 6), -100), "has no label but -100, which counts for nothing"),
        ("Decoder", TOKENS, np.full((24, 6), 11), "label 11 of sample 0 is out of range: the model has 11 outputs"),
        ("Decoder", TOKENS, np.full((24, 6), -1), "the label of sample 0 is -1"),
        ("lstm", SEQUENCES, np.full(24, -100), "the label of sample 0 is -100"),
    ],
)
def test_labels_that_do_not_fit_the_rows(name: str, data: str, y: np.ndarray[Any, Any], message: str) -> None:
    np.savez(data, x=np.load(data)["x"], y=y)
    with pytest.raises(DataError) as caught:
        finetune.run(FinetuneConfig(**settings(name, data)), lambda _: None)
    assert message in str(caught.value)

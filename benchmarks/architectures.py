"""Small networks of timm and transformers, one a family, through prune, evaluate and (with labels) finetune.

    python benchmarks/architectures.py [--only PATTERN] [--kernel]

Configurations are tiny and weights random: it shows what works, not how well. One line a network; a failure is named by
its error. Needs timm and transformers. Exit code 1 if a network failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import ntt_cli as ntt

SAMPLES = 8

TIMM: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_vit": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_mambaout": {},
    "test_byobnet": {},
    "test_nfnet": {},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)},
    "mnasnet_small": {},
    "efficientvit_b0": {},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "cait_xxs24_224": {"img_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "mobilenetv3_small_050": {},
    "mobilevit_xxs": {},
    "regnetx_002": {},
    "ghostnet_050": {},
    "lcnet_035": {},
    "tinynet_e": {},
    "edgenext_xx_small": {},
    "poolformerv2_s12": {},
}
"""By name, with arguments that make them small."""

WORDS = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PICTURES = {"image_size": 32, "patch_size": 8}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertModel": ("BertConfig", WORDS),
    "BertForSequenceClassification": ("BertConfig", WORDS | {"num_labels": 4}),
    "ElectraModel": ("ElectraConfig", WORDS | {"embedding_size": 16}),
    "DistilBertModel": (
        "DistilBertConfig",
        {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "LlamaForCausalLM": ("LlamaConfig", WORDS),
    "T5EncoderModel": (
        "T5Config",
        {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    ),
    "ViTForImageClassification": ("ViTConfig", WORDS | PICTURES | {"num_labels": 4}),
    "SwinModel": (
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    ),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": 4},
    ),
}
"""The configuration of each class; outputs are logits, or one or two embeddings."""


def from_timm(name: str, options: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    timm = import_module("timm")
    size = options.get("img_size", 64)
    return timm.create_model(name, num_classes=4, **options), torch.rand(SAMPLES, 3, size, size)


def from_transformers(name: str, kind: str, options: dict[str, Any]) -> tuple[nn.Module, Tensor]:
    transformers = import_module("transformers")
    network = getattr(transformers, name)(getattr(transformers, kind)(**options))
    tokens = torch.randint(1, 50, (SAMPLES, 12))
    return network, tokens if "vocab_size" in options and "image_size" not in options else torch.rand(
        SAMPLES, 3, 32, 32
    )


def tried(build: Callable[[], tuple[nn.Module, Tensor]], **options: Any) -> str:
    """What became of a network, in words."""
    torch.manual_seed(0)
    network, x = build()
    network = network.eval()
    noted: list[str] = []
    result = ntt.prune(
        network,
        x,
        sparsity=0.5,
        steps=2,
        batch_size=4,
        progress=lambda event: noted.append(getattr(event, "message", "")),
        **options,
    )
    agreement = ntt.evaluate(result, x, teacher=network).agreement
    assert agreement is not None
    words = [f"{result.report.kept:,} of {result.report.prunable:,} kept", f"distance {agreement.logit_distance:.3f}"]
    words += [note for note in noted if note.startswith("outputs: ")]
    outputs = network(x)
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if logits is not None:
        labels = torch.randint(0, logits.shape[-1], logits.shape[:-1])
        tuned = ntt.finetune(result, (x, labels), epochs=1, batch_size=4, validation=0.0)
        words.append(f"fine-tuned, loss {tuned.report.epochs[-1].train_loss:.3f}")
    return "; ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--kernel", action="store_true", help="match the kernel too, which takes longer")
    given = parser.parse_args()
    cases: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
        f"timm:{name}": partial(from_timm, name, options) for name, options in TIMM.items()
    }
    cases |= {f"transformers:{name}": partial(from_transformers, name, *rest) for name, rest in TRANSFORMERS.items()}
    failed = 0
    warnings.simplefilter("ignore")
    for name, build in cases.items():
        if not fnmatchcase(name, given.only):
            continue
        begun = time.monotonic()
        try:
            what = tried(build, trained=not given.kernel)
        except Exception as error:  # every failure is a result here
            failed += 1
            reason = str(error).splitlines()
            what = f"FAILED: {type(error).__name__}: {reason[0] if reason else ''}"
        sys.stdout.write(f"{name}: {what} ({time.monotonic() - begun:.0f} s)\n")
        sys.stdout.flush()
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

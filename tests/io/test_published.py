from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ntt_cli.core.standardise import Standardisation
from ntt_cli.io.published import configured_standardisation, published_standardisation

TIMM = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}}
TRANSFORMERS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.json", TIMM, Standardisation((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))),
        ("config.json", {"architecture": "x", "mean": [0.5], "std": [1]}, Standardisation((0.5,), (1.0,))),
        ("preprocessor_config.json", TRANSFORMERS, Standardisation((0.5,) * 3, (0.5,) * 3)),
        ("preprocessor_config.json", TRANSFORMERS | {"do_normalize": False}, None),
        ("preprocessor_config.json", TRANSFORMERS | {"do_rescale": False}, None),
        ("config.json", {"mean": 0.5, "std": 0.5}, None),
        ("config.json", {"mean": [0.5], "std": [0]}, None),
        ("config.json", {"mean": ["0.5"], "std": [True]}, None),
        ("config.json", {"pretrained_cfg": None}, None),
        ("config.json", [TIMM], None),
        ("other.json", TIMM, None),
    ],
)
def test_a_hubs_folder(tmp_path: Path, name: str, content: Any, expected: Standardisation | None) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    found = published_standardisation(tmp_path / "model.safetensors")
    assert found == (None if expected is None else (expected, name))
    assert published_standardisation(tmp_path) == found


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"mean": [1e999], "std": [1]}', b"[" * 100_000])
def test_what_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert published_standardisation(tmp_path / "model.safetensors") is None


def test_a_networks_own_configuration() -> None:
    assert configured_standardisation(TIMM["pretrained_cfg"]) == Standardisation((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert configured_standardisation({"mean": (0.5,), "std": (0.25,)}) == Standardisation((0.5,), (0.25,))
    assert configured_standardisation({}) is None
    assert configured_standardisation(None) is None

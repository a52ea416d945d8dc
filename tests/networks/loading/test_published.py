from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ntt_cli.data.normalise import normalise
from ntt_cli.files.metadata import MeanStd
from ntt_cli.networks.loading.published import configured_mean_std, published_mean_std

TIMM = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}}
TRANSFORMERS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OPEN_CLIP = {"model_cfg": {}, "preprocess_cfg": {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27]}}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.json", TIMM, MeanStd((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))),
        ("config.json", {"architecture": "x", "mean": [0.5], "std": [1]}, MeanStd((0.5,), (1.0,))),
        ("preprocessor_config.json", TRANSFORMERS, MeanStd((0.5,) * 3, (0.5,) * 3)),
        ("preprocessor_config.json", TRANSFORMERS | {"do_normalize": False}, None),
        ("preprocessor_config.json", TRANSFORMERS | {"do_rescale": False}, None),
        ("preprocessor_config.json", {"image_mean": 0.5, "image_std": 0.25}, MeanStd((0.5,), (0.25,))),
        ("preprocessor_config.json", TRANSFORMERS | {"image_std": 0.25}, MeanStd((0.5,) * 3, (0.25,) * 3)),
        ("preprocessor_config.json", TRANSFORMERS | {"image_mean": True}, None),
        ("preprocessor_config.json", TRANSFORMERS | {"image_mean": []}, None),
        ("preprocessor_config.json", TRANSFORMERS | {"rescale_factor": 0}, None),
        ("preprocessor_config.json", TRANSFORMERS | {"rescale_factor": "1/255"}, None),
        ("preprocessor_config.json", TRANSFORMERS | {"rescale_factor": 10**400}, None),
        ("preprocessor_config.json", TRANSFORMERS | {"rescale_factor": 1e-320}, None),
        ("open_clip_config.json", OPEN_CLIP, MeanStd((0.48, 0.45, 0.4), (0.26, 0.26, 0.27))),
        ("open_clip_config.json", {"mean": [0.5], "std": [0.5]}, None),
        ("config.json", {"mean": 0.5, "std": 0.5}, None),
        ("config.json", {"mean": [0.5], "std": [0]}, None),
        ("config.json", {"mean": ["0.5"], "std": [True]}, None),
        ("config.json", {"pretrained_cfg": None}, None),
        ("config.json", [TIMM], None),
        ("other.json", TIMM, None),
    ],
)
def test_a_hubs_folder(tmp_path: Path, name: str, content: Any, expected: MeanStd | None) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    found = published_mean_std(tmp_path / "model.safetensors")
    assert found == (None if expected is None else (expected, name))
    assert published_mean_std(tmp_path) == found


def as_transformers_does(pixels: Tensor, configuration: dict[str, Any]) -> Tensor:
    """Rescale, then normalise pixels in 0..255, as the image processors of transformers do."""
    y = pixels * configuration.get("rescale_factor", 1 / 255)
    if configuration.get("rescale_offset"):
        y = y - 1
    if not configuration.get("do_normalize", True):
        return y
    mean, std = (torch.tensor(configuration[name], dtype=torch.float64) for name in ("image_mean", "image_std"))
    return (y - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


@pytest.mark.parametrize("offset", [{}, {"rescale_offset": False}, {"rescale_offset": True}])
@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5, 0.00784313, 1.0, 0.5])
@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("numbers", [([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (0.5, 0.25), ([0.0], [1])])
def test_what_transformers_does_to_pixels(
    tmp_path: Path, offset: dict[str, bool], factor: float, do_normalize: bool, numbers: tuple[Any, Any]
) -> None:
    configuration = {"image_mean": numbers[0], "image_std": numbers[1], "do_normalize": do_normalize}
    configuration |= {"rescale_factor": factor, **offset}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(configuration))
    found = published_mean_std(tmp_path)
    assert found is not None
    pixels = torch.arange(256.0, dtype=torch.float64).view(1, 16, 16).expand(3, 16, 16)
    expected = as_transformers_does(pixels, configuration)
    torch.testing.assert_close(normalise(pixels[None] / 255, found[0])[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"mean": [1e999], "std": [1]}', b"[" * 100_000])
def test_what_is_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert published_mean_std(tmp_path / "model.safetensors") is None


def test_a_networks_own_configuration() -> None:
    assert configured_mean_std(TIMM["pretrained_cfg"]) == MeanStd((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert configured_mean_std({"mean": (0.5,), "std": (0.25,)}) == MeanStd((0.5,), (0.25,))
    assert configured_mean_std({}) is None
    assert configured_mean_std(None) is None

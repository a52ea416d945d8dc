"""Sounds that need no recordings, for `pretrained_networks.py`: tones whose pitch is known, and voices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATE = 16_000
"""Samples a second."""
VOWELS = torch.tensor([
    [730, 1090, 2440, 3400],
    [270, 2290, 3010, 3700],
    [530, 1840, 2480, 3500],
    [300, 870, 2240, 3300],
])
"""Formants of a, i, e and u in Hz. Peterson & Barney 1952, but the fourth."""


def uniform(low: float, high: float, *shape: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def tones(count: int, *, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Harmonic tones with vibrato in noise, `[count, samples]`, and their pitch at the middle in Hz, `[count]`.

    Pitches are 65 to 1,000 Hz; vibrato is up to 40 cents at 4 to 7 Hz; the noise is 20 dB below the tone to 6 above it.
    """
    pitch = 65 * (1000 / 65) ** torch.rand(count, 1, generator=generator)
    speed = uniform(4, 7, count, 1, generator=generator)
    depth = uniform(0, 40, count, 1, generator=generator)
    start = uniform(0, 2 * math.pi, count, 1, generator=generator)
    seconds = torch.arange(samples) / RATE
    frequency = pitch * 2 ** (depth / 1200 * torch.sin(start + 2 * math.pi * speed * seconds))
    phase = 2 * math.pi / RATE * frequency.cumsum(1)
    decay = uniform(0.5, 2, count, 1, generator=generator)
    tone = torch.zeros(count, samples)
    for harmonic in range(1, 21):
        shift = uniform(0, 2 * math.pi, count, 1, generator=generator)
        audible = harmonic * frequency < RATE / 2
        tone += audible * harmonic**-decay * torch.sin(harmonic * phase + shift)
    tone /= tone.std(1, keepdim=True)
    noise = 10 ** (-uniform(-6, 20, count, 1, generator=generator) / 20)
    return tone + noise * torch.randn(count, samples, generator=generator), frequency[:, samples // 2]


def voice(*, samples: int, generator: torch.Generator) -> Tensor:
    """One speaker saying vowels, `[samples]`: harmonics of a moving pitch, filtered by formants that move too."""
    knots = 2 + samples * 4 // RATE  # about four vowels a second
    base, tract = 80 * 3 ** torch.rand(1, generator=generator), uniform(0.85, 1.2, 1, generator=generator)
    pitch = base * (1 + 0.1 * smooth(torch.randn(knots, 1, generator=generator), samples))  # [samples, 1]
    vowels = VOWELS[torch.randint(len(VOWELS), (knots,), generator=generator)]
    formants = smooth(tract * vowels, samples)  # [samples, 4]
    loudness = smooth(uniform(0.1, 1, knots, 1, generator=generator), samples)
    width, tilt = uniform(60, 140, 4, generator=generator), uniform(0.6, 1.4, 1, generator=generator)
    phase = 2 * math.pi / RATE * pitch.cumsum(0)
    sound = torch.zeros(samples)
    for harmonic in range(1, int(0.4 * RATE / base) + 1):
        frequency = harmonic * pitch
        resonance = (1 / (1 + ((frequency - formants) / width) ** 2)).sum(1)
        sound += harmonic**-tilt * resonance * torch.sin(harmonic * phase).squeeze(1)
    sound *= loudness.squeeze(1)
    breath = uniform(0.005, 0.05, 1, generator=generator) * torch.randn(samples, generator=generator)
    return 0.1 * (sound / sound.std() + breath)


def smooth(knots: Tensor, samples: int) -> Tensor:
    """From `[knots, d]` to `[samples, d]`, along straight lines."""
    lines = torch.nn.functional.interpolate(knots.T[None].float(), size=samples, mode="linear", align_corners=True)
    return lines[0].T

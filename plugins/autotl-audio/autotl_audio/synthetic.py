"""Synthetic recordings of eight classes: ``python -m autotl_audio.synthetic FOLDER``.

Sweeps, rhythms and timbres at random pitches and speeds, in noise as loud as they are or half as
loud. They only show that a search works; they say nothing about real recordings.

Shapes: N samples.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 22_050
Samples = NDArray[np.float64]

SWEEPS = {"rising": 1.0, "falling": -1.0, "steady": 0.0}
"""The octaves that a sweep rises."""

RHYTHMS = {"even": (0.0, 0.25, 0.5, 0.75), "swing": (0.0, 0.34, 0.5, 0.84)}
"""When the beats of a rhythm begin, as fractions of a bar."""

TIMBRES = {"saw": (1, 2, 3, 4, 5, 6), "square": (1, 3, 5, 7, 9), "bell": (1.0, 2.76, 5.4, 8.93)}
"""The frequencies of a timbre, in multiples of the lowest."""

CLASSES = (*SWEEPS, *RHYTHMS, *TIMBRES)


def make_sound(label: str, random: np.random.Generator) -> Samples:
    """Make a recording ``[N]`` of a class, from 0.8 to 1.2 seconds."""
    time = np.arange(round(RATE * random.uniform(0.8, 1.2))) / RATE
    pitch = random.uniform(250, 700)
    if label in SWEEPS:
        phase = np.cumsum(pitch * 2 ** (SWEEPS[label] * time / time[-1])) / RATE
        tone = np.sin(2 * np.pi * phase)
    elif label in RHYTHMS:
        bar = random.uniform(0.45, 0.6)
        since = [(time - random.uniform(0, 0.01) - bar * beat) % bar for beat in RHYTHMS[label]]
        envelope = sum(np.exp(-beat / 0.02) for beat in since)
        tone = envelope * random.normal(0, 1, len(time))
    else:
        partials = [
            np.sin(2 * np.pi * (pitch * multiple * time + random.uniform())) / multiple
            for multiple in TIMBRES[label]
        ]
        tone = np.sum(partials, 0)
    noise = random.normal(0, 1, len(time)) * random.uniform(0.5, 1)
    return np.asarray(0.2 * (tone / tone.std() + noise)).clip(-1, 1)


def write_sounds(folder: Path, count: int, seed: int = 0, classes: Sequence[str] = CLASSES) -> None:
    """Write ``count`` recordings of each class into class folders, in three formats."""
    random = np.random.default_rng(seed)
    for label in classes:
        (folder / label).mkdir(parents=True)
        for i in range(count):
            file = folder / label / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}"
            soundfile.write(file, make_sound(label, random), RATE)


if __name__ == "__main__":
    write_sounds(Path(sys.argv[1]), 40)

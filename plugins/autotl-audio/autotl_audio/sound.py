"""Recordings as a kind of input: their spectrograms are images, all of one duration.

Shapes: N samples, M mel bands, T frames.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from autotl import InputKind, ModelInput, Preview, image_files
from autotl_audio.spectrogram import (
    RATE,
    Samples,
    log_mel,
    read_duration,
    read_samples,
    select_loudest,
)

SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus"),
    *(".aif", ".aiff", ".au", ".caf", ".w64"),
)
"""The suffixes of the sound files that are read."""

QUANTILE, SHORTEST, LONGEST = 0.9, 0.25, 10.0
"""The spectrograms are as long as this fraction of the recordings is at most, within these limits
in seconds."""

MEASURED = 1000
"""Number of recordings whose duration is looked at."""

PREVIEW_SECONDS = 3.0
"""The loudest part that a report plays."""


@dataclass(frozen=True)
class Clip:
    """A recording of which a given duration is used.

    Args:
        file: The sound file.
        seconds: The duration; the loudest part is used, and shorter recordings end in silence.
    """

    file: Path
    seconds: float


class Sound(InputKind):
    """Recordings: files, clips, or arrays of samples ``float [N]`` from -1 to 1 at 16 kHz."""

    name, noun, nouns, unit, becomes = "sound", "recording", "recordings", "px", "image"
    suffixes = SUFFIXES

    def content(self, item: Any) -> bytes:
        """The bytes of the file, or of the samples."""
        if isinstance(item, np.ndarray):
            return np.asarray(item, np.float32).tobytes()
        return _file_of(item).read_bytes()

    def find_file(self, item: Any) -> Path | None:
        """The file of a recording; arrays have none."""
        return None if isinstance(item, np.ndarray) else _file_of(item)

    def convert(self, item: Any) -> NDArray[np.uint8]:
        """The spectrogram ``uint8 [M, T]`` of at most ``LONGEST`` seconds."""
        samples = _samples_of(item)
        return log_mel(select_loudest(samples, min(LONGEST, len(samples) / RATE)))

    def measure(self, items: Sequence[Any]) -> Mapping[str, tuple[float, float]]:
        """The duration of the spectrograms, in seconds: given by clips, or that of most items."""
        given = [item.seconds for item in items if isinstance(item, Clip)]
        if given:
            return {"seconds": (0.0, float(max(given)))}
        chosen = np.linspace(0, len(items) - 1, min(MEASURED, len(items))).astype(int)
        seconds = np.quantile([_duration_of(items[i]) for i in chosen], QUANTILE)
        return {"seconds": (0.0, round(float(np.clip(seconds, SHORTEST, LONGEST)), 2))}

    def encode(self, item: Any, expects: ModelInput, scales: Mapping[str, Any]) -> Any:
        """The spectrogram of the duration that ``measure`` chose, as an image for a backbone."""
        if "seconds" not in scales:
            return expects.encode(self.convert(item))
        return expects.encode(log_mel(select_loudest(_samples_of(item), scales["seconds"][1])))

    def show(self, item: Any, scales: Mapping[str, Any]) -> Preview:
        """The loudest seconds, as a WAV of 16 bits at 16 kHz."""
        samples, file = _samples_of(item), io.BytesIO()
        part = select_loudest(samples, min(PREVIEW_SECONDS, len(samples) / RATE))
        soundfile.write(file, part, RATE, "PCM_16", format="WAV")
        return Preview("audio/wav", file.getvalue())

    def toy_item(self, label: int, random: np.random.Generator) -> Samples:
        """Half a second of a tone of its class's pitch, or rising from it, in noise."""
        return _make_tone(200 * 1.35 ** (label % 12), label % 2, random)


sound = Sound()


def list_sounds(listing: image_files.Listing) -> list[Path]:
    """The sound files of a listing, sorted."""
    return [path for path in listing.others if is_sound(path)]


def is_sound(path: Path) -> bool:
    """Whether a file is a sound file by its suffix."""
    return path.suffix.lower() in SUFFIXES


def _file_of(item: Any) -> Path:
    return item.file if isinstance(item, Clip) else Path(item)


def _samples_of(item: Any) -> Samples:
    if not isinstance(item, np.ndarray):
        return read_samples(_file_of(item))
    if item.ndim != 1 or not len(item) or not np.isfinite(item).all():
        raise ValueError(
            f"an array {item.dtype} {list(item.shape)} is no recording: expected finite samples "
            f"[N] from -1 to 1 at {RATE} Hz"
        )
    return item.astype(np.float32)


def _duration_of(item: Any) -> float:
    if isinstance(item, np.ndarray):
        return len(item) / RATE
    return read_duration(_file_of(item))


def _make_tone(pitch: float, rise: int, random: np.random.Generator) -> Samples:
    time = np.arange(RATE // 2) / RATE
    pitch *= random.uniform(0.97, 1.03)
    tone = np.sin(2 * np.pi * (pitch * time * (1 + rise * time) + random.uniform()))
    noise = random.normal(0, 0.02, len(time))
    return (random.uniform(0.3, 0.8) * tone + noise).astype(np.float32)

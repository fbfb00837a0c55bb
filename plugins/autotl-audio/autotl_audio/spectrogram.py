"""Read sound files, and turn samples into log-mel spectrograms.

Shapes: N samples, M mel bands, T frames.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000
"""Samples a second of all recordings, after resampling."""

MAX_SECONDS = 60.0
"""What is read of a recording; the rest is ignored."""

WINDOW, HOP = 1024, 160
"""Length of the windows (64 ms), and from one to the next (10 ms), in samples."""

BANDS, LOWEST, HIGHEST = 128, 20.0, RATE / 2
"""Number of mel bands, and the range of frequencies in Hz that they cover."""

RANGE = 80.0
"""The loudness that is told apart, in dB below the loudest band and frame."""

QUIETEST = -60.0
"""A recording whose loudest band is quieter than this, in dB below a full sine, is shown darker."""

Samples = NDArray[np.float32]


def read_samples(file: Path) -> Samples:
    """Read a file as one channel ``float32 [N]`` at ``RATE``, at most ``MAX_SECONDS``.

    Raises:
        ValueError: It is no sound file, has no samples, or some that are not numbers.
        OSError: It cannot be read.
    """
    with _open(file) as binary, _decode(binary) as opened:
        rate = opened.samplerate
        try:
            channels = opened.read(round(MAX_SECONDS * rate), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"cannot be decoded: {error.error_string.rstrip('.')}") from error
    samples: Samples = channels.mean(1)
    if not len(samples):
        raise ValueError("it has no samples")
    if not np.isfinite(samples).all():
        raise ValueError("some of its samples are no numbers")
    if rate == RATE:
        return samples
    from scipy.signal import resample_poly

    ratio = Fraction(RATE, rate)
    resampled: Samples = resample_poly(samples, ratio.numerator, ratio.denominator)
    return resampled.astype(np.float32)


def read_duration(file: Path) -> float:
    """The seconds of a file, by its header; at most ``MAX_SECONDS``.

    Raises:
        ValueError: It is no sound file.
        OSError: It cannot be read.
    """
    with _open(file) as binary, _decode(binary) as opened:
        return min(MAX_SECONDS, float(opened.frames / opened.samplerate))


def _open(file: Path) -> BinaryIO:
    if file.exists() and not file.is_file():
        raise ValueError("it is not a file")  # reading a pipe may wait forever
    return file.open("rb")


def _decode(binary: BinaryIO) -> Any:
    try:
        return soundfile.SoundFile(binary)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise ValueError(f"not a sound that can be read: {reason}") from error


def select_loudest(samples: Samples, seconds: float) -> Samples:
    """The loudest part of this duration, ``[seconds * RATE]``; shorter sounds end in silence."""
    count = max(1, round(seconds * RATE))
    if len(samples) <= count:
        return np.pad(samples, (0, count - len(samples)))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = int(np.argmax(energy[count:] - energy[:-count]))
    return samples[start : start + count]


def log_mel(samples: Samples) -> NDArray[np.uint8]:
    """The log-mel spectrogram of samples ``[N]``, as an image ``uint8 [M, T]``.

    High frequencies are on top. White is the loudest band and frame, and black is ``RANGE`` dB
    below. The bands are triangles on the mel scale of HTK (Young et al. 2006, The HTK Book,
    section 5.4).
    """
    from scipy.fft import rfft

    padded = np.pad(samples, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = np.hanning(WINDOW).astype(np.float32)
    power = np.square(np.abs(rfft(frames * window)) / (window.sum() / 2))  # 1 for a full sine
    decibels = 10 * np.log10(np.maximum(_mel_filters() @ power.T, 10 ** ((QUIETEST - RANGE) / 10)))
    loudest = max(float(decibels.max()), QUIETEST)
    levels = np.clip(1 + (decibels[::-1] - loudest) / RANGE, 0, 1)
    image: NDArray[np.uint8] = np.round(255 * levels).astype(np.uint8)
    return image


@lru_cache(1)
def _mel_filters() -> NDArray[np.float32]:
    """The weights of the frequencies of a window in each band, ``[M, WINDOW / 2 + 1]``."""
    lowest, highest = 2595 * np.log10(1 + np.array([LOWEST, HIGHEST]) / 700)
    corners = 700 * (10 ** (np.linspace(lowest, highest, BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    rising = (frequencies - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - frequencies) / np.diff(corners)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)

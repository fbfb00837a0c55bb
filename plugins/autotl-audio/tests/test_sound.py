"""The kind of input: reading, spectrograms, previews, and the contract."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from autotl_audio import Clip, sound
from autotl_audio.spectrogram import BANDS, HIGHEST, LOWEST, RATE, log_mel, read_samples

from autotl.errors import DataError
from autotl.testing import check_input_kind


def sine(hertz: float, seconds: float = 1.0, rate: int = RATE) -> Any:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def test_the_kind_satisfies_the_contract() -> None:
    check_input_kind(sound)


@pytest.mark.parametrize("hertz", [150, 440, 1000, 3000, 7000])
def test_a_tone_is_a_line_at_its_pitch(hertz: float) -> None:
    image = log_mel(sine(hertz).astype(np.float32))
    assert image.shape == (BANDS, 101)
    assert image.dtype == np.uint8
    band = (mel(hertz) - mel(LOWEST)) / (mel(HIGHEST) - mel(LOWEST)) * (BANDS + 1) - 1
    rows = BANDS - 1 - image[:, 10:-10].argmax(0)
    assert np.abs(rows - band).max() <= 1
    assert image.max() == 255
    assert np.median(image) < 60


def test_loudness_does_not_matter_and_silence_is_black() -> None:
    tone = sine(440).astype(np.float32)
    difference = log_mel(tone).astype(int) - log_mel(tone / 10).astype(int)
    assert np.abs(difference).max() <= 1
    assert not log_mel(np.zeros(RATE, np.float32)).any()


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_files_of_any_rate_format_and_number_of_channels_are_read(
    tmp_path: Path, rate: int
) -> None:
    stereo = np.stack([sine(440, 0.8, rate), sine(440, 0.8, rate)], 1)
    expected = log_mel(sine(440, 0.8).astype(np.float32)).argmax(0)[10:70]
    for suffix in ("wav", "flac", "ogg", "mp3"):
        file = tmp_path / f"tone.{suffix}"
        soundfile.write(file, stereo, rate)
        samples = read_samples(file)
        assert len(samples) / RATE == pytest.approx(0.8, abs=0.06)
        assert np.abs(log_mel(samples).argmax(0)[10:70] - expected).max() <= 1


def test_broken_files_have_a_reason(tmp_path: Path) -> None:
    contents = {"text": b"no sound", "empty": b""}
    for name, content in contents.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
        with pytest.raises(ValueError, match="not a sound that can be read"):
            sound.convert(tmp_path / f"{name}.wav")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match="no samples"):
        sound.convert(tmp_path / "none.wav")
    soundfile.write(tmp_path / "nan.wav", np.full(900, np.nan), RATE, "FLOAT")
    with pytest.raises(ValueError, match="no numbers"):
        sound.convert(tmp_path / "nan.wav")
    with pytest.raises(ValueError, match="float64 \\[2, 9\\] is no recording"):
        sound.convert(np.zeros((2, 9)))
    with pytest.raises(FileNotFoundError):
        sound.convert(tmp_path / "missing.wav")
    with pytest.raises(ValueError, match="not a file"):
        sound.convert(tmp_path)


def test_the_duration_is_that_of_most_recordings_or_given(tmp_path: Path) -> None:
    items: list[Any] = [np.zeros(RATE)] * 18 + [np.zeros(9 * RATE)] * 2
    assert sound.measure(items) == {"seconds": (0.0, 1.8)}
    assert sound.measure([np.zeros(10)]) == {"seconds": (0.0, 0.25)}
    assert sound.measure([np.zeros(50 * RATE)]) == {"seconds": (0.0, 10.0)}
    file = tmp_path / "tone.wav"
    soundfile.write(file, sine(440, 2), RATE)
    assert sound.measure([file, file]) == {"seconds": (0.0, 2.0)}
    assert sound.measure([Clip(file, 0.7), file]) == {"seconds": (0.0, 0.7)}


def test_the_loudest_part_is_encoded_and_shorter_recordings_end_in_silence() -> None:
    class Expects:
        def encode(self, item: Any) -> Any:
            return item

    expects: Any = Expects()
    quiet = 0.01 * sine(300, 3)
    samples = np.concatenate([quiet, sine(2000, 1), quiet])
    scales = {"seconds": (0.0, 1.0)}
    loudest = sound.encode(samples, expects, scales)
    assert loudest.shape == (BANDS, 101)
    alone = log_mel(sine(2000).astype(np.float32))
    assert np.abs(loudest.astype(int) - alone)[:, 10:-10].mean() < 2
    short = sound.encode(sine(2000, 0.3), expects, scales)
    assert short.shape == loudest.shape
    assert short[:, :25].max() == 255
    assert not short[:, 40:].any()
    assert sound.encode(sine(2000, 0.3), expects, {}).shape == (BANDS, 31)


def test_a_preview_is_a_small_wav(tmp_path: Path) -> None:
    file = tmp_path / "long.wav"
    soundfile.write(file, np.stack([sine(440, 20, 48000)] * 2, 1), 48000)
    preview = sound.show(file, {})
    assert preview.media_type == "audio/wav"
    samples, rate = soundfile.read(io.BytesIO(preview.content))
    assert (rate, samples.shape) == (RATE, (3 * RATE,))
    assert len(preview.content) < 100_000


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/2.wav", "1.FLAC", "notes.txt", ".hidden.wav"):
        (tmp_path / name).write_bytes(b"x")
    files = [tmp_path / "1.FLAC", tmp_path / "a" / "2.wav"]
    assert list(sound.read(str(tmp_path))) == [(str(file), file) for file in files]
    assert list(sound.read(str(files[0]))) == [(str(files[0]), files[0])]
    with pytest.raises(DataError, match="no file or folder 'missing'"):
        list(sound.read("missing"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no recordings; the names"):
        list(sound.read(str(tmp_path / "none")))


def test_files_are_found_and_identified_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"abc")
    assert sound.content(file) == sound.content(Clip(file, 1)) == b"abc"
    assert sound.find_file(Clip(file, 1)) == sound.find_file(file) == file
    assert sound.find_file(np.zeros(3)) is None

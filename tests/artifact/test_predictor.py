"""A loaded model: in which batches it predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import model

from autotl.artifact import predictor
from autotl.artifact.predictor import Predictor
from autotl.models import Device
from autotl.tasks import numbered_classes


@pytest.mark.parametrize(("device", "expected"), [("cpu", [4, 4, 4, 4, 4]), ("cuda", [16, 4])])
def test_batches_are_larger_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, expected: list[int]
) -> None:
    monkeypatch.setattr(predictor, "BATCH_SIZE", 4)
    monkeypatch.setattr(predictor, "INFERENCE_FACTOR", 4)
    monkeypatch.setattr(  # its memory is that of the CPU
        Predictor, "_to_device", lambda self, batch: torch.from_numpy(batch).permute(0, 3, 1, 2)
    )
    network, sizes = model(), list[int]()
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    loaded = Predictor(network, numbered_classes(3), Device(torch.device(device), None))
    random = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    assert loaded.predict_items(list(random)).shape == (20, 3)
    assert sizes == expected

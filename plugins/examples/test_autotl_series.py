"""Checks that the kind of input, its backbone and its data satisfy the contract."""

from pathlib import Path

import numpy as np
from autotl_series import random_kernels, series, series_file

from autotl.testing import check, check_input_kind


def test_the_kind_satisfies_the_contract() -> None:
    check_input_kind(series, backbone=random_kernels)


def test_the_backbone_satisfies_the_contract() -> None:
    assert check(random_kernels, kind=series) >= 1


def test_the_dataset_satisfies_the_contract(tmp_path: Path) -> None:
    examples, file = series.toy([4, 3]), tmp_path / "waves.npz"
    labels = np.array([example.label for example in examples])
    np.savez(file, series=np.stack([example.item for example in examples]), labels=labels)
    assert check(series_file, source=str(file), kind=series) == 1

"""Compiled forward passes: what they compute, when they are refused, and what they leave alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from families import FAMILIES
from torch import Tensor, nn
from toy import CPU, config, model

from autotl.frozen.split_point import find_split_point
from autotl.models import Device, Model, build_model, fast_inference, select_device
from autotl.models.fast_inference import NotCompiled, compile_forward, with_fallback
from autotl.tasks import numbered_classes
from autotl.training import set_trainable

pytest.importorskip("openvino")

BF16 = Device(torch.device("cpu"), torch.bfloat16)


def smooth_images(count: int, side: int) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return (255 * nn.functional.interpolate(coarse, size=side)).to(torch.uint8)


def build(family: str) -> tuple[Model, Tensor]:
    """A small network and images."""
    name, size, _ = FAMILIES[family]
    return model(0, size, backbone=name).eval(), smooth_images(7, size)


@pytest.mark.parametrize("family", ["convnext", "efficientnet", "mambaout", "vision_transformer"])
def test_prefix_and_model_compute_the_same_for_batches_of_any_size(family: str) -> None:
    network, images = build(family)
    top = [p for block in network.blocks[-2:] for p in block]
    set_trainable(network, [{"params": [*top, *network.head.parameters()]}])
    split_point = find_split_point(network, images[:4])
    assert split_point is not None
    for forward in (split_point.prefix, network.features, network):
        compiled = compile_forward(forward, network, images[:4], CPU)
        for count in (1, 2, 7):
            with torch.inference_mode():
                expected = forward(images[:count])
            actual = compiled(images[:count])
            assert actual.dtype == expected.dtype
            if expected.ndim == 4:  # the cache stores them in the layout they have
                assert actual.stride() == expected.stride()
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_other_results_are_refused() -> None:
    network, images = build("vision_transformer")
    # Its positions are resized in the forward pass, by an interpolation that differs.
    network.backbone = timm.create_model("test_vit", num_classes=0).eval()
    with pytest.raises(NotCompiled, match="something else"):
        compile_forward(network.features, network, images, CPU)


def test_bfloat16_is_as_close_to_float32_as_autocast() -> None:
    network = build_model(
        config(backbone="test_efficientnet"), numbered_classes(3), 64, select_device("cpu")
    ).eval()
    images = smooth_images(16, 64)
    compiled = compile_forward(network.features, network, images, BF16)
    with torch.inference_mode():
        exact = network.features(images)
        with torch.autocast("cpu", torch.bfloat16):
            usual = network.features(images)
    assert compiled(images).dtype == usual.dtype
    error, usual_error = (
        float((x.float() - exact).norm() / exact.norm()) for x in (compiled(images), usual)
    )
    assert error <= 1.5 * usual_error


def test_what_is_compiled_keeps_its_weights() -> None:
    network = model().eval()
    images = smooth_images(4, 16)
    compiled = compile_forward(network, network, images, CPU)
    before = compiled(images)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)
    torch.testing.assert_close(compiled(images), before)


class Fixed(nn.Module):
    """A head that computes something else when it is traced than later."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, features: Tensor) -> Tensor:
        return self.change(features)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x + float(x.sum()), "something else"),  # traced as a constant
        (lambda x: x + torch.linalg.eigvals(x.T @ x).abs().max(), "fails"),
        (lambda x: x * torch.nan, "something else"),
    ],
)
def test_a_model_that_depends_on_more_than_its_graph_is_refused(
    change: Callable[[Tensor], Tensor], reason: str
) -> None:
    network = model().eval()
    network.head = Fixed(change)
    with pytest.raises(NotCompiled, match=reason):
        compile_forward(network, network, smooth_images(4, 16), CPU)


def test_other_devices_few_images_and_a_missing_package_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, images = model().eval(), smooth_images(4, 16)
    with pytest.raises(NotCompiled, match="too few"):
        compile_forward(network, network, images[:2], CPU)
    assert not fast_inference.is_available(Device(torch.device("cuda"), None))
    monkeypatch.setattr(fast_inference, "find_spec", lambda _: None)
    with pytest.raises(NotCompiled, match="not installed"):
        compile_forward(network, network, images, CPU)


def test_after_a_failure_pytorch_computes() -> None:
    calls: list[str] = []

    def fail(images: Tensor) -> Tensor:
        calls.append("compiled")
        raise ValueError("no memory")

    def forward(images: Tensor) -> Tensor:
        calls.append("pytorch")
        return images

    call = with_fallback(fail, forward)
    images = smooth_images(2, 4)
    assert call(images) is images
    assert call(images) is images
    assert calls == ["compiled", "pytorch", "pytorch"]


def test_the_telemetry_of_openvino_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "openvino_telemetry").mkdir()
    imported = tmp_path / "imported"
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text(f"open({str(imported)!r}, 'w')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from autotl.models import fast_inference\n"
        "assert 'openvino' not in sys.modules\n"
        "fast_inference._import_openvino()\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not imported.exists()

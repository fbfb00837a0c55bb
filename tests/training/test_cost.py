"""Measured cost: what is measured, how often, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu
from torch import Tensor
from toy import CPU, batches, config, job, model, squares
from training_helpers import TOP, changed_names, copy_state, count_images, refusing_head

from autotl import training
from autotl.data import resident
from autotl.errors import OutOfMemory
from autotl.frozen import FeatureCache, cache
from autotl.models import Device, Model, fast_inference
from autotl.training import Cost, fine_tune, measure_cost


def make_cost(view: float, epoch: float, setup: float = 0.0, fraction: float = 1.0) -> Cost:
    return Cost(
        view_seconds=view,
        epoch_seconds=epoch,
        setup_seconds=setup,
        backbone_epoch_fraction=fraction,
        prediction_seconds=0.0,
    )


@pytest.mark.parametrize("chosen", ["linear_probe", TOP, "full", "lp_ft"])
def test_measuring_does_not_change_the_model(chosen: Any) -> None:
    network = model()
    before = copy_state(network)
    run = job(4, data_id="squares")
    cost = measure_cost(network, config(freeze=chosen), run)
    assert not changed_names(before, network)
    assert all(p.grad is None for p in network.parameters())
    assert cost.epoch_seconds > 0
    assert (cost.view_seconds > 0) == (chosen in ("linear_probe", TOP))
    seconds = [cost.training_seconds(epochs) for epochs in (1, 2, 4, 8, 16)]
    assert seconds == sorted(set(seconds))
    assert run.cache.usage().entries == 0


def test_each_kind_of_training_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(chosen: Any) -> Cost:
        run = job(4, data_id="squares", measured_costs=measured)
        return measure_cost(model(), config(freeze=chosen), run)

    measured: dict[str, Any] = {}
    first = measure(("full", {"lr": 1e-3}))
    measured = json.loads(json.dumps(measured))  # as a study stores them
    timed: list[Any] = []
    time = training.cost._time
    monkeypatch.setattr(training.cost, "_time", lambda *args: (timed.append(1), time(*args))[1])
    second = measure(("layer_decay", {"lr": 1e-4}))  # the same parameters are trainable
    assert len(timed) == 1  # the augmentation alone, which may be another
    assert (second.forward_seconds, second.backward_seconds, second.prediction_seconds) == (
        first.forward_seconds,
        first.backward_seconds,
        first.prediction_seconds,
    )
    assert measure("linear_probe").forward_seconds != first.forward_seconds
    assert len(timed) > 2


def test_the_faster_type_is_chosen_once_for_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    autocast_is_slow = True
    timed: list[bool] = []
    time_steps = training.cost._Steps.time

    def time_with_known_steps(steps: Any) -> Any:
        timing = time_steps(steps)
        timed.append(timing.autocast)
        return replace(timing, prefix=0.0, step=1.0 + timing.autocast * autocast_is_slow)

    def tune(steps: Any, timing: Any) -> Any:
        tuned.append((steps._inputs.job.compute.autocast, timing.autocast))
        return timing

    tuned: list[tuple[bool, bool]] = []
    monkeypatch.setattr(training.cost._Steps, "time", time_with_known_steps)
    monkeypatch.setattr(training.cost._Steps, "tune", tune)
    device = Device(CPU.torch_device, torch.bfloat16)
    run = job(2, device=device)
    settings = [measure_cost(model(), config(freeze=f), run).compute for f in ("full", TOP)]
    assert [s.autocast for s in settings] == [False, False]
    assert timed == [True, False, False]
    assert tuned == [(False, False)] * 2  # only what will be used
    assert settings[0].apply_to(device).autocast is None
    autocast_is_slow = False
    full = config(freeze="full")
    assert not measure_cost(model(), full, run).compute.autocast  # as it was measured
    assert measure_cost(model(), full, job(2, device=device)).compute.autocast
    assert measure_cost(model(), full, job(2)).compute.apply_to(CPU) == CPU


@pytest.mark.parametrize(("seconds", "cached"), [(0.0, True), (1e3, False)])
def test_activations_that_are_slower_to_read_than_to_compute_are_not_cached(
    monkeypatch: pytest.MonkeyPatch, seconds: float, cached: bool
) -> None:
    monkeypatch.setattr(FeatureCache, "seconds_to_read", lambda *_: seconds)
    run = job(4, data_id="squares")
    cost = measure_cost(model(), config(freeze=TOP), run)
    assert cost.compute.cache_activations == cached
    assert (cost.view_seconds > 0) == (cost.setup_seconds > 0) == cached
    assert cost.epoch_seconds > 0
    run.compute = cost.compute
    network = model()
    sizes = count_images(network)
    list(fine_tune(network, config(freeze=TOP), run))
    assert (sum(sizes) < 100) == cached
    assert (run.cache.usage().entries > 0) == cached


def test_the_facts_of_a_cost_are_milliseconds_and_bytes() -> None:
    facts = measure_cost(model(), config(freeze=TOP), job(4)).facts()
    assert facts["forward_ms"] > 0
    assert facts["backward_ms"] >= 0
    assert facts["activation_bytes"] == 16 * 4 * 4 * 2  # after the first stage, in 16 bits
    assert facts["peak_bytes"] is None  # the CPU does not report it
    assert measure_cost(model(), config(freeze="full"), job(4)).facts()["activation_bytes"] == 0


def test_as_many_views_are_affordable_as_fit_the_seconds() -> None:
    cost = make_cost(view=10.0, epoch=1.0)
    assert [cost.affordable_views(4, s) for s in (0.0, 9.0, 25.0, 99.0)] == [1, 1, 2, 4]
    assert replace(cost, view_seconds=0.0).affordable_views(4, 0.1) == 4


def test_a_repetition_costs_less_because_most_activations_are_cached() -> None:
    cost = make_cost(view=40.0, epoch=1.0, setup=100.0, fraction=0.5)
    assert cost.repeat_seconds(4, 4) == 30.0 + 2.0  # a quarter of the images in 3 augmented views
    assert cost.repeat_seconds(4, 1) == 2.0
    assert cost.repeat_seconds(2, 9) == 10.0 + 1.0


def test_views_cost_time_only_until_all_are_cached() -> None:
    cost = make_cost(view=10.0, epoch=1.0, setup=100.0)
    assert [cost.training_seconds(n, 2) for n in (1, 2, 3)] == [111.0, 122.0, 123.0]
    half = make_cost(view=0.0, epoch=1.0, fraction=0.5)
    assert half.training_seconds(10) == 5.0


def test_folds_cost_epochs_but_hardly_any_views() -> None:
    cost = make_cost(view=12.0, epoch=1.0, setup=100.0)
    # The second fold adds two augmented views of the images on which the first one validated.
    assert cost.training_seconds(3, 3, folds=5) == 100.0 + 3 * 12.0 + 2 * 12.0 / 4 + 5 * 3.0
    assert cost.training_seconds(1, 1, folds=5) == 100.0 + 12.0 + 5.0


def test_the_backbone_epoch_fraction_is_that_of_epochs_with_a_trainable_backbone() -> None:
    def fraction(chosen: Any) -> float:
        return measure_cost(model(), config(freeze=chosen), job(10)).backbone_epoch_fraction

    assert fraction(("lp_ft", {"probe_fraction": 0.3})) == 0.7
    assert fraction("full") == 1.0
    assert fraction("linear_probe") == 1.0  # its epochs are timed with the head alone


def test_the_views_of_the_epochs_that_train_the_head_alone_cost_time() -> None:
    run = job(10, data_id="squares")
    whole = measure_cost(model(), config(freeze="full"), run)
    two_phases = config(freeze=("lp_ft", {"probe_fraction": 0.3}))
    cost = measure_cost(model(), two_phases, run)
    forward = run.train.num_examples * cost.forward_seconds
    assert cost.probe_view_seconds >= forward
    assert cost.setup_seconds == pytest.approx(run.num_validation_examples * cost.forward_seconds)
    seconds = cost.training_seconds(10, 2) - 0.7 * whole.training_seconds(10, 2)
    assert seconds >= 2 * forward  # 2 views, computed once
    assert cost.training_seconds(10, 4) - cost.training_seconds(10, 2) == pytest.approx(
        cost.probe_view_seconds
    )
    again = cost.repeat_seconds(10, 4) - cost.repeat_seconds(10, 1)
    assert again == pytest.approx(2 * cost.probe_view_seconds / 4)
    assert whole.probe_view_seconds == 0


def test_without_a_validation_split_there_is_no_setup() -> None:
    assert measure_cost(model(), config(), job(2, validation=None)).setup_seconds == 0.0


# OpenVINO.


def measure_with_openvino(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Cost, Any]:
    """Measure a probe as if OpenVINO compiled in a second and ran four times as fast."""
    times = iter([1.0, 0.25])  # of the frozen layers: in PyTorch, compiled
    clock = iter([10.0, 11.0])
    monkeypatch.setattr(training.cost, "_time", lambda *_: next(times, 0.01))
    monkeypatch.setattr(training.cost.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(fast_inference, "is_available", lambda _: True)
    monkeypatch.setattr(fast_inference, "compile_forward", lambda forward, *_: forward)
    run = job(4, data_id="squares", **changes)
    return measure_cost(model(), config(), run), run


def test_a_search_plans_with_the_speed_of_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.cost, "OPENVINO_MEASURED_FROM", 0.0)
    cost, run = measure_with_openvino(monkeypatch)
    per_image = 1 / 12  # seconds in PyTorch; a batch has 12 images
    assert cost.view_seconds == pytest.approx(36 * (per_image / 4 + 0.01 / 12))
    assert cost.setup_seconds == pytest.approx(1.0 + 36 * per_image / 4)
    # Compiling is to save twice its time: 2 s of 3/48 s an image.
    assert cost.compute.openvino_from == 32
    assert [m for k, m in run.measured_costs.items() if k.endswith("openvino")] == [
        {"speedup": 4.0, "seconds": 1.0}
    ]
    monkeypatch.setattr(training.cost, "OPENVINO_SAVING", 3.0)
    again = measure_cost(model(), config(), run)  # not measured again, and too few images
    assert again.compute.openvino_from == 48
    assert again.setup_seconds == pytest.approx(36 * per_image)


def test_little_is_not_worth_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    cost, run = measure_with_openvino(monkeypatch)  # 15 s, of which 12 of training images
    assert any(key.endswith("openvino") for key in run.measured_costs)
    monkeypatch.undo()
    monkeypatch.setattr(training.cost, "OPENVINO_MEASURED_FROM", 16.0)
    cost, run = measure_with_openvino(monkeypatch)
    assert not any(key.endswith("openvino") for key in run.measured_costs)
    assert cost.compute.openvino_from == 0


def test_memory_that_runs_out_while_the_cost_is_measured_is_given_up_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch, memory=1 << 20)
    simulate, attempts = training.cost.simulate_strategy, list[int]()

    def simulate_on_a_full_device(*args: Any) -> Any:
        attempts.append(resident.resident_bytes(CPU.torch_device))
        if attempts[-1]:
            raise torch.OutOfMemoryError("no memory for a copy of the model")
        return simulate(*args)

    monkeypatch.setattr(training.cost, "simulate_strategy", simulate_on_a_full_device)
    run = job(4)
    next(iter(run.train))
    assert measure_cost(model(), config(), run).epoch_seconds > 0
    assert len(attempts) == 2
    assert attempts[0] > attempts[1] == 0
    monkeypatch.setattr(training.cost, "simulate_strategy", lambda *_: torch.empty(1 << 60))
    with pytest.raises(OutOfMemory, match="the model does not fit"):
        measure_cost(model(), config(), run)


def test_a_batch_that_does_not_fit_is_timed_in_parts() -> None:
    sizes: list[int] = []

    def more_than_6(size: int) -> bool:
        sizes.append(size)
        return size > 6

    chosen = {"head": refusing_head(more_than_6)}
    run = job(4)
    assert measure_cost(model(**chosen), config(**chosen), run).epoch_seconds > 0
    assert max(sizes) == 12
    assert sizes.count(12) == 1
    assert list(run.micro_batch_sizes.values()) == [6]


def test_features_that_fit_on_a_gpu_are_cached_there_although_the_disk_is_too_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "gathering_seconds_per_byte", lambda device: 0.0)
    monkeypatch.setattr(cache, "copying_seconds_per_byte", lambda device: 1e3)
    monkeypatch.setattr(cache, "disk_seconds_per_byte", lambda folder: 1e3)
    for memory, cached in ((1 << 30, True), (1 << 10, False)):
        FakeGpu(monkeypatch, memory)
        cost = measure_cost(model(), config(freeze=TOP), job(4, data_id="squares"))
        assert cost.compute.cache_activations == cached


# CUDA, with its functions replaced and tensors on the CPU.


class FakeCuda:
    """Stands for ``cuda:1``; it records for which device the functions of CUDA are called.

    Attributes:
        device: The device, in float32 with TF32.
        named: For each function that was called, the devices that it was called for.
    """

    device = Device(torch.device("cuda:1"), None, tf32=True)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.named: dict[str, set[Any]] = {}
        for name, result in (
            ("synchronize", None),
            ("reset_peak_memory_stats", None),
            ("max_memory_allocated", 1000),
            ("get_device_name", "Fake"),
        ):
            monkeypatch.setattr(torch.cuda, name, self._record(name, result))
        monkeypatch.setattr(torch.cuda, "device", self._record("device", nullcontext()))
        state = training.random_state
        monkeypatch.setattr(state, "_get_torch_states", lambda _: [torch.get_rng_state()])
        monkeypatch.setattr(state, "_set_torch_states", lambda _, s: torch.set_rng_state(s[0]))
        monkeypatch.setattr(state, "_manual_seed", lambda _, seed: torch.manual_seed(seed))

    def _record(self, name: str, result: Any) -> Callable[..., Any]:
        def call(device: Any = None) -> Any:
            self.named.setdefault(name, set()).add(str(device))
            return result

        return call


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def test_all_functions_of_cuda_get_the_device(gpu: FakeCuda) -> None:
    cost = measure_cost(model(), config(freeze="full"), job(2, device=gpu.device))
    assert cost.facts()["peak_bytes"] == 1000
    assert gpu.named.keys() == {
        "synchronize", "reset_peak_memory_stats", "max_memory_allocated", "get_device_name",
        "device",
    }  # fmt: skip
    assert set().union(*gpu.named.values()) == {"cuda:1"}


@pytest.mark.parametrize("speedup", [1.0, 2.0])
def test_the_algorithms_and_the_inference_batches_are_measured_on_cuda(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, speedup: float
) -> None:
    sizes: list[int] = []

    def time(function: Callable[[], object], device: Device) -> float:
        assert device.torch_device == gpu.device.torch_device
        function()
        return 1.0 / speedup if torch.backends.cudnn.benchmark else 1.0

    monkeypatch.setattr(training.cost, "_time", time)
    monkeypatch.setattr(training.tuning, "CUDNN_SAVING", 0.0)
    monkeypatch.setattr(Model, "forward", lambda self, x: (sizes.append(len(x)), Tensor())[1])
    measured: dict[str, Any] = {}
    run = job(10, device=gpu.device, measured_costs=measured)
    cost = measure_cost(model(), config(freeze="full"), run)
    assert cost.compute.cudnn_benchmark == (speedup > 1)
    assert cost.compute.inference_factor == 2  # there are three batches
    assert (cost.forward_seconds, cost.backward_seconds) == (1 / speedup / 12, 0)
    assert sizes == [6, 12, 24]  # the first one is half a batch in float32
    stored = json.loads(json.dumps(measured))
    again = measure_cost(model(), config(freeze="full"), replace(run, measured_costs=stored))
    assert again.compute == cost.compute
    assert again.setup_seconds == cost.setup_seconds


def test_what_is_tuned_has_the_split_point_and_is_worth_it(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, memory=0)
    monkeypatch.setattr(cache, "copying_seconds_per_byte", lambda device: 0.0)
    monkeypatch.setattr(training.cost, "TUNED_FROM", 0.0)
    cost = measure_cost(model(), config(freeze=TOP), job(2, device=gpu.device))
    assert cost.activation_bytes > 0
    assert cost.compute.inference_factor in (1, 2)
    monkeypatch.setattr(training.cost, "TUNED_FROM", 1e9)
    compute = measure_cost(model(), config(freeze=TOP), job(2, device=gpu.device)).compute
    assert compute.inference_factor is None
    assert not compute.cudnn_benchmark


def test_measurements_of_earlier_versions_can_be_read(gpu: FakeCuda) -> None:
    measured: dict[str, Any] = {}
    run = job(2, device=gpu.device, measured_costs=measured)
    measure_cost(model(), config(freeze="full"), run)
    [timing] = [each for each in measured.values() if isinstance(each, dict)]
    del timing["tuning"], timing["inference_factor"]
    compute = measure_cost(model(), config(freeze="full"), run).compute
    assert not compute.cudnn_benchmark
    assert compute.inference_factor is None


def test_nothing_of_that_is_measured_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tune_cudnn", "find_inference_factor"):
        monkeypatch.setattr(training.cost, name, None)
    compute = measure_cost(model(), config(freeze="full"), job(2)).compute
    assert not compute.cudnn_benchmark
    assert compute.inference_factor is None


@pytest.mark.parametrize(
    ("batch_size", "seconds", "fraction", "epoch", "compiling"),
    [
        (12, 1e9, 1.0, 60.0, 120.0),  # one size of batches, and 138 s are saved
        (12, 1e9, 1.0, 50.0, 0.0),  # only 115 s are saved
        (12, 1e9, 0.5, 60.0, 0.0),  # in half of the epochs
        (12, 119.0, 1.0, 60.0, 0.0),  # there is no time for it
        (8, 1e9, 1.0, 60.0, 0.0),  # two sizes would be compiled
        (8, 1e9, 1.0, 120.0, 240.0),
    ],
)
def test_compiling_pays_if_it_saves_more_than_it_takes_and_there_is_time(
    batch_size: int, seconds: float, fraction: float, epoch: float, compiling: float
) -> None:
    cost = replace(make_cost(view=0.0, epoch=epoch), compiled_fraction=fraction)
    run = job(10, device=FakeCuda.device, train=batches(squares(), batch_size))
    compiled = cost.compiled(run, 10, seconds)
    assert compiled.compute.compile == (compiling > 0)
    assert compiled.training_seconds(10) == cost.training_seconds(10) + compiling
    assert compiled.training_seconds(10, folds=3) == cost.training_seconds(10, folds=3) + (
        3 * compiling
    )
    assert compiled.repeat_seconds(10) == cost.repeat_seconds(10) + compiling


def test_cached_activations_and_other_devices_are_not_compiled() -> None:
    run = job(10, device=FakeCuda.device)
    assert make_cost(view=0.0, epoch=1e3).compiled(run, 10, 1e9).compute.compile
    assert not make_cost(view=1.0, epoch=1e3).compiled(run, 10, 1e9).compute.compile
    assert not make_cost(view=0.0, epoch=1e3).compiled(job(10), 10, 1e9).compute.compile


@pytest.mark.parametrize(
    ("strategy", "expected"), [("full", 1.0), (("lp_ft", {"probe_fraction": 0.3}), 0.7)]
)
def test_the_last_phase_may_be_compiled(strategy: Any, expected: float) -> None:
    cost = measure_cost(model(), config(freeze=strategy), job(10))
    assert cost.compiled_fraction == pytest.approx(expected)

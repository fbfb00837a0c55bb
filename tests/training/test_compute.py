"""Compute settings: compilation with a fallback, autocast, and the key of measurements."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import CPU, config, model
from training_helpers import have_equal_weights, train

from autotl.errors import OutOfMemory
from autotl.models import Device
from autotl.training import ComputeSettings, compute, set_trainable
from autotl.training.compute import COMPILE_SECONDS, MAX_SHAPES, CompiledFunction, cost_key
from autotl.training.inputs import Inputs
from autotl.training.loop import simulate_strategy

COMPILED = ComputeSettings(cache_activations=False, compile=True)
UNCOMPILED = ComputeSettings(cache_activations=False)


class Compiler:
    """Stands for ``torch.compile``; it records what is compiled and what that computes.

    Attributes:
        functions: Number of functions that were compiled.
        sizes: The sizes of the batches that they computed.
        error: Raised instead of computing.
    """

    def __init__(self) -> None:
        self.functions = 0
        self.sizes: list[int] = []
        self.error: Exception | None = None

    def __call__(self, function: Any, *, dynamic: bool | None = None) -> Any:
        assert dynamic is False  # kernels for static shapes are faster
        self.functions += 1

        def call(images: Tensor) -> Tensor:
            self.sizes.append(len(images))
            if self.error:
                raise self.error
            result: Tensor = function(images)
            return result

        return call


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    fake = Compiler()
    monkeypatch.setattr(torch, "compile", fake)
    return fake


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_cannot_be_compiled_is_trained_uncompiled(
    compiler: Compiler, fails: bool
) -> None:
    compiler.error = AssertionError("no compiler here") if fails else None
    calls = compiler.sizes
    uncompiled, _ = train(freeze="full")
    assert not calls
    other, _ = train(freeze="full", compute=COMPILED)
    assert len(calls) == (1 if fails else 6)
    assert have_equal_weights(uncompiled, other)


def test_a_compiled_model_that_runs_out_of_memory_stays_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(function: Any, **options: Any) -> Any:
        def call(images: Tensor) -> Tensor:
            if len(images) > 4:
                raise torch.OutOfMemoryError("no memory is left")
            features: Tensor = function(images)
            return features

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    sizes: dict[str, int] = {}
    train(epochs=1, freeze="full", compute=COMPILED, micro_batch_sizes=sizes)
    assert list(sizes.values()) == [3]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OutOfMemory("a single image does not fit"),
    ],
    ids=["fault", "memory"],
)
def test_other_faults_are_not_taken_for_those_of_the_compiler(
    compiler: Compiler, error: Exception
) -> None:
    compiler.error = error
    with pytest.raises(type(error), match=str(error)):
        train(freeze="full", compute=COMPILED)
    assert len(compiler.sizes) == 1  # nothing more is computed


def test_only_so_many_shapes_are_compiled(compiler: Compiler) -> None:
    computed: list[int] = []
    function = CompiledFunction(lambda batch: (computed.append(len(batch)), batch)[1])
    sizes = [8, 7, 6, 5, 4, 3, 8, 5]
    for size in sizes:
        function(torch.zeros(size, 2))
    assert MAX_SHAPES == 4
    assert computed == sizes
    assert compiler.sizes == [8, 7, 6, 5, 8, 5]
    function(torch.zeros(8, 2, dtype=torch.float64))  # it would be compiled again
    with torch.no_grad():
        function(torch.zeros(8, 2))
    assert compiler.sizes == [8, 7, 6, 5, 8, 5]


def test_nothing_is_compiled_that_would_pass_the_deadline(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(compute.time, "monotonic", lambda: now)
    function = CompiledFunction(lambda batch: batch, deadline=200.0)
    function(torch.zeros(8, 2))
    now = 200.0 - COMPILE_SECONDS + 1
    for size in (7, 8, 7):
        assert len(function(torch.zeros(size, 2))) == size
    assert compiler.sizes == [8, 8]


@pytest.mark.parametrize(
    ("strategy", "last_phase"),
    [("full", 1), ("layer_decay", 1), (("lp_ft", {"probe_fraction": 0.5}), 3), ("gradual", None)],
)
def test_a_model_is_compiled_in_the_last_phase_of_its_strategy_alone(
    compiler: Compiler, strategy: Any, last_phase: int | None
) -> None:
    epochs = 4
    simulated = simulate_strategy(model(), config(freeze=strategy), epochs)
    assert last_phase in (None, simulated.last_phase)
    uncompiled, _ = train(freeze=strategy, epochs=epochs, compute=UNCOMPILED)
    other, _ = train(freeze=strategy, epochs=epochs, compute=COMPILED)
    assert have_equal_weights(uncompiled, other)
    assert compiler.functions == 1
    assert len(compiler.sizes) == (epochs - simulated.last_phase + 1) * 3  # batches in an epoch


def test_the_real_compiler_compiles_the_two_sizes_of_batches_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    function = CompiledFunction(lambda batch: batch.sin() + 1)
    for size in (6, 5, 6, 5, 6):
        batch = torch.rand(size, 2)
        assert torch.equal(function(batch), batch.sin() + 1)
    assert len(graphs) == 2


COMPILE_MODELS = """
from functools import partial
import torch
from torch import nn
from autotl.data import ImageInput
from autotl.models import Model
from autotl.training.compute import CompiledFunction

graphs = []

def backend(graph, _):
    graphs.append(graph)
    return graph.forward

torch.compile = partial(torch.compile, backend=backend)
images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
count = torch._dynamo.config.recompile_limit + 2
for width in range(1, count + 1):
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, width))
    spec = ImageInput(8, (0.5,) * 3, (0.2,) * 3, "bilinear")
    CompiledFunction(Model(backbone, nn.Identity(), spec).features)(images)
print(len(graphs) - count)
"""


def test_every_model_is_compiled() -> None:
    """Dynamo compiles a function only a few times, and all models have the same functions."""
    command = [sys.executable, "-c", COMPILE_MODELS]  # apart from what other tests have compiled
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["0"]


def test_a_backward_pass_that_cannot_be_compiled_is_computed_uncompiled(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, features: Tensor) -> Tensor:
            ctx.kept = features.clone()  # only the graph holds it
            graphs.append(weakref.ref(ctx.kept))
            return features.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            raise RuntimeError("the compiler failed")

    graphs: list[weakref.ref[Tensor]] = []

    def compile_for_backward(function: Any, *, dynamic: bool) -> Any:
        return lambda images: Failing.apply(function(images))  # type: ignore[no-untyped-call]

    def compute_outputs(*args: Any) -> Any:
        assert not any(ref() is not None for ref in graphs), "the failed graph is in memory"
        return compute_outputs_of(*args)

    compute_outputs_of = Inputs.compute_outputs
    monkeypatch.setattr(Inputs, "compute_outputs", compute_outputs)
    monkeypatch.setattr(torch, "compile", compile_for_backward)
    gc.disable()  # only reference counts free memory
    compiled, _ = train(freeze="full", compute=COMPILED)
    gc.enable()
    assert len(graphs) == 1
    expected, _ = train(freeze="full", compute=UNCOMPILED)
    # Statistics of BatchNorm count the batch of the failed step twice.
    pairs = zip(compiled.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_settings_can_be_stored_as_json() -> None:
    assert ComputeSettings(**json.loads(json.dumps(asdict(COMPILED)))) == COMPILED


def test_without_autocast_a_device_computes_in_float32() -> None:
    bfloat16 = Device(CPU.torch_device, torch.bfloat16)
    assert ComputeSettings(autocast=True).apply_to(bfloat16) == bfloat16
    assert ComputeSettings(autocast=False).apply_to(bfloat16) == CPU
    with_tf32 = Device(torch.device("cuda"), torch.bfloat16, tf32=True)
    assert ComputeSettings(autocast=False).apply_to(with_tf32).precision == "tf32"


def test_the_key_of_a_measurement_changes_with_what_decides_the_cost() -> None:
    network = model()
    keys = [cost_key(network, config(), CPU)]
    keys.append(cost_key(network, config(), Device(CPU.torch_device, torch.bfloat16)))
    set_trainable(network, [{"params": list(network.head.parameters())}])
    keys.append(cost_key(network, config(), CPU))
    keys.append(cost_key(model(size=32), config(), CPU))
    assert len(set(keys)) == 4
    other = cost_key(network, config(freeze="full", head="mlp"), CPU)
    assert other == keys[2]  # the same parameters are trainable

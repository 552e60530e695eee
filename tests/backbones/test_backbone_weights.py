"""Every published form of a weight file, written from a small model and read back; and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings
import zipfile
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

from calib.backbones.weights import reading
from calib.backbones.weights.convert import looks_like
from calib.backbones.weights.reading import find_weights, read_weights

TEXTS = ["covid", "a normal lung."]


@pytest.fixture(scope="module")
def clip(small):
    return small("clip", seed=7)


@pytest.fixture(scope="module")
def medclip(small):
    return small("medclip", seed=7)


def same_features(backbone, expected, atol=1e-6):
    images = torch.randn(2, 3, expected.preprocess.image_size, expected.preprocess.image_size)
    for found, wanted in (
        (backbone.encode_text(backbone.tokenize(TEXTS)), expected.encode_text(expected.tokenize(TEXTS))),
        (backbone.encode_image(images), expected.encode_image(images)),
    ):
        torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


# Files that are read


@pytest.mark.parametrize("kind", ["clip", "biomedclip", "medclip"])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_own_names_round_trip_bit_by_bit(small, tmp_path, kind, file):
    expected = small(kind, seed=7)
    state = expected.model.state_dict()
    save_file(state, tmp_path / file) if file.endswith("safetensors") else torch.save(state, tmp_path / file)
    for weights in (tmp_path, tmp_path / file):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the small vocabulary, see below
            backbone = small(kind, weights=weights)
        assert backbone.weights_digest == expected.weights_digest
        assert backbone.describe()["weights"]["source"] == str(weights)
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_openai_state_dict_in_16_bit(small, clip, tmp_path):
    state = {name: tensor.half() for name, tensor in clip.model.state_dict().items()}
    settings = {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(22),
        "vocab_size": torch.tensor(9),
    }
    torch.save({**state, **settings}, tmp_path / "plip_vit_b32.pt")
    backbone = small("clip", weights=tmp_path / "plip_vit_b32.pt")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.token_embedding.weight, state["token_embedding.weight"].float())
    same_features(backbone, clip, atol=5e-3)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_training_checkpoint_with_module_prefix(small, clip, tmp_path, key):
    state = {f"module.{name}": tensor for name, tensor in clip.model.state_dict().items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save(
        {"epoch": 3, "name": "quilt", key: state, "optimizer": optimizer}, tmp_path / "quiltnet_b32.pt"
    )
    same_features(small("clip", weights=tmp_path / "quiltnet_b32.pt"), clip)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.skipif(not hasattr(torch.jit, "trace_module"), reason="this torch no longer writes TorchScript")
def test_torchscript_archive(small, clip, tmp_path):
    inputs = {"encode_image": torch.randn(1, 3, 64, 64), "encode_text": clip.tokenize(["covid"])}
    torch.jit.trace_module(clip.model, inputs, check_trace=False).save(str(tmp_path / "ViT-B-32.pt"))
    assert small("clip", weights=tmp_path / "ViT-B-32.pt").weights_digest == clip.weights_digest


def test_hugging_face_clip_model(small, tmp_path, configs):
    """The only published form of PLIP."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    text |= {"max_position_embeddings": 22, "projection_dim": 16, "eos_token_id": 49407}
    vision |= {"image_size": 64, "patch_size": 32, "projection_dim": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
        with torch.no_grad():
            for (
                name,
                parameter,
            ) in model.named_parameters():  # fresh biases are 0 and norms 1, which would hide a swap
                if name != "logit_scale":
                    parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    backbone = small("clip", weights=tmp_path)
    tokens, images = backbone.tokenize(TEXTS), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = model(input_ids=tokens, pixel_values=images)
    torch.testing.assert_close(backbone.encode_text(tokens), expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.encode_image(images), expected.image_embeds, atol=1e-5, rtol=0)
    assert backbone.logit_scale == model.logit_scale.detach()
    old = {**model.state_dict(), "text_model.embeddings.position_ids": torch.arange(22)[None]}
    torch.save(old, tmp_path / "pytorch_model.bin")
    assert small("clip", weights=tmp_path / "pytorch_model.bin").weights_digest == backbone.weights_digest


def test_shards_by_their_index(small, clip, tmp_path):
    state = clip.model.state_dict()
    names = sorted(state)
    parts = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, chosen in parts.items():
        save_file({name: state[name] for name in chosen}, tmp_path / file)
    weight_map = {name: file for file, chosen in parts.items() for name in chosen}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert small("clip", weights=tmp_path).weights_digest == clip.weights_digest
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors is missing"):
        small("clip", weights=tmp_path)


def published_swin_name(name: str) -> str:
    """Return the name that transformers 4 and MedCLIP's file use."""
    if ".blocks." not in name:
        return name
    for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
        name = name.replace(f".attention.{letter}_proj.", f".attention.self.{word}.")
    name = name.replace(
        ".attention.relative_position_bias.relative_position_bias_table", ".attention.self.table"
    )
    name = name.replace(".attention.self.table", ".attention.self.relative_position_bias_table")
    name = name.replace(".attention.o_proj.", ".attention.output.dense.")
    return name.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")


def test_medclip_file_with_the_names_of_transformers_4(small, medclip, tmp_path, vocab):
    state = {published_swin_name(name): tensor for name, tensor in medclip._named_weights().items()}
    block = "vision_model.model.encoder.layers.1.blocks.0."
    assert f"{block}attention.self.query.weight" in state
    assert f"{block}output.dense.bias" in state
    state[f"{block}attention.self.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    state["text_model.model.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(state, tmp_path / "pytorch_model.bin")
    shutil.copy(vocab, tmp_path / "vocab.txt")
    with pytest.warns(UserWarning, match="vocabulary given to medclip has 30 words, its token table 40 rows"):
        backbone = small("medclip", weights=tmp_path, tokenizer=None)
    assert backbone.weights_digest == medclip.weights_digest
    same_features(backbone, medclip)


def test_custom_text_layout_and_back(clip, tmp_path, configs):
    from calib.backbones.openclip import create_open_clip
    from calib.backbones.options import BackboneOptions

    save_file(clip.model.state_dict(), tmp_path / "flat.safetensors")
    config = {**configs.clip, "custom_text": True}
    options = BackboneOptions(weights=tmp_path / "flat.safetensors")
    nested = create_open_clip(config, options, name="nested", published="")
    assert "text.token_embedding.weight" in nested.model.state_dict()
    same_features(nested, clip)
    save_file(nested.model.state_dict(), tmp_path / "nested.safetensors")
    options = BackboneOptions(weights=tmp_path / "nested.safetensors")
    flat = create_open_clip(configs.clip, options, name="flat", published="")
    assert flat.weights_digest == clip.weights_digest


def test_weights_that_a_file_holds_under_two_names_are_two_in_the_model():
    """A step on one of them would otherwise change the other, too."""
    from torch import nn

    from calib.backbones.weights.convert import load_strictly

    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    shared = torch.eye(2)
    load_strictly(model, {"a.weight": shared, "b.weight": shared}, name="toy", source="here")
    assert model["a"].weight.data_ptr() != model["b"].weight.data_ptr()
    assert model["a"].weight.equal(model["b"].weight)


# Files that are refused


def test_missing_and_unexpected_names(small, clip, tmp_path):
    state = clip.model.state_dict()
    del state["ln_final.weight"]
    state["extra.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "model.safetensors")
    message = (
        r"not fit clip.*Missing \(1 of \d+\): ln_final\.weight\. Not expected \(1 of \d+\): extra\.weight"
    )
    with pytest.raises(ValueError, match=message):
        small("clip", weights=tmp_path)


def test_another_architecture_is_named(small, medclip, tmp_path, configs):
    large = {
        "visual.conv1.weight": torch.zeros(1024, 3, 14, 14),
        "token_embedding.weight": torch.zeros(2, 24),
    }
    large |= {f"visual.transformer.resblocks.{i}.ln_1.weight": torch.zeros(1024) for i in range(24)}
    save_file(large, tmp_path / "large.safetensors")
    message = (
        r"like a CLIP in OpenAI's layout, ViT-L/14: image width 1024, patch 14, 24 layers; clip is a CLIP"
    )
    with pytest.raises(ValueError, match=message):
        small("clip", weights=tmp_path / "large.safetensors")
    save_file(medclip.model.state_dict(), tmp_path / "medclip.safetensors")
    with pytest.raises(ValueError, match="look like MedCLIP with a Swin image tower; clip is"):
        small("clip", weights=tmp_path / "medclip.safetensors")


def test_wrong_shapes_are_named(small, clip, tmp_path):
    state = {**clip.model.state_dict(), "positional_embedding": torch.zeros(77, 24)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"positional_embedding is \(77, 24\) instead of \(22, 24\)"):
        small("clip", weights=tmp_path)


def test_other_layouts_are_recognised():
    one = torch.zeros(1)
    assert looks_like({"visual.conv1.weight": one, "visual.layer1.0.conv1.weight": one}).endswith(
        "ResNet image tower"
    )
    assert looks_like({"vision_model.model.conv1.weight": one}) == "MedCLIP with a ResNet-50 image tower"
    assert looks_like({"bert.embeddings.word_embeddings.weight": one}) == "a BERT text tower alone"
    assert looks_like({"zebra": one}) == "an unknown model (zebra, ...)"


def test_hugging_face_clip_with_a_missing_key(small, tmp_path):
    state = {"vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lack .*layers\.0\.self_attn\.k_proj\.weight"):
        small("clip", weights=tmp_path)


def test_nan_is_refused(small, clip, tmp_path):
    state = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    state["visual.proj"][3, 1] = float("nan")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"damaged: visual\.proj holds NaN"):
        small("clip", weights=tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_files_are_named(small, clip, tmp_path, file, share):
    path = tmp_path / file
    state = {name: tensor for name, tensor in clip.model.state_dict().items() if tensor.numel() < 10_000}
    save_file(state, path) if file.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        small("clip", weights=tmp_path)


class Malicious:
    """Makes a folder when it is unpickled the unsafe way."""

    def __init__(self, target) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_pickled_objects_are_refused_and_never_run(small, tmp_path):
    path, target = tmp_path / "model.pt", tmp_path / "ran"
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "args": Malicious(target)}, path)
    with pytest.raises(ValueError, match=r"model\.pt is refused: it holds Python objects"):
        small("clip", weights=path)
    assert not target.exists()


def test_torchscript_with_foreign_objects_is_refused_and_never_run(small, tmp_path):
    path, target = tmp_path / "model.pt", tmp_path / "ran"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/data.pkl", pickle.dumps(Malicious(target)))
    with pytest.raises(ValueError, match=r"model\.pt is refused.*mkdir, which is neither a tensor"):
        small("clip", weights=path)
    assert not target.exists()


def test_other_contents_are_refused(tmp_path):
    for content, message in (
        ([torch.zeros(2)], "holds a list, not a dictionary"),
        ({"epoch": 3, "loss": 0.5}, "holds no tensors; its entries are epoch, loss"),
    ):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        read_weights(tmp_path / "model.pt")
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        read_weights(tmp_path / "index.json")


def test_safetensors_are_read_piece_by_piece_and_stay_what_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PIECE", 100)
    path = tmp_path / "model.safetensors"
    state = {name: torch.full((number, 5), number) for number, name in enumerate("cadb")}
    save_file(state, path)
    found = read_weights(path)
    path.write_bytes(b"")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }
    save_file(state, path)
    stamps = iter([(1,), (2,)])
    monkeypatch.setattr(reading, "_stamp", lambda path: next(stamps))
    with pytest.raises(ValueError, match=r"model\.safetensors was changed while it was read"):
        read_weights(path)


def test_weights_that_share_memory_in_their_file_have_their_own_in_the_model(small, clip, tmp_path):
    state = dict(clip.model.state_dict())
    whole = torch.stack([state["ln_final.weight"], state["ln_final.bias"]])
    state["ln_final.weight"], state["ln_final.bias"] = whole
    state["transformer.resblocks.0.ln_1.bias"] = state["transformer.resblocks.1.ln_1.bias"] = whole[1]
    torch.save(state, tmp_path / "model.pt")
    weights = list(small("clip", weights=tmp_path / "model.pt").parameters())
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == len(weights)
    assert all(weight.untyped_storage().nbytes() == weight.nbytes for weight in weights)


# Finding files


@pytest.mark.skipif(not os.path.isfile("/proc/self/mem"), reason="there is no such file here")
def test_a_file_of_the_system_that_cannot_be_read_is_named(small) -> None:
    """Once it ended in the bare words of error 5."""
    with pytest.raises(ValueError, match=r"^/proc/self/mem cannot be read as weights \(.*\)\. It is a"):
        small("clip", weights="/proc/self/mem")


def test_missing_files_and_folders(small, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No weights at '.*plip\.pt': neither a file nor a folder.*backbone\.weights"
    ):
        small("clip", weights=tmp_path / "plip.pt")
    with pytest.raises(
        FileNotFoundError, match=r"looked for open_clip_model\.safetensors, .*pytorch_model\.bin"
    ):
        small("clip", weights=tmp_path)
    with pytest.raises(
        ValueError, match=r"backbone\.revision=abc applies to a hub id .* backbone\.weights is"
    ):
        find_weights(tmp_path, "abc")


def test_folder_prefers_open_clip_names(tmp_path):
    for file in ("pytorch_model.bin", "model.safetensors", "open_clip_pytorch_model.bin"):
        (tmp_path / file).touch()
    assert find_weights(tmp_path).path.name == "open_clip_pytorch_model.bin"


@pytest.fixture
def hub(monkeypatch, tmp_path, vocab, medclip):
    """Stand in for the hub: files of org/medclip, a cache, a switch for the network, the calls made."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    cache.mkdir()
    torch.save(medclip.model.state_dict(), served / "pytorch_model.bin")
    shutil.copy(vocab, served / "vocab.txt")
    state = SimpleNamespace(online=True, calls=[])

    def list_files(repo_id, *, revision=None):
        if not state.online:
            raise ConnectionError("no route to host")
        if repo_id != "org/medclip":
            raise RepositoryNotFoundError(f"404 {repo_id}", response=Mock())
        return ["README.md", *os.listdir(served)]

    def fetch(repo_id, filename, *, revision=None, local_files_only=False):
        state.calls.append((repo_id, filename, revision))
        assert local_files_only or state.online
        if not local_files_only:
            shutil.copy(served / filename, cache / filename)
        if not (cache / filename).exists():
            raise EntryNotFoundError(f"{filename} is not in the cache")
        return str(cache / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_files)
    return state


@pytest.mark.filterwarnings("ignore:The vocabulary given:UserWarning")
@pytest.mark.parametrize("weights", ["hf://org/medclip", "org/medclip"])
def test_hub_id_brings_weights_and_vocabulary(small, medclip, hub, weights):
    backbone = small("medclip", weights=weights, revision="v1", tokenizer=None)
    assert backbone.weights_digest == medclip.weights_digest
    assert backbone.describe()["weights"]["source"] == "hf://org/medclip@v1"
    assert hub.calls == [("org/medclip", name, "v1") for name in ("pytorch_model.bin", "vocab.txt")]
    hub.online = False  # what was loaded before is used from the cache
    again = small("medclip", weights=weights, revision="v1", tokenizer="hf://org/medclip")
    assert again.weights_digest == medclip.weights_digest


def test_hub_problems_are_explained(small, hub):
    with pytest.raises(FileNotFoundError, match=r"Could not get 'org/none'.*404 org/none"):
        small("clip", weights="hf://org/none")
    hub.online = False
    with pytest.raises(
        FileNotFoundError,
        match=r"not in the local cache, and no route to host.*give their folder: backbone\.weights",
    ):
        small("clip", weights="org/none")


def test_mistyped_path_is_not_looked_up_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in ("served/medclip", "org/medclip.pt", "./medclip", "no/such/folder"):
        with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
            find_weights(wrong)
    assert not hub.calls


# Activation


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("open_clip_config.json", {"model_cfg": {"embed_dim": 16}}),
        ("config.json", {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu"}}),
    ],
)
def test_activation_of_the_file_is_compared(small, clip, tmp_path, file, content):
    save_file(clip.model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.warns(
        UserWarning,
        match=r"says GELU, but clip is .*QuickGELU; .*backbone\.quick_gelu=false, or .*quick_gelu=true",
    ):
        used = small("clip", weights=tmp_path)
    assert used.describe()["architecture"]["activation"] == "quick_gelu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = small("clip", weights=tmp_path, quick_gelu=False)
        assert torch.equal(small("clip", weights=tmp_path, quick_gelu=True).logit_scale, used.logit_scale)
    assert other.describe()["architecture"]["activation"] == "gelu"
    tokens = used.tokenize(TEXTS)
    assert (used.encode_text(tokens) - other.encode_text(tokens)).abs().max() > 1e-4

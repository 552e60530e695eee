"""Weight files as others write them: wrapped by trainers, from OpenAI, in Hugging Face form."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import save_file

from calib.backbones import create_backbone
from calib.backbones.weights.reading import read_weights

NAMES = ("token_embedding.weight", "visual.conv1.weight", "logit_scale")
OPENAI = {name: torch.tensor(9) for name in ("input_resolution", "context_length", "vocab_size")}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "module.module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_orig_mod._orig_mod.",
        "model._orig_mod.",
        "model.module.",
        "module.model.module._orig_mod.",
        "_forward_module.model.",
        "_fsdp_wrapped_module.module.",
    ],
)
def test_wrappers_are_taken_off_in_any_order_and_number(tmp_path, prefix) -> None:
    state = {prefix + name: torch.ones(2) for name in NAMES}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    assert set(read_weights(tmp_path / "w.pt")) == set(NAMES)


def test_wrappers_of_single_layers_averages_and_shards_are_taken_off(tmp_path) -> None:
    state = {
        "module.visual._orig_mod.conv1.weight": torch.ones(2),
        "module.visual.blocks.0._checkpoint_wrapped_module.ln.weight": torch.zeros(2),
        "n_averaged": torch.tensor(3),
    }
    torch.save(state, tmp_path / "w.pt")
    assert set(read_weights(tmp_path / "w.pt")) == {"visual.conv1.weight", "visual.blocks.0.ln.weight"}
    save_file({"module.a": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"module.b": torch.ones(2)}, tmp_path / "2.safetensors")
    index = {"weight_map": {"module.a": "1.safetensors", "module.b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(read_weights(tmp_path / "model.safetensors.index.json")) == {"a", "b"}


def test_a_prefix_that_not_all_names_have_belongs_to_the_model(tmp_path) -> None:
    torch.save({"model.a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "w.pt")
    assert set(read_weights(tmp_path / "w.pt")) == {"model.a", "b"}
    torch.save({"_orig_mod.a": torch.ones(2), "a": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt holds 'a' twice, once inside a wrapper"):
        read_weights(tmp_path / "w.pt")


def _gelu_folder(small, configs, folder, **state):
    model = small("clip", seed=3, quick_gelu=False).model
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**configs.clip, "quick_gelu": False}})
    )
    path = folder / "ViT.pt"
    torch.save({**model.state_dict(), **state}, path)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_openai_under_a_name_with_gelu_is_pointed_out(small, configs, tmp_path, wrapped) -> None:
    state = small("clip", seed=3).model.state_dict() | OPENAI
    state = {f"module.{name}": tensor for name, tensor in state.items()} if wrapped else state
    _gelu_folder(small, configs, tmp_path)
    path = tmp_path / "openai.pt"
    torch.save(state, path)
    message = r"openai\.pt \(a file of OpenAI\) says QuickGELU, .*backbone\.quick_gelu=true, or .*=false"
    with pytest.warns(UserWarning, match=message):
        used = create_backbone(f"local-dir:{tmp_path}", weights=str(path))
    assert used.describe()["architecture"]["activation"] == "gelu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_backbone(f"local-dir:{tmp_path}", weights=str(path), quick_gelu=False)
        right = create_backbone(f"local-dir:{tmp_path}", weights=str(path), quick_gelu=True)
        expected = small("clip", weights=path)  # a name with QuickGELU
        create_backbone(f"local-dir:{tmp_path}", weights=str(tmp_path / "ViT.pt"))  # not of OpenAI
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(right.encode_image(images), expected.encode_image(images))


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        ({"model_type": "clip", "text_config": {}, "vision_config": {}}, True),  # the usual is left out
        (
            {
                "model_type": "clip",
                "text_config": {"hidden_act": "gelu"},
                "vision_config": {"hidden_act": "gelu"},
            },
            False,
        ),
        ({"model_type": "other", "text_config": {}, "vision_config": {}}, False),
    ],
)
def test_what_a_saved_clip_leaves_out_is_its_usual_activation(small, tmp_path, config, warned) -> None:
    save_file(small("clip").model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        small("clip", weights=tmp_path, quick_gelu=None)  # used with QuickGELU
    assert not [each for each in said if "says QuickGELU" in str(each.message)]
    assert any("says GELU" in str(each.message) for each in said) == (config["text_config"] != {})
    from calib.backbones.openclip import _quick_gelu_said

    assert (_quick_gelu_said(config) is True) == warned


def test_siglip_in_hugging_face_form_gets_the_right_reason(small, tmp_path) -> None:
    from transformers import SiglipConfig, SiglipModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    SiglipModel(SiglipConfig(text_config={**tower, "vocab_size": 40}, vision_config=vision)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=r"look like a SigLIP in Hugging Face form, which is not supported"):
        small("clip", weights=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no open_clip_config\.json\. It holds a 'siglip' model in Hugging"
    ):
        create_backbone(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip"}, "a CLIP in Hugging Face form: give it as backbone.weights"),
        ({"model_type": "bert"}, "a 'bert' model in Hugging Face form, which is not supported"),
        ({}, "has no open_clip_config.json.$"),
    ],
)
def test_a_folder_that_is_no_open_clip_model_says_what_it_is(tmp_path, config, message) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=message):
        create_backbone(f"local-dir:{tmp_path}")

"""Backbones by name: what is known, what is missing and said so, and the published sizes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import calib.backbones
from calib.backbones import BACKBONES, create_backbone
from calib.backbones.preprocessing import CLIP, MEDCLIP, Preprocessing

PUBLISHED = ["clip", "plip", "quiltnet", "biomedclip", "medclip"]


def test_heavy_libraries_are_imported_only_when_a_backbone_is_built():
    heavy, top = {"open_clip", "transformers", "timm", "torchvision", "huggingface_hub", "safetensors"}, set()
    for path in Path(calib.backbones.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                top |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                top.add(str(node.module).partition(".")[0])
    assert "torch" in top  # the test sees imports
    assert not heavy & top


def test_unknown_names_say_what_was_meant():
    with pytest.raises(ValueError, match=r"Unknown backbone 'biomedclp'\. Did you mean 'biomedclip'\?"):
        create_backbone("biomedclp")
    with pytest.raises(ValueError, match="Unknown backbone 'open_clip:'"):
        create_backbone("open_clip:")
    with pytest.raises(ValueError, match=r"Unknown open_clip model 'ViT-B-23'\. Did you mean 'ViT-B-32'"):
        create_backbone("open_clip:ViT-B-23", weights="random")


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_weights_say_where_to_get_them(name, vocab):
    with pytest.raises(
        ValueError, match=rf"{name} comes without weights\. Published: .*backbone\.weights=<file or folder>"
    ):
        create_backbone(name)
    assert name in BACKBONES


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("biomedclip", "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"),
        ("medclip", "emilyalsentzer/Bio_ClinicalBERT"),
    ],
)
def test_missing_vocabulary_says_where_to_get_it(name, published):
    with pytest.raises(
        FileNotFoundError,
        match=rf"vocabulary of {published}.*vocab\.txt.*backbone\.tokenizer=hf://{published}",
    ):
        create_backbone(name, weights="random")


def test_settings_that_do_not_apply_are_refused(small, vocab):
    with pytest.raises(ValueError, match=r"backbone\.quick_gelu does not apply to medclip"):
        small("medclip", quick_gelu=True)
    with pytest.raises(ValueError, match=r"backbone\.quick_gelu does not apply to biomedclip"):
        small("biomedclip", quick_gelu=False)
    with pytest.raises(ValueError, match=r"backbone\.tokenizer=.* does not apply to clip"):
        small("clip", tokenizer=vocab)
    with pytest.raises(ValueError, match="Unknown parity switch of medclip 'official_double_embedding'"):
        small("medclip", parity={"official_double_embedding": True})
    with pytest.raises(ValueError, match="Did you mean 'official_double_embedding'"):
        small("biomedclip", parity={"double_embedding": True})
    with pytest.raises(ValueError, match="official_double_embedding applies to BERT text towers"):
        small("clip", parity={"official_double_embedding": True})
    assert small("clip", parity={"official_double_embedding": False}).parity == {
        "official_double_embedding": False
    }


def test_preprocessing_is_own_calibprompts_or_given(small):
    own, official = small("medclip").preprocess, small("medclip", preprocessing="calibprompt").preprocess
    assert (own.mean, own.resize, own.grey, own.image_size) == (MEDCLIP.mean, "pad", True, 32)
    assert (official.mean, official.resize, official.grey, official.image_size) == (
        CLIP.mean,
        "shortest",
        False,
        32,
    )
    given = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    assert small("medclip", preprocessing=given).preprocess is given
    assert small("clip").preprocess.to_dict() == {**CLIP.to_dict(), "image_size": 64}
    with pytest.raises(
        ValueError,
        match=r"Unknown value of backbone\.preprocessing 'calibpromt'\. Did you mean 'calibprompt'",
    ):
        small("medclip", preprocessing="calibpromt")


@pytest.fixture
def folder(small, configs, tmp_path):
    """A folder as open_clip publishes models, with weights in 16 bit."""
    model = small("clip", seed=3).model
    save_file(
        {name: tensor.half() for name, tensor in model.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    preprocess = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    content = {"model_cfg": configs.clip, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    return tmp_path


def test_local_folder_equals_open_clips_own_loader(folder):
    import open_clip

    backbone = create_backbone(f"local-dir:{folder}")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    image = Image.effect_noise((90, 70), 60).convert("RGB")
    torch.testing.assert_close(backbone.preprocess(image), transform(image), atol=1e-6, rtol=0)
    images = transform(image)[None]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["covid", "a lung"])
    with torch.no_grad():
        expected = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
    assert torch.equal(backbone.tokenize(["covid", "a lung"]), tokens)
    torch.testing.assert_close(backbone.encode_image(images), expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(backbone.encode_text(tokens), expected[1], atol=1e-6, rtol=0)
    assert backbone.describe()["weights"]["source"] == str(folder)
    untrained = create_backbone(f"local-dir:{folder}", weights="random")
    assert untrained.weights_digest != backbone.weights_digest


def test_embedded_model_equals_open_clips_own_loader():
    import open_clip

    backbone = create_backbone("embedded")
    folder = f"local-dir:{Path(calib.backbones.__file__).parents[1] / 'assets' / 'embedded'}"
    model, _, transform = open_clip.create_model_and_transforms(folder)
    model.eval()
    texts = ["a chest X-ray of a normal patient", "lung adenocarcinoma."]
    tokens = open_clip.get_tokenizer(folder)(texts)
    images = transform(Image.effect_noise((90, 70), 60).convert("RGB"))[None]
    with torch.no_grad():
        expected = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
    assert torch.equal(backbone.tokenize(texts), tokens)
    assert int(tokens.max()) < backbone.tokenizer.vocab_size
    torch.testing.assert_close(backbone.encode_image(images), expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(backbone.encode_text(tokens), expected[1], atol=1e-6, rtol=0)
    joined = backbone.piece_ids("x x") + backbone.piece_ids(" lung adenocarcinoma.")
    assert joined == backbone.piece_ids("x x lung adenocarcinoma.")
    described = backbone.describe()
    assert described["weights"]["source"] == "embedded"
    assert len(described["tokenizer"]["digest"]) == 64
    assert create_backbone("embedded", weights="random").weights_digest != backbone.weights_digest


def test_incomplete_local_folders(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match=r"not an open_clip model: it has no open_clip_config\.json"):
        create_backbone(f"local-dir:{empty}")
    (empty / "open_clip_config.json").write_text('{"embed_dim": 3}')
    with pytest.raises(ValueError, match="has no model_cfg; its keys are embed_dim"):
        create_backbone(f"local-dir:{empty}")
    for content, message in (
        ("[1]", r"open_clip_config\.json must hold keys and values \({...}\), not a list"),
        ('{"model_cfg": {}}', r"json: model_cfg\.vision_cfg, model_cfg\.text_cfg must hold keys"),
        ('{"model_cfg": 3, "preprocess_cfg": []}', "json: model_cfg, preprocess_cfg must hold keys"),
        ('{"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}', "embed_dim must be a whole number, not None"),
    ):
        (empty / "open_clip_config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            create_backbone(f"local-dir:{empty}", weights="random")
    (empty / "open_clip_config.json").unlink()
    (empty / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json must hold keys and values"):
        create_backbone(f"local-dir:{empty}")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="looked for"):
        create_backbone(f"local-dir:{folder}")


def test_hub_folder_keeps_its_name(folder, monkeypatch):
    from calib.backbones import named

    monkeypatch.setattr(named, "download", lambda hub_id, revision: folder)
    described = create_backbone("hf-hub:org/name", revision="v2").describe()
    assert described["name"] == "hf-hub:org/name"
    assert described["weights"]["source"] == "hf://org/name@v2"


def test_a_revision_is_that_of_weights_on_the_hub_too(folder, monkeypatch):
    """They came from the newest revision, while the description said another."""
    from calib.backbones import named, options

    asked = []
    monkeypatch.setattr(named, "download", lambda hub_id, revision: folder)
    monkeypatch.setattr(options, "find_weights", lambda *given: asked.append(given) or pytest.fail("enough"))
    with pytest.raises(pytest.fail.Exception, match="enough"):
        create_backbone("hf-hub:org/name", weights="hf://org/other", revision="v2")
    with pytest.raises(pytest.fail.Exception, match="enough"):
        create_backbone("hf-hub:org/name", weights=str(folder), revision="v2")
    assert asked == [("hf://org/other", "v2"), (str(folder), None)]


def test_a_vocabulary_may_lie_in_ones_home(tmp_path, monkeypatch):
    from calib.backbones.options import BackboneOptions

    monkeypatch.setenv("HOME", str(tmp_path))
    found = BackboneOptions(tokenizer="~/bert").find_tokenizer("toy", None, "org/name")
    assert found == tmp_path / "bert"


def test_coca_is_refused(configs):
    from calib.backbones.openclip import build_model

    with pytest.raises(ValueError, match="CoCa models are not supported"):
        build_model({**configs.clip, "multimodal_cfg": {}})


def test_published_preprocessing_of_open_clip_models():
    from calib.backbones.named import _published_preprocessing

    siglip = _published_preprocessing("ViT-B-16-SigLIP")
    assert (siglip["mean"], siglip["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    assert _published_preprocessing("ViT-B-32-quickgelu")["mean"] == CLIP.mean


def test_open_clip_model_by_its_name():
    backbone = create_backbone("open_clip:ViT-S-32", weights="random")
    assert backbone.describe()["architecture"]["activation"] == "gelu"
    assert (backbone.name, backbone.embed_dim, backbone.context_length) == ("open_clip:ViT-S-32", 384, 77)
    assert backbone.preprocess == CLIP
    with pytest.raises(
        ValueError, match=r"open_clip:ViT-B-32 comes without weights\. Published: the tags .*openai"
    ):
        create_backbone("open_clip:ViT-B-32", preprocessing="calibprompt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions", "tensors", "keys"),
    [
        ("plip", 151.28, 302, ("visual.proj", "transformer.resblocks.11.mlp.c_fc.weight", "text_projection")),
        ("quiltnet", 151.28, 302, ("visual.conv1.weight", "token_embedding.weight", "ln_final.bias")),
        (
            "biomedclip",
            195.90,
            351,
            (
                "visual.trunk.blocks.11.mlp.fc2.bias",
                "visual.head.proj.weight",
                "text.proj.0.weight",
                "text.proj.2.weight",
            ),
        ),
        (
            "medclip",
            136.62,
            None,
            (
                "vision_model.projection_head.weight",
                "text_model.model.pooler.dense.bias",
                "text_model.projection_head.weight",
            ),
        ),
    ],
)
def test_published_sizes(name, millions, tensors, keys, vocab):
    bert = name in ("biomedclip", "medclip")
    backbone = create_backbone(name, weights="random", tokenizer=vocab if bert else None)
    state = backbone.model.state_dict()
    assert backbone.describe()["parameters"] / 1e6 == pytest.approx(millions, abs=0.005)
    assert tensors is None or len(state) == tensors
    assert not [key for key in keys if key not in state]
    lengths = {"biomedclip": 256, "medclip": 25}
    assert backbone.context_length == lengths.get(name, 77)
    assert (backbone.embed_dim, backbone.token_width) == (512, 768 if bert else 512)
    images = torch.randn(2, 3, 224, 224)
    assert backbone.encode_image(images).shape == (2, 512)
    assert backbone.encode_text(backbone.tokenize(["covid"])).shape == (1, 512)

"""Towers and tokenizers of our own are those of open_clip, timm and transformers, to the last bit."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import calib.backbones.openclip
import calib.backbones.vocabularies
from calib.backbones.bpe import ClipBpe, vocabulary_file
from calib.backbones.folder_tokenizers import folder_tokenizer
from calib.backbones.named import embedded
from calib.backbones.openclip import build_model, create_open_clip
from calib.backbones.options import BackboneOptions
from calib.backbones.towers.choice import own_model
from calib.backbones.towers.clip import Clip

EMBEDDED = Path(calib.__file__).parent / "assets" / "embedded"
TEXTS = ["An H&amp;E image of <b>debris</b>.", "  COVID-19:  a  café's lung\n", "x", "肺 opacity ½ 🫁"]


def both(build) -> tuple:
    """Return a backbone as it is built, and as it is built of the libraries' parts."""
    ours = build()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calib.backbones.openclip, "own_model", lambda config: None)
        patch.setattr(calib.backbones.vocabularies, "folder_tokenizer", lambda *given: None)
        theirs = build()
    assert type(ours.model) is Clip
    assert type(theirs.model).__module__ == "open_clip.model"
    return ours, theirs


@pytest.fixture(scope="module", params=["quick_gelu", "gelu", "embedded"])
def pair(request, configs, tmp_path_factory):
    if request.param == "embedded":
        return both(lambda: embedded(BackboneOptions()))
    config = {**configs.clip, "quick_gelu": request.param == "quick_gelu"}
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    torch.manual_seed(1)
    save_file({k: v + 0.1 * torch.randn_like(v) for k, v in build_model(config).state_dict().items()}, path)
    options = BackboneOptions(weights=path)
    return both(lambda: create_open_clip(config, options, name="clip", published="here"))


@pytest.mark.parametrize("linear", ["plain", "packed"])
def test_features_and_gradients_are_equal(pair, linear: str, monkeypatch) -> None:
    monkeypatch.setenv("CALIB_LINEAR", linear)
    ours, theirs = pair
    assert ours.describe() == theirs.describe()
    generator = torch.Generator().manual_seed(2)
    size = ours.preprocess.image_size
    images = torch.randn(3, 3, size, size, generator=generator)
    assert torch.equal(ours.encode_image(images), theirs.encode_image(images))
    tokens = ours.tokenize(TEXTS, truncate=True)
    assert torch.equal(tokens, theirs.tokenize(TEXTS, truncate=True))
    assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))
    assert torch.equal(ours.encode_sentences(tokens), theirs.encode_sentences(tokens))
    positions = torch.arange(1, 4).expand(len(tokens), 3)
    found = []
    for backbone in pair:
        for encode in (backbone.encode_prompts, backbone.encode_prompts_by_hook):
            context = torch.randn(3, ours.token_width, generator=torch.Generator().manual_seed(3))
            features = encode(context.requires_grad_(), tokens, positions)
            features.square().cumsum(0)[:, 0].sum().backward()
            found.append((features, context.grad))
    for our, their in zip(found[:2], found[2:], strict=True):
        assert torch.equal(our[0], their[0])
        assert torch.equal(our[1], their[1])
    assert ours._fast_tower.is_known()


def test_under_autocast_as_well(pair) -> None:
    ours, theirs = pair
    tokens = ours.tokenize(TEXTS, truncate=True)
    images = torch.randn(2, 3, *[ours.preprocess.image_size] * 2, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))
        assert torch.equal(ours.encode_image(images), theirs.encode_image(images))


def test_a_layer_that_was_exchanged_is_not_passed_over(pair) -> None:
    tower = pair[0]._fast_tower
    handle = pair[0].model.transformer.resblocks[0].register_forward_hook(lambda *given: None)
    assert not tower.is_known()
    handle.remove()
    assert tower.is_known()


def test_images_of_uneven_size_are_padded_as_timm_pads_them() -> None:
    ours, theirs = both(lambda: embedded(BackboneOptions()))
    images = torch.randn(2, 3, 95, 130, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert torch.equal(ours.model.visual(images), theirs.model.visual(images))


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14-336", "ViT-S-32-alt"])
def test_published_sizes_have_open_clips_names_and_shapes(name: str) -> None:
    import open_clip

    config = open_clip.get_model_config(name)
    ours = own_model(config)
    with torch.device("meta"):
        theirs = build_model(config)
    assert ours is not None
    shapes = [{name: each.shape for name, each in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert all(not v.is_meta for v in (*ours.parameters(), *ours.buffers()))


@pytest.mark.parametrize(
    "change",
    [
        {"init_logit_bias": -10},
        {"custom_text": True},
        {"multimodal_cfg": {}},
        {"vision_cfg": {"timm_model_name": "vit_base_patch16_224"}},
        {"vision_cfg": {"layers": [3, 4, 6, 3], "width": 64}},
        {"vision_cfg": {"image_size": [64, 32]}},
        {"vision_cfg": {"width": 100}},
        {"vision_cfg": {"pool_type": "avg"}},
        {"vision_cfg": {"no_ln_pre": True}},
        {"vision_cfg": {"ls_init_value": 0.1}},
        {"text_cfg": {"pool_type": "last"}},
        {"text_cfg": {"hf_model_name": "roberta-base"}},
        {"text_cfg": {"no_causal_mask": True}},
        {"text_cfg": {"heads": 7}},
        {"text_cfg": {"proj_type": "none"}},
    ],
    ids=str,
)
def test_what_is_not_plain_is_left_to_open_clip(change: dict, configs) -> None:
    config = copy.deepcopy(configs.clip)
    for key, value in change.items():
        if isinstance(value, dict) and key in config:
            config[key] |= value
        else:
            config[key] = value
    assert own_model(config) is None
    assert own_model(configs.clip) is not None


def test_random_weights_are_drawn_as_open_clip_draws_them(small) -> None:
    assert type(small("clip").model).__module__ == "open_clip.model"


@pytest.fixture(scope="module")
def encodings():
    from open_clip.tokenizer import SimpleTokenizer

    return ClipBpe(vocabulary_file()), SimpleTokenizer()


@given(text=st.text(max_size=40))
def test_byte_pairs_of_any_text_are_open_clips(encodings, text: str) -> None:
    ours, theirs = encodings
    assert ours.encode(text) == theirs.encode(text)


def test_byte_pairs_of_this_projects_words_are_open_clips(encodings) -> None:
    ours, theirs = encodings
    lines = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    for text in [*TEXTS, *lines, "<start_of_text> x<end_of_text>", "", "it's we'll 10x"]:
        assert ours.encode(text) == theirs.encode(text), text
    marks = (ours.sot_token_id, ours.eot_token_id, ours.vocab_size)
    assert marks == (theirs.sot_token_id, theirs.eot_token_id, theirs.vocab_size)


def test_without_its_vocabulary_file_open_clips_tokenizer_is_taken(monkeypatch) -> None:
    from calib.backbones import tokenization

    monkeypatch.setattr(tokenization, "vocabulary_file", lambda: None)
    found = tokenization._clip_bpe.__wrapped__()
    assert type(found).__module__ == "open_clip.tokenizer"


@pytest.fixture(scope="module")
def tokenizers():
    return [backbone.tokenizer for backbone in both(lambda: embedded(BackboneOptions()))]


@given(text=st.text(max_size=40))
def test_texts_are_read_from_tokenizer_json_as_transformers_reads_them(tokenizers, text: str) -> None:
    ours, theirs = tokenizers
    assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "BertTokenizerFast"},
        {"pad_token": None},
        {"pad_token": {"content": "<pad>"}},
        {"eos_token": "<other>"},
        {"add_prefix_space": False},
        {"clean_up_tokenization_spaces": True},
    ],
    ids=str,
)
def test_a_tokenizer_that_is_more_than_its_file_is_left_to_transformers(change: dict, tmp_path: Path) -> None:
    shutil.copy(EMBEDDED / "tokenizer.json", tmp_path)
    config = json.loads((EMBEDDED / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert folder_tokenizer(tmp_path, 40) is not None
    changed = {key: value for key, value in {**config, **change}.items() if value is not None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(changed))
    assert folder_tokenizer(tmp_path, 40) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "added_tokens.json").write_text("{}")
    assert folder_tokenizer(tmp_path, 40) is None


def test_a_damaged_tokenizer_is_left_to_the_one_who_says_why(tmp_path: Path) -> None:
    shutil.copy(EMBEDDED / "tokenizer_config.json", tmp_path)
    assert folder_tokenizer(tmp_path, 40) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert folder_tokenizer(tmp_path, 40) is None

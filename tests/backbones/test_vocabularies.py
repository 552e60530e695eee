"""Tokenizers and text towers are read from files; no hub is asked that nobody named."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch

from calib.backbones import create_backbone
from calib.backbones.openclip import create_open_clip
from calib.backbones.options import BackboneOptions

TEXTS = ["a lung", "covid opacity."]
ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def _with_own_vocabulary() -> list[str]:
    import open_clip

    return [
        name
        for name in open_clip.list_models()
        if open_clip.get_model_config(name)["text_cfg"].get("hf_tokenizer_name")
    ]


@pytest.fixture
def asked(monkeypatch) -> list:
    """Return a list of the machines that are asked for: the network is there, and refuses."""
    hosts: list = []

    def refuse(host: object, *rest: object, **more: object) -> None:
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return hosts


def test_every_model_with_a_vocabulary_of_its_own_names_the_file_and_the_setting(asked) -> None:
    import open_clip

    names = _with_own_vocabulary()
    assert len(names) > 40
    for name in names:
        text = open_clip.get_model_config(name)["text_cfg"]
        with pytest.raises(FileNotFoundError) as error:
            create_backbone(f"open_clip:{name}", weights="random")
        message = str(error.value)
        assert message.startswith(f"open_clip:{name} reads text with the vocabulary of ")
        assert f"backbone.tokenizer=hf://{text['hf_tokenizer_name']}" in message
        assert "tokenizer.json" in message
    assert not asked


@pytest.fixture
def sentencepiece(tmp_path: Path) -> Path:
    """A folder with a tokenizer as SigLIP's: pieces with marks for spaces, padded with its end mark."""
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁x", "▁a", "▁lung", "▁covid", "▁opacity", "o", "n"]
    backend = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    backend.pre_tokenizer = Metaspace()
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path / "pieces")
    return tmp_path / "pieces"


def build(config: dict, **options):
    given = BackboneOptions(**{"weights": "random", **options})
    return create_open_clip(config, given, name="mine", published="here")


def siglip(configs) -> dict:
    own = {"hf_tokenizer_name": "timm/SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"}}
    return {**configs.clip, "custom_text": True, "text_cfg": {**configs.clip["text_cfg"], **own}}


def test_a_tokenizer_of_siglip_is_read_from_its_folder_as_open_clip_reads_it(
    configs, sentencepiece, asked
) -> None:
    import open_clip

    for tokenizer in (sentencepiece, sentencepiece / "tokenizer.json"):
        backbone = build(siglip(configs), tokenizer=tokenizer)
        expected = open_clip.tokenizer.HFTokenizer(
            str(sentencepiece), context_length=22, clean="canonicalize"
        )
        assert torch.equal(backbone.tokenize(TEXTS), expected(TEXTS))
        assert backbone.tokenizer.pad_id == 1
        assert backbone.encode_text(backbone.tokenize(TEXTS)).shape == (2, 16)
    assert not asked


def test_a_local_folder_of_siglip_holds_its_tokenizer(configs, sentencepiece, asked) -> None:
    content = {"model_cfg": siglip(configs), "preprocess_cfg": {}}
    (sentencepiece / "open_clip_config.json").write_text(json.dumps(content))
    backbone = create_backbone(f"local-dir:{sentencepiece}", weights="random")
    assert torch.equal(
        backbone.tokenize(TEXTS), build(siglip(configs), tokenizer=sentencepiece).tokenize(TEXTS)
    )
    for path in sentencepiece.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no vocab\.txt or tokenizer\.json is in .*backbone\.tokenizer="
    ):
        create_backbone(f"local-dir:{sentencepiece}", weights="random")
    assert not asked


def test_a_tokenizer_that_does_not_say_its_padding_is_refused(configs, sentencepiece) -> None:
    (sentencepiece / "tokenizer_config.json").unlink()
    with pytest.raises(
        ValueError, match=r"lacks \[PAD\].*vocabulary of timm/SigLIP: put the tokenizer_config\.json"
    ):
        build(siglip(configs), tokenizer=sentencepiece)


def test_a_damaged_tokenizer_is_refused_by_its_folder(configs, sentencepiece, asked) -> None:
    (sentencepiece / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pieces cannot be read as a tokenizer .*of timm/SigLIP"):
        build(siglip(configs), tokenizer=sentencepiece)
    with pytest.raises(FileNotFoundError, match=r"No tokenizer at .*nowhere"):
        build(siglip(configs), tokenizer="nowhere")
    assert not asked


def test_clipa_reads_the_vocabulary_of_bert_without_its_end_mark(configs, vocab, tmp_path, asked) -> None:
    import open_clip

    own = {"hf_tokenizer_name": "bert-base-uncased", "tokenizer_kwargs": {"strip_sep_token": True}}
    config = {**configs.clip, "text_cfg": {**configs.clip["text_cfg"], **own, "pool_type": "last"}}
    shutil.copy(vocab, tmp_path / "vocab.txt")
    backbone = build(config, tokenizer=tmp_path / "vocab.txt")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    expected = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=22, strip_sep_token=True)
    assert torch.equal(backbone.tokenize(TEXTS), expected(TEXTS))
    assert backbone.tokenizer.end == ()
    assert not asked


def test_the_numbers_of_a_text_tower_are_read_beside_its_vocabulary_or_asked_for(
    configs, vocab, tmp_path, asked
) -> None:
    text = {"hf_model_name": "roberta-mine", "hf_tokenizer_name": "roberta-mine", "context_length": 20}
    own = {**text, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    config = {**configs.biomedclip, "text_cfg": own}
    shutil.copy(vocab, tmp_path / "vocab.txt")
    with pytest.raises(
        FileNotFoundError, match=r"text tower of roberta-mine, whose config\.json .*backbone\.tokenizer"
    ):
        build(config, tokenizer=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(ROBERTA))
    backbone = build(config, tokenizer=tmp_path)
    assert (backbone.token_width, backbone.encode_text(backbone.tokenize(TEXTS)).shape) == (24, (2, 16))
    assert not asked


def test_a_tokenizer_for_a_tower_that_has_clips_is_refused(small, vocab) -> None:
    with pytest.raises(ValueError, match=r"does not apply to clip: its vocabulary comes with open_clip"):
        small("clip", tokenizer=vocab)

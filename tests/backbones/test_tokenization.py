"""Token rows: put together from pieces, never cut silently, vocabularies read offline."""

from __future__ import annotations

import json

import pytest
import torch

from calib.backbones.folder_tokenizers import wrap_open_clip
from calib.backbones.tokenization import bert_tokenizer, clip_tokenizer


def test_rows_are_pieces_between_marks(backbone):
    pieces = backbone.piece_ids("a normal lung.")
    row = backbone.assemble(pieces)
    start, end = backbone.tokenizer.start, backbone.tokenizer.end
    assert row.dtype == torch.int64
    assert row.tolist()[: len(pieces) + 2] == [*start, *pieces, *end]
    assert set(row.tolist()[len(pieces) + 2 :]) == {backbone.tokenizer.pad_id}
    assert torch.equal(backbone.tokenize(["a normal lung."])[0], row)
    assert backbone.max_pieces == backbone.context_length - 2


def test_pieces_of_words_join_to_the_pieces_of_the_text(backbone):
    joined = backbone.piece_ids("x x") + backbone.piece_ids(" lung opacity, not normal.")
    assert joined == backbone.piece_ids("x x lung opacity, not normal.")


def test_filler_is_an_ordinary_token(backbone):
    marks = {*backbone.tokenizer.start, *backbone.tokenizer.end, backbone.tokenizer.pad_id}
    assert backbone.filler_id not in marks
    assert backbone.piece_ids("X") == [backbone.filler_id]


def test_long_text_is_refused_by_name_and_cut_only_on_request(backbone):
    limit = backbone.context_length
    fits, long = "x " * (limit - 2), "x " * (limit - 1)
    assert backbone.tokenize([fits]).shape == (1, limit)
    with pytest.raises(ValueError, match=rf"text 'x x.*has {limit + 1} tokens .* reads {limit}\."):
        backbone.tokenize(["covid", long])
    assert torch.equal(backbone.tokenize([long], truncate=True), backbone.tokenize([fits]))
    with pytest.raises(ValueError, match=f"{limit - 1} tokens do not fit.*{limit - 2} of them between"):
        backbone.assemble([backbone.filler_id] * (limit - 1))


@pytest.mark.parametrize("texts", ["covid", []], ids=["one string", "nothing"])
def test_texts_must_be_a_list(backbone, texts):
    with pytest.raises(ValueError, match="list of one or more texts"):
        backbone.tokenize(texts)


def test_clip_rows_are_open_clips_own():
    import open_clip

    texts = ["An H&E image of cancer-associated stroma.", "covid &amp; flu  ", "naïve  T-cells"]
    assert torch.equal(clip_tokenizer(77)(texts), open_clip.tokenize(texts))
    assert clip_tokenizer().filler_id == 343


def test_bert_rows_are_transformers_own(vocab):
    from transformers import AutoTokenizer

    (vocab.parent / "config.json").write_text(json.dumps({"model_type": "bert"}))
    reference = AutoTokenizer.from_pretrained(str(vocab.parent))
    texts = ["A normal Lung.", "COVIDs, not lung opacity", "é"]
    expected = reference(texts, padding="max_length", truncation=True, max_length=9, return_tensors="pt")
    assert torch.equal(bert_tokenizer(vocab, 9)(texts), expected.input_ids)


def test_wordpieces_by_hand(vocab):
    tokenizer = bert_tokenizer(vocab.parent, 9)
    assert tokenizer(["Covids normal, stroma"]).tolist() == [[2, 20, 24, 21, 12, 1, 3, 0, 0]]


def test_tokenizer_json_equals_its_vocabulary(vocab, tmp_path):
    tokenizer = bert_tokenizer(vocab, 9)
    backend = tokenizer.encode.backend
    backend.enable_truncation(3)
    backend.enable_padding(length=30)
    backend.save(str(tmp_path / "tokenizer.json"))
    again = bert_tokenizer(tmp_path, 9)
    assert torch.equal(again(["a normal, covid lung."]), bert_tokenizer(vocab, 9)(["a normal, covid lung."]))
    assert again.digest == tokenizer.digest


def test_cased_vocabulary_says_so(vocab, tmp_path):
    (tmp_path / "vocab.txt").write_text(vocab.read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert bert_tokenizer(tmp_path, 9).encode("Normal normal") == [1, 21]


def test_missing_and_wrong_vocabularies(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected a vocab\.txt, a tokenizer\.json.*backbone\.tokenizer"
    ):
        bert_tokenizer(tmp_path, 9)
    (tmp_path / "vocab.txt").write_text("hello\n[UNK]\nworld")
    with pytest.raises(ValueError, match=r"lacks \[PAD\], \[CLS\], \[SEP\]"):
        bert_tokenizer(tmp_path, 9)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json file"):
        bert_tokenizer(tmp_path, 9)


def test_vocabulary_larger_than_the_table_is_refused(small, tmp_path, vocab):
    words = vocab.read_text().splitlines() + [f"word{i}" for i in range(11)]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    with pytest.raises(
        ValueError, match="vocabulary has 41 tokens, but the token embedding of medclip has 40 rows"
    ):
        small("medclip", tokenizer=tmp_path)


def test_open_clip_tokenizers_are_read_off_their_rows(vocab):
    import open_clip

    simple = open_clip.get_tokenizer("ViT-B-32")
    assert torch.equal(wrap_open_clip(simple, 20)(["covid"]), simple(["covid"], context_length=20))
    (vocab.parent / "config.json").write_text(json.dumps({"model_type": "bert"}))
    hf = open_clip.tokenizer.HFTokenizer(str(vocab.parent), context_length=9)
    wrapped = wrap_open_clip(hf, 9)
    assert (wrapped.start, wrapped.end, wrapped.pad_id, wrapped.vocab_size) == ((2,), (3,), 0, 30)
    assert torch.equal(wrapped(["a normal  lung"]), hf(["a normal  lung"]))

"""The prompt learner on small towers with random weights; official numbers are in test_prompts_golden.py."""

from __future__ import annotations

import pytest
import torch

from calib.core.names import check_class_names
from calib.prompts.learner import PromptLearner
from calib.prompts.zero_shot import zero_shot_features

NAMES = ["lung opacity", "normal", "covid"]


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_a_context_that_equals_words_gives_the_sentence_with_these_words(small, position: str) -> None:
    clip = small("clip")
    learner = PromptLearner(clip, NAMES, n_ctx=2, init="a photo", class_position=position)
    order = {"end": "a photo {}.", "middle": "a {} photo.", "front": "{} a photo."}[position]
    assert torch.allclose(learner(clip), zero_shot_features(clip, NAMES, order), atol=1e-6)


def test_bert_towers_take_the_name_at_the_end(small) -> None:
    for kind in ("biomedclip", "medclip"):
        backbone = small(kind)
        learner = PromptLearner(backbone, NAMES, n_ctx=2, init="a x")
        assert torch.allclose(learner(backbone), zero_shot_features(backbone, NAMES, "a x {}."), atol=1e-6)
        with pytest.raises(
            ValueError, match=rf"prompt\.class_position=front: {kind} takes the class name at end"
        ):
            PromptLearner(backbone, NAMES, n_ctx=2, class_position="front")


def test_the_random_start_depends_on_the_seed_alone(small) -> None:
    clip = small("clip")
    torch.manual_seed(1)
    first = PromptLearner(clip, NAMES, n_ctx=4, seed=7).context
    torch.manual_seed(2)
    again = PromptLearner(clip, NAMES, n_ctx=4, seed=7).context
    other = PromptLearner(clip, NAMES, n_ctx=4, seed=8).context
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    wide = PromptLearner(clip, NAMES, n_ctx=16, init_std=0.02).context
    assert wide.std().item() == pytest.approx(0.02, rel=0.15)


def test_class_specific_contexts_differ_and_shared_words_do_not(small) -> None:
    clip = small("clip")
    random = PromptLearner(clip, NAMES, n_ctx=4, class_specific=True).context
    assert random.shape == (3, 4, 24)
    assert not torch.equal(random[0], random[1])
    words = PromptLearner(clip, NAMES, n_ctx=2, init="a photo", class_specific=True)
    assert torch.equal(words.context[0], words.context[2])
    assert torch.allclose(words(clip), zero_shot_features(clip, NAMES, "a photo {}."), atol=1e-6)


def test_only_the_context_is_trained_and_every_token_of_it(small) -> None:
    clip = small("clip")
    learner = PromptLearner(clip, NAMES, n_ctx=4)
    assert [name for name, _ in learner.named_parameters()] == ["context"]
    assert list(learner.state_dict()) == ["context"]
    learner(clip).sum().backward()
    assert learner.context.grad is not None
    assert (learner.context.grad.norm(dim=1) > 0).all()


def test_underscores_are_read_as_spaces(small) -> None:
    clip = small("clip")
    a = PromptLearner(clip, ["lung_opacity", "normal"], n_ctx=2, seed=1)
    b = PromptLearner(clip, ["lung opacity", "normal"], n_ctx=2, seed=1)
    assert torch.equal(a.tokens, b.tokens)


def test_a_name_that_does_not_fit_is_named(small) -> None:
    clip = small("clip")  # 22 tokens, 20 between the marks
    with pytest.raises(
        ValueError, match=r"Class name 'colorectal adenocarcinoma epithelium' does not fit: 16 context"
    ):
        PromptLearner(clip, ["debris", "colorectal adenocarcinoma epithelium"], n_ctx=16)
    with pytest.raises(ValueError, match=r"does not fit.*data\.class_names.*prompt\.n_ctx"):
        PromptLearner(clip, NAMES, n_ctx=20)
    cut = PromptLearner(clip, ["debris", "colorectal adenocarcinoma epithelium"], n_ctx=16, truncate=True)
    assert cut(clip).shape == (2, 16)
    with pytest.raises(ValueError, match="does not fit"):  # nothing of the name would be left
        PromptLearner(clip, NAMES, n_ctx=20, truncate=True)


def test_bad_settings_say_what_is_wrong(small) -> None:
    clip = small("clip")
    with pytest.raises(ValueError, match=r"'a photo' are 2 tokens for clip; set prompt\.n_ctx=2"):
        PromptLearner(clip, NAMES, n_ctx=16, init="a photo")
    with pytest.raises(ValueError, match=r"Unknown value of prompt\.class_position 'back'"):
        PromptLearner(clip, NAMES, class_position="back")
    with pytest.raises(ValueError, match=r"data\.template needs \{\} exactly once, e\.g\. .+; got 'A scan'"):
        zero_shot_features(clip, NAMES, "A scan")
    for names, message in [
        (["one"], "At least two classes"),
        (["a", " "], "number 1 is empty"),
        (["lung_opacity", "lung opacity"], "both called 'lung opacity'"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_class_names(names)

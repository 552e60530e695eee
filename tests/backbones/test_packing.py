"""Packed rows see exactly what they would see in padded sentences."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from calib.backbones.fast import packing

HEADS, WIDTH, SETS = 2, 6, 3


def random_prompts(seed, n_classes):
    """Return prompts that share beginnings, are beginnings of others, or are the same."""
    draw = random.Random(seed)
    return [[1, *(draw.choice((-1, 5, 6)) for _ in range(draw.randint(0, 7)))] for _ in range(n_classes)]


def random_states(prompts):
    """Return query, key and value of every class and place; equal beginnings have equal states."""
    states, length = {}, max(map(len, prompts))
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(3, SETS, len(prompts), length, WIDTH)
    for index, prompt in enumerate(prompts):
        for place in range(len(prompt)):
            key = tuple(prompt[: place + 1])
            if key not in states:
                states[key] = torch.randn(3, SETS, WIDTH, generator=generator)
            rows[:, :, index, place] = states[key]
    return rows, len(states)


def attention(query, key, value, mask=None):
    """Attend within (S, L, E), head by head."""
    parts = [part.unflatten(-1, (HEADS, -1)).transpose(-2, -3) for part in (query, key, value)]
    return F.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(-2, -3).flatten(-2)


@pytest.mark.parametrize("branch", [1, 3, 10, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_tree_equals_causal_attention_class_by_class(monkeypatch, seed, branch):
    monkeypatch.setattr(packing, "BRANCH", branch)
    prompts = random_prompts(seed, n_classes=13)
    states, n_different = random_states(prompts)
    tree = packing.prompt_tree(prompts)
    assert len(tree.classes) == n_different  # every shared token is there once
    query, key, value = states[:, :, tree.classes, tree.places]
    found = tree.attend(query, key, value, HEADS)
    pooled = tree.attend_ends(query[:, tree.ends], key, value, HEADS)[:, tree.order]
    for index, prompt in enumerate(prompts):
        length = len(prompt)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        expected = attention(*states[:, :, index, :length], causal)
        mine = tree.classes == index
        torch.testing.assert_close(found[:, mine], expected[:, tree.places[mine]], atol=1e-6, rtol=0)
        torch.testing.assert_close(pooled[:, index], expected[:, -1], atol=1e-6, rtol=0)


def test_tree_of_prompts_without_anything_in_common():
    tree = packing.prompt_tree([[3], [1, 2], [2, 2, 2]])
    assert tree.places.tolist() == [0, 1, 0, 1, 2, 0]
    assert tree.ends[tree.order].tolist() == [5, 1, 4]
    assert tree.sees[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("keep_padding", [False, True])
@pytest.mark.parametrize("lengths", [[4, 2, 5, 2, 4, 1], [3, 3, 3], [5, 5]])
def test_sentences_equal_attention_class_by_class(lengths, keep_padding):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, SETS, len(lengths), 5, WIDTH, generator=generator)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    packed = packing.sentences(mask, keep_padding=keep_padding)
    assert len(packed.classes) == (mask.numel() if keep_padding else sum(lengths))
    query, key, value = states[:, :, packed.classes, packed.places]
    found = packed.attend(query, key, value, HEADS)
    pooled = packed.attend_ends(query[:, packed.ends], key, value, HEADS)[:, packed.order]
    for index in range(len(lengths)):
        expected = attention(*states[:, :, index], mask[index].expand(5, -1))
        mine = packed.classes == index
        torch.testing.assert_close(found[:, mine], expected[:, packed.places[mine]], atol=1e-6, rtol=0)
        torch.testing.assert_close(pooled[:, index], expected[:, 0], atol=1e-6, rtol=0)


def test_a_hole_in_a_sentence_is_no_row_of_it():
    packed = packing.sentences(torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0]]).bool())
    assert packed.classes.tolist() == [1, 1, 0, 0, 0]
    assert packed.places.tolist() == [0, 1, 0, 2, 3]
    assert packed.ends.tolist() == [0, 2]
    assert packed.order.tolist() == [1, 0]

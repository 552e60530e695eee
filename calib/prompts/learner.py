"""Prompts: fixed ones from a template, learned ones from context vectors around the class name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from calib.backbones.base import Backbone
from calib.backbones.fast.keeping import Kept
from calib.core.errors import unknown_name
from calib.core.names import check_class_names, check_tokens

POSITIONS = ("end", "middle", "front")


class PromptLearner(nn.Module):
    """Learned context vectors in the sentences of C classes.

    A sentence is `<context 1> ... <context M> <class name>.`, with the context before the name ("end": the
    name stands last), half before and half after it ("middle"), or after it ("front"). The text tower sees
    filler tokens at the context's places, whose embeddings are replaced by the context vectors.

    Args:
        backbone: The frozen model; asked for tokens and embedding sizes, not kept.
        class_names: C names in label order; underscores are read as spaces.
        n_ctx: M, the number of context tokens.
        class_specific: One context per class, (C, M, E), instead of one for all, (M, E).
        init: Words to start from, which must be exactly `n_ctx` tokens. None: N(0, init_std).
        init_std: Standard deviation of the random start.
        class_position: "end", "middle" or "front"; BERT towers take "end" only.
        seed: Of the random start, which depends on nothing else.
        truncate: Cut sentences that are too long instead of refusing them (only to repeat published numbers).

    Raises:
        ValueError: A class name does not fit beside the context (it is named), two are the same tokens,
            `init` has another number of tokens, or the position is not possible.

    Source: CoOp (Zhou et al., IJCV 2022), as in CalibPrompt (github.com/iabh1shekbasu/CalibPrompt c6ec13e).
        Differs: `init` is counted in tokens, not words; the random start does not depend on the backbone's
        own initialisation; a sentence that is too long is refused.
    """

    context: nn.Parameter
    tokens: Tensor
    positions: Tensor

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        *,
        n_ctx: int = 16,
        class_specific: bool = False,
        init: str | None = None,
        init_std: float = 0.02,
        class_position: str = "end",
        seed: int = 0,
        truncate: bool = False,
    ) -> None:
        super().__init__()
        if class_position not in POSITIONS:
            raise unknown_name("value of prompt.class_position", class_position, POSITIONS)
        if class_position not in backbone.supports_positions:
            raise ValueError(
                f"prompt.class_position={class_position}: {backbone.name} takes the class name at "
                f"{', '.join(backbone.supports_positions)} only."
            )
        if n_ctx < 1:
            raise ValueError(f"prompt.n_ctx must be at least 1, got {n_ctx}.")
        self.class_names = check_class_names(class_names)
        rows, places = zip(
            *(_sentence(backbone, name, n_ctx, class_position, truncate) for name in self.class_names),
            strict=True,
        )
        check_tokens(self.class_names, [row.tolist() for row in rows], model=backbone.name)
        self.register_buffer("tokens", torch.stack(rows), persistent=False)  # (C, L)
        self.register_buffer("positions", torch.stack(places), persistent=False)  # (C, M)
        start = _start(backbone, n_ctx, init, init_std, seed)  # (M, E)
        if class_specific and init is None:
            start = torch.stack(  # every class has a start of its own
                [
                    _start(backbone, n_ctx, None, init_std, seed, stream=c)
                    for c in range(len(self.class_names))
                ]
            )
        elif class_specific:
            start = start.expand(len(self.class_names), -1, -1).clone()
        self.context = nn.Parameter(start)
        self._some = Kept()  # of the classes, and where the backbone finds what it made of them

    def forward(self, backbone: Backbone, classes: slice | None = None) -> Tensor:
        """Return the unit-norm text features (C, D) of the sentences with the present context.

        Args:
            backbone: The frozen model the learner was made for.
            classes: Which of the classes. None: all.
        """
        if classes is None:
            return backbone.encode_prompts(self.context, self.tokens, self.positions)
        tokens, positions = self.some(classes)
        context = self.context[classes] if self.context.ndim == 3 else self.context
        return backbone.encode_prompts(context, tokens, positions)

    def some(self, classes: slice) -> tuple[Tensor, Tensor]:
        """Return tokens (c, L) and places (c, M) of some classes, the same objects each time."""
        tokens, positions = self._some.get(
            [self.tokens, self.positions],
            lambda: (self.tokens[classes], self.positions[classes]),
            also=(classes.start, classes.stop),
        )
        return tokens, positions


def _sentence(
    backbone: Backbone, name: str, n_ctx: int, class_position: str, truncate: bool
) -> tuple[Tensor, Tensor]:
    """Return the tokens (L,) of one class's sentence and the places (M,) of the context in it."""
    filler = [backbone.filler_id]
    name_pieces = backbone.piece_ids(f"{name}.")
    count = n_ctx + len(name_pieces)  # counted before they are made: a number from a file may be any
    fits = count <= backbone.max_pieces
    if not fits and (not truncate or class_position != "end" or n_ctx >= backbone.max_pieces):
        raise ValueError(
            f"Class name '{name}' does not fit: {n_ctx} context tokens and {len(name_pieces)} tokens "
            f"of the name make {count}, and {backbone.name} takes {backbone.max_pieces}. Shorten "
            "the name (data.class_names) or lower prompt.n_ctx."
        )
    if class_position == "end":
        pieces, slots = filler * n_ctx + name_pieces, list(range(n_ctx))
    else:
        stop = backbone.piece_ids(".")
        bare = name_pieces[: len(name_pieces) - len(stop)]
        before = n_ctx // 2 if class_position == "middle" else 0
        pieces = filler * before + bare + filler * (n_ctx - before) + stop
        slots = list(range(before)) + list(range(before + len(bare), len(bare) + n_ctx))
    pieces = pieces[: backbone.max_pieces]
    return backbone.assemble(pieces), torch.tensor(slots) + backbone.start_length


def _start(
    backbone: Backbone, n_ctx: int, init: str | None, init_std: float, seed: int, *, stream: int = 0
) -> Tensor:
    if init is None:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + stream)
        return torch.randn(n_ctx, backbone.token_width, generator=generator) * init_std  # (M, E)
    pieces = backbone.piece_ids(init)
    if len(pieces) != n_ctx:
        raise ValueError(
            f"The starting words {init!r} are {len(pieces)} tokens for {backbone.name}; set "
            f"prompt.n_ctx={len(pieces)}."
        )
    with torch.no_grad():
        return backbone.token_embeddings(torch.tensor([pieces]))[0].float().cpu().clone()

"""What a user may say about a backbone, and how it is resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from calib.backbones.preprocessing import PREPROCESSINGS, Preprocessing
from calib.backbones.same import FP32
from calib.backbones.tokenization import find_tokenizer_file
from calib.backbones.weights.reading import HUB, RANDOM, TOKENIZER_NAMES, WeightFile, download, find_weights
from calib.core.errors import unknown_name


@dataclass(frozen=True)
class BackboneOptions:
    """What a user may say about a backbone; `create_backbone` explains each field."""

    weights: str | Path | None = None
    tokenizer: str | Path | None = None
    revision: str | None = None
    preprocessing: str | Preprocessing = "own"
    quick_gelu: bool | None = None
    seed: int = 0
    parity: Mapping[str, bool] = field(default_factory=dict)
    encode_precision: str = FP32

    def choose_preprocessing(self, own: Preprocessing) -> Preprocessing:
        """Return the backbone's own preprocessing, a preset at the same image size, or the one given."""
        if isinstance(self.preprocessing, Preprocessing):
            return self.preprocessing
        presets = {
            name: replace(preset, image_size=own.image_size) for name, preset in PREPROCESSINGS.items()
        }
        choices = {"own": own, **presets}
        if self.preprocessing not in choices:
            raise unknown_name("value of backbone.preprocessing", self.preprocessing, choices)
        return choices[self.preprocessing]

    def find_weights(self, name: str, published: str) -> WeightFile | None:
        """Return the weight file, None for random weights.

        Args:
            name: The backbone, for the message.
            published: Where its weights are published, for the message.

        Raises:
            ValueError: No weights were given.
            FileNotFoundError: They are not there.
        """
        if self.weights is None:
            raise ValueError(
                f"{name} comes without weights. Published: {published}. Give "
                f"backbone.weights=<file or folder> for what you have, backbone.weights={HUB}org/name to "
                f"load from the Hugging Face hub, or backbone.weights={RANDOM} for an untrained model."
            )
        return None if self.weights == RANDOM else find_weights(self.weights, self.revision)

    def find_tokenizer(
        self, name: str, found: WeightFile | None, published: str, folder: Path | None = None
    ) -> Path:
        """Return the vocabulary that was given, or the one beside the weights or in the model's folder.

        Args:
            name: The backbone, for the message.
            found: The weight file, None for random weights.
            published: The hub id whose vocabulary it is, for the message.
            folder: The folder of the model, where it is one.

        Raises:
            FileNotFoundError: There is none.
        """
        if self.tokenizer is not None:
            given = str(self.tokenizer)
            if given.startswith(HUB):
                return download(given.removeprefix(HUB), wanted=TOKENIZER_NAMES)
            return Path(given).expanduser()
        places = [place for place in (found and found.folder, folder) if place]
        beside = next((file for place in places if (file := find_tokenizer_file(place))), None)
        if not beside:
            where = f"in {places[0]}" if places else "given"
            raise FileNotFoundError(
                f"{name} reads text with the vocabulary of {published}, and no vocab.txt or tokenizer.json "
                f"is {where}. Put one beside the weights, or give "
                f"backbone.tokenizer=<file or folder> or backbone.tokenizer={HUB}{published}."
            )
        return beside

    def weights_source(self, found: WeightFile | None) -> str:
        """Return how `describe()` names the weights."""
        return found.source if found else f"{RANDOM} (seed {self.seed})"


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Run a block with torch's CPU generator seeded, and give the global state back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
        yield

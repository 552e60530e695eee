"""Clinical visual question answering: questions and answers as tables, perturbations, models that answer.

    items = calib.vqa.from_task(task, options=4, seed=0)
    nota = calib.vqa.perturb(items, "replace_correct", seed=0)
    outputs = calib.vqa.answer(calib.vqa.ZeroShot(backbone), [items, nota], folder="runs/vqa")
    result = calib.vqa.evaluate([items, nota], outputs)
    print(result.text()); print(result.table("collapse")); result.save("runs/evaluation")

Tables: `Items`, `Outputs`, `read_items`, `read_outputs`, `join_items`, `join_outputs`, `originals`; their
columns stand in `calib.vqa.schema`. Questions: `from_task`, `read_source`, `read_option_logits`, `perturb`,
`two_by_two`, `split_by`, `nota_choices`, `nota_eligibility`. Answers: `answer`, `ZeroShot`, `HuggingFaceVLM`,
`read_recorded`, `recorded`, `parse_answer`, `pooled`, `read_prompts`, `write_requests`. What they are worth:
`evaluate`, `Protocol`, `Evaluation`, `demonstration`; methods stand in `calib.vqa.uncertainty`, the null of
collapse in `calib.vqa.collapse`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib.vqa.adapters.option_logits import read_option_logits
    from calib.vqa.adapters.sources import read_source
    from calib.vqa.adapters.task import from_task
    from calib.vqa.answerers.hf import HuggingFaceVLM
    from calib.vqa.answerers.recorded import read_recorded, recorded
    from calib.vqa.answerers.requests import read_prompts, write_requests
    from calib.vqa.answerers.zero_shot import ZeroShot
    from calib.vqa.demo import demonstration
    from calib.vqa.evaluation.protocol import Protocol
    from calib.vqa.evaluation.result import Evaluation
    from calib.vqa.evaluation.whole import evaluate
    from calib.vqa.nota import nota_choices, nota_eligibility
    from calib.vqa.parsing import parse_answer
    from calib.vqa.perturbations import perturb, two_by_two
    from calib.vqa.pooling import pooled
    from calib.vqa.run import answer
    from calib.vqa.shift import split_by
    from calib.vqa.tables import (
        Items,
        Outputs,
        join_items,
        join_outputs,
        originals,
        read_items,
        read_outputs,
    )

_HOMES = {
    "Evaluation": "evaluation.result",
    "HuggingFaceVLM": "answerers.hf",
    "Items": "tables",
    "Outputs": "tables",
    "Protocol": "evaluation.protocol",
    "ZeroShot": "answerers.zero_shot",
    "answer": "run",
    "demonstration": "demo",
    "evaluate": "evaluation.whole",
    "from_task": "adapters.task",
    "join_items": "tables",
    "join_outputs": "tables",
    "nota_choices": "nota",
    "nota_eligibility": "nota",
    "originals": "tables",
    "parse_answer": "parsing",
    "perturb": "perturbations",
    "pooled": "pooling",
    "read_items": "tables",
    "read_option_logits": "adapters.option_logits",
    "read_outputs": "tables",
    "read_prompts": "answerers.requests",
    "read_recorded": "answerers.recorded",
    "read_source": "adapters.sources",
    "recorded": "answerers.recorded",
    "split_by": "shift",
    "two_by_two": "perturbations",
    "write_requests": "answerers.requests",
}


def __getattr__(name: str) -> Any:
    """Return a name of the room, imported now: torch and pyarrow take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'calib.vqa' has no attribute {name!r}; it has: {', '.join(_HOMES)}")
    value = getattr(import_module(f"calib.vqa.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = sorted(_HOMES)

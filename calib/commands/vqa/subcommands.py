"""The subcommands of `calib vqa`: one table of what each does, how it is called and what can be set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib.commands.vqa.evaluation import EVALUATE
from calib.commands.vqa.option import Option, Subcommand, truth, words
from calib.core.tables import names_in

# Which settings only some answerers read, by what asks for them; the others are everybody's.
_OF = {
    "zero_shot": ("weights", "tokenizer", "template", "nota", "controls", "false_rate"),
    "hf": tuple(names_in("calib.vqa.answerers.registry", "OF_HF")),
    "recorded": ("answers", "absent_logprob"),
}
_NOT_RECORDED = ("model", "batch_size", "chunk", "processes", "device", "root")


def _check_answer(given: Mapping[str, Any]) -> None:
    asked, answerer = given["_asked"], given["answerer"]
    for other, names in _OF.items():
        for name in asked if other != answerer else ():
            if name in names and name not in _OF[answerer]:
                raise ValueError(f"{name}= is read by answerer={other} only, and answerer is {answerer}.")
    if answerer == "recorded":
        wrong = [name for name in _NOT_RECORDED if name in asked]
        if wrong or given["answers"] is None:
            raise ValueError(
                f"{wrong[0]}= has no meaning for recorded answers."
                if wrong
                else "answerer=recorded needs answers=FILE, the recorded answers."
            )
    elif given["model"] is None:
        raise ValueError(
            "model= is missing: a backbone, a prompt or run folder, or a folder of transformers."
        )
    if (given["nota"] == "threshold") != (given["controls"] is not None) and answerer == "zero_shot":
        raise ValueError("nota=threshold and controls=FILE go together: the threshold is fitted on controls.")


def _check_items(given: Mapping[str, Any]) -> None:
    asked = given["_asked"]
    wrong = [
        name
        for name in ("data", "options", "seed", "split", "limit")
        if name in asked and given["source"] != "task"
    ]
    if wrong:
        raise ValueError(f"{wrong[0]}= is read by source=task only.")
    if (given["source"] == "task") != (given["data"] is not None):
        raise ValueError("source=task and data=NAME go together.")
    if (given["source"] == "task") == (given["path"] is not None):
        raise ValueError(
            "path=FILE is the file of own questions (source=table) or of a published set; a task is named by "
            "data= and root=."
        )


SUBCOMMANDS: dict[str, Subcommand] = {
    "items": Subcommand(
        summary="make the table of items from own questions, a classification task or a published set",
        main="calib.commands.vqa.items:main",
        usage="""\
calib vqa items source=SOURCE out=FILE

  calib vqa items source=table path=own.csv out=items.jsonl
  calib vqa items source=task data=cxr3 out=items.parquet
  calib vqa items source=task data=folder root=IMAGES options=4 limit=500 out=items.parquet
  calib vqa items source=omnimedvqa path=QA_information/Open-access root=IMAGES out=items.parquet

Own questions (source=table) are a .csv, .tsv, .jsonl or .parquet file with the columns
  question
  option_a, option_b, ...    2 to 26, the last ones may be empty; or options: a JSON list
  answer                     a letter (A, B, ...), or the text of the right option
  image                      its path, relative to the table, or to root= (may be left out, as what follows)
  patient, modality, type, id
Other columns are kept: results can be split by them.
""",
        options={
            "source": Option(
                None,
                "table (own questions), task, or a published set",
                allowed=("calib.vqa.adapters.sources", "SOURCES"),
            ),
            "path": Option(None, "the file of own questions or of a published set"),
            "data": Option(None, "the classification task, as data.name"),
            "root": Option(None, "the folder of the images"),
            "images": Option(None, "where images may be written that have no file of their own"),
            "options": Option(4, "options of a question about a task", int, 2),
            "split": Option("test", "which split of the task", allowed=("calib.data.task", "SPLITS")),
            "limit": Option(None, "at most so many images of the task", int, 1),
            "seed": Option(0, "of draws", int),
            "out": Option(None, "the table, .parquet or .jsonl"),
        },
        needs=("source", "out"),
        check=_check_items,
    ),
    "perturb": Subcommand(
        summary="change items on purpose: None of the above, no image, other order, ...",
        main="calib.commands.vqa.perturb:main",
        usage="""\
calib vqa perturb ITEMS... kind=KIND out=FILE

  calib vqa perturb items.parquet kind=replace_correct out=nota.parquet
  calib vqa perturb items.parquet kind=replace_distractor position=last out=controls.parquet
  calib vqa perturb items.parquet kind=swapped_image within=modality seed=1 out=swapped.parquet
  calib vqa perturb items.parquet kind=two_by_two out=two_by_two.parquet

Items that cannot be changed so are left out, and counted by reason; left_out=FILE lists them. The table has
the changed items alone; that of two_by_two has the originals, too.
""",
        options={
            "kind": Option(None, "what is changed", allowed=("calib.vqa.perturbations", "PERTURBATIONS")),
            "seed": Option(0, "of draws", int),
            "text": Option(None, "how None of the above is worded"),
            "position": Option(None, "where it stands: in_place, last, random"),
            "within": Option(None, "a column that is the same of the image that is swapped in"),
            "condition": Option(None, "what the condition is called (default: the kind's own name)"),
            "left_out": Option(None, "a JSON file of the items that are left out, with reasons"),
            "out": Option(None, "the table, .parquet or .jsonl"),
        },
        needs=("kind", "out"),
    ),
    "requests": Subcommand(
        summary="write the questions for a model that is asked elsewhere, e.g. by an API",
        main="calib.commands.vqa.requests:main",
        usage="""\
calib vqa requests ITEMS... out=FILE

  calib vqa requests items.parquet nota.parquet out=requests.jsonl
  calib vqa requests items.parquet prompts=prompts.csv samples=4 out=requests.jsonl

Every line is a question: its messages, its image, and which option each letter stands for. Your program sends
them and writes the same lines with a field text, the answer; these are read by calib vqa answer ITEMS...
answerer=recorded answers=FILE. A table of prompts has the columns prompt_id, text and, of chains, step; in
the text stand {question}, {options}, {letters}.
""",
        options={
            "prompts": Option(None, "a table of prompts, .csv or .jsonl (default: one plain prompt)"),
            "samples": Option(0, "further requests, each with its own order of options", int, 0),
            "seed": Option(0, "of these orders", int),
            "out": Option(None, "the requests, .jsonl"),
        },
        needs=("out",),
    ),
    "answer": Subcommand(
        summary="have a model answer items; goes on after an interruption",
        main="calib.commands.vqa.answer:main",
        usage="""\
calib vqa answer ITEMS... model=MODEL out=FOLDER

  calib vqa answer items.parquet nota.parquet model=embedded out=runs/vqa
  calib vqa answer items.parquet nota.parquet model=runs/mine nota=threshold controls=val_control.parquet \\
    out=runs/vqa
  calib vqa answer items.parquet answerer=hf model=MODELS/medgemma-4b samples=10 p_true=true out=runs/medgemma
  calib vqa answer items.parquet answerer=recorded answers=gpt.jsonl out=runs/gpt

The same command goes on where it was interrupted; the same command in another window, or processes=N, shares
the work. Results: outputs.parquet in the folder. What a model cannot say is not there: see calib.vqa.schema.
""",
        options={
            "answerer": Option(
                "zero_shot", "which kind of model", allowed=("calib.vqa.answerers.registry", "ANSWERERS")
            ),
            "model": Option(
                None, "zero_shot: a backbone's name, a prompt or its run; hf: a folder or hf://owner/name"
            ),
            "model_id": Option(None, "what the model is called in tables"),
            "root": Option(None, "the folder that relative image paths are in"),
            "batch_size": Option(None, "items, or prompts, at once", int, 1),
            "chunk": Option(64, "items answered and written together", int, 1),
            "processes": Option(1, "processes that share the work on this machine", int, 1),
            "device": Option(None, "cpu, cuda, ... (default: a GPU where there is one)"),
            "seed": Option(0, "of drawn answers", int),
            "weights": Option(None, "the backbone's weights"),
            "tokenizer": Option(None, "the backbone's tokenizer"),
            "template": Option(None, "a text with {option} (default: the items' own)"),
            "nota": Option(
                "text",
                "None of the above as text, or as threshold",
                allowed=("calib.vqa.answerers.zero_shot", "NOTA_WAYS"),
            ),
            "controls": Option(None, "items of kind=replace_distractor, to fit the threshold on"),
            "false_rate": Option(0.05, "of controls that may be answered by None of the above", float, 0),
            "scoring": Option(["letters", "texts"], "what is scored: letters, texts, or both", words),
            "greedy": Option(True, "whether an answer is generated", truth),
            "samples": Option(0, "answers drawn, each with its own order of options", int, 0),
            "noisy_samples": Option(0, "the same with noise on the image", int, 0),
            "p_true": Option(False, "ask whether the answer is true", truth),
            "verbalized": Option(False, "ask how sure the model is", truth),
            "prior": Option(False, "score options without image and question, too", truth),
            "temperature": Option(0.6, "of drawn answers", float, 0),
            "top_p": Option(0.9, "of drawn answers", float, 0),
            "max_new_tokens": Option(16, "of an answer", int, 1),
            "prompt": Option(None, "how a question is put, with {question} and {options}"),
            "revision": Option(None, "commit or tag on the hub"),
            "dtype": Option("auto", "auto, float32, bfloat16, ..."),
            "answers": Option(None, "recorded answers, .jsonl"),
            "absent_logprob": Option(None, "of a letter that is not among the top_logprobs", float),
            "out": Option(None, "the folder of the results"),
        },
        needs=("out",),
        check=_check_answer,
    ),
    "evaluate": EVALUATE,
}

"""The packaged demonstration: recorded answers of three real models, and None of the above asked here."""

from __future__ import annotations

from importlib.resources import as_file, files

from calib.vqa.tables import Items, Outputs, join_items, join_outputs, read_items, read_outputs

NOTA_TASKS = ("cxr3", "lc25000")  # the packaged images that None of the above is asked about


def demonstration() -> tuple[Items, Outputs]:
    """Return real questions and recorded answers, offline.

    MobileVLM-1.7B, llava-v1.5-7b and Yi-VL-34B on questions of MMBench, asked in two to four orders of their
    options, and of OODCV-VQA, whose column question_type says how unusual the image is; raw logits of the
    option letters. "I don't know" and "None of the above" stand among the options and are never right. The
    models are general ones, not medical. Whose work this is stands in calib/assets/vqa/NOTICE.

    Example:
        >>> items, outputs = demonstration()
        >>> len(items), sorted(set(outputs.models))
        (751, ['MobileVLM-1.7B', 'Yi-VL-34B', 'llava-v1.5-7b'])
    """
    with as_file(files("calib") / "assets" / "vqa") as folder:
        items = read_items(folder / "items.parquet")
        return items, read_outputs(folder / "outputs.parquet", items=items)


def nota_demonstration() -> tuple[Items, Outputs]:
    """Return questions about the packaged images, and what the embedded backbone answers, computed here.

    One question for each test image of two tasks: what does it show? Then the same with the right option
    replaced by None of the above (condition nota) and, as a control, with a wrong one replaced
    (nota_control). The backbone takes the option whose text is most like the image. Of None of the above it
    knows nothing, so this has one logit for all questions, fitted so that of the controls of the validation
    images 5 % are answered by it at most (`ZeroShot.fit_nota`). Some 3,000 answers in a second or two.
    """
    from calib.backbones import create_backbone
    from calib.data.specs import load_data
    from calib.vqa.adapters.task import from_task
    from calib.vqa.answerers.zero_shot import ZeroShot
    from calib.vqa.perturbations import perturb
    from calib.vqa.run import answer

    backbone = create_backbone("embedded")
    asked, said = [], []
    for name in NOTA_TASKS:
        task = load_data(name)
        items = from_task(task)
        changed = [perturb(items, kind) for kind in ("replace_correct", "replace_distractor")]
        controls = perturb(from_task(task, split="val"), "replace_distractor")
        answerer = ZeroShot(backbone, nota="threshold").fit_nota(controls)
        asked.append(join_items([items, *changed]))
        said.append(answer(answerer, asked[-1]))
    every = join_items(asked)
    return every, join_outputs(said, every)

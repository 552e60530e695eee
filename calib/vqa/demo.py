"""The packaged demonstration: answers of three real models to several hundred questions, without images."""

from __future__ import annotations

from importlib.resources import as_file, files

from calib.vqa.tables import Items, Outputs, read_items, read_outputs


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

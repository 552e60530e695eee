# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Clinical questions, and "None of the above"
#
# A model answers a question with options, and seems sure. Is its uncertainty worth anything? Three tests:
# does it tell wrong answers from right ones, is the confidence true, and does it foresee that the answer
# collapses when the right option is hidden behind "None of the above" (NOTA)?

# %%
import calib

# %% [markdown]
# ## Recorded answers of three real models
#
# 751 questions with the answers of MobileVLM-1.7B, llava-v1.5-7b and Yi-VL-34B come with the package
# (general models, not medical ones). Any model's answers can be read like this, with
# `calib.vqa.read_outputs` or, as texts, `calib.vqa.read_recorded`.

# %%
items, outputs = calib.vqa.demonstration()
print(items.cell("question", 0))
print(dict(zip("ABCDEF", items.cell("options", 0), strict=False)))
protocol = calib.vqa.Protocol(n_resamples=300, n_permutations=199)  # the defaults are 2,000 and 999
result = calib.vqa.evaluate(items, outputs, protocol)
print(result.text())

# %% [markdown]
# Each sentence stands on a table; numbers have intervals over images, and where there are too few cases
# there is the reason instead of a number. How well the uncertainty `option_msp` (one minus the probability
# of the answer) tells wrong answers, beside a baseline that knows nothing of the answer but how often
# questions of its kind are answered wrongly (`dataset_prior`):

# %%
for row in result.rows("errors"):
    if row["condition"] == "original" and row["method"] in ("option_msp", "dataset_prior"):
        number = (
            f"{row['auroc']:.1%} [{row['auroc_low']:.1%}, {row['auroc_high']:.1%}]"
            if "auroc_low" in row
            else row["why"]
        )
        print(f"{row['system']:15} {row['dataset']:10} {row['method']:14} {number}")

# %% [markdown]
# ## Our own questions, with the right option hidden
#
# One question for each chest X-ray: what does this image show? Then the same question with the right option
# replaced by "None of the above", and as a control with a wrong one replaced. The embedded backbone answers
# all three.

# %%
task = calib.load_data("cxr3")
backbone = calib.create_backbone("embedded")
items = calib.vqa.from_task(task, options=3, seed=0)
hidden = calib.vqa.perturb(items, "replace_correct", seed=0)
control = calib.vqa.perturb(items, "replace_distractor", seed=0)
for table in (items, hidden, control):
    options = table.cell("options", 0)
    print(f"{table.cell('condition', 0):13} {options}, right: {options[table.cell('correct_index', 0)]}")

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp()) / "answers"  # an interrupted run goes on from there
answers = calib.vqa.answer(calib.vqa.ZeroShot(backbone), [items, hidden, control], folder=folder)
result = calib.vqa.evaluate([items, hidden, control], answers, protocol)
print(result.text())

# %% [markdown]
# ## Foreseeing collapse is cheap
#
# An uncertainty of the original question can "foresee" collapse with a high AUROC without knowing anything
# of it: the answer falls where NOTA scores below the best rival option, and every uncertainty contains that
# rival. So beside each AUROC stands what the rival alone gives (the null), and how often permuted answers
# without any fragility do as well (p).

# %%
for row in result.rows("collapse"):
    if row["condition"] == "nota" and row.get("null_mean") is not None:
        print(
            f"{row['method']:15} {row['n_collapse']} of {row['n']} right answers fall; "
            f"AUROC {row['auroc']:.1%}, the rival alone gives {row['null_mean']:.1%}"
        )

# %% [markdown]
# No uncertainty here foresees more than the rival does. For a language model the same call may say
# otherwise; the table says it with intervals, and `result.save("FOLDER")` writes all tables as a page, CSV
# and JSON.

# %%
print(sorted(path.name for path in result.save(folder.parent / "evaluation") if path.suffix != ".csv"))

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
# # Any model's outputs: calibrate, give sets, decide, report
#
# Nothing is trained in this notebook. There are logits of some model and labels for some of its cases. That
# may be a table from a hospital's own system; here it is zero-shot on histology images of five classes,
# whose confidence is far too low.

# %%
import tempfile
from pathlib import Path

import torch

import calib

backbone = calib.create_backbone("embedded")
task = calib.load_data("lc25000")
prompt = calib.zero_shot(backbone, task)
# Cases with labels that nothing was trained on:
labelled = prompt.predict(calib.encode(backbone, task.val, cache=None))
test = prompt.predict(calib.encode(backbone, task.test, cache=None))
m = test.metrics()
print(
    f"{len(labelled.labels)} labelled cases, {len(test.labels)} test cases, {len(test.class_names)} classes"
)
print(f"accuracy {m['accuracy']:.1%}, ECE {m['ece']:.1%} (by chance {m['null_ece']:.1%})")
print(f"confidence - accuracy {m['confidence_gap']:+.1%}")

# %% [markdown]
# ## Which calibrator, if any?
#
# Candidates are fitted on parts of the labelled cases and judged on the others, beside doing nothing. The
# first half of the cases is used for this; the second half is kept for what comes after, because a set or a
# threshold must not be fitted on cases that the calibrator has seen.

# %%
first = torch.arange(len(labelled.labels)) % 2 == 0
choice = calib.posthoc.choose_calibrator(labelled.logits[first], labelled.labels[first])
for name, candidate in choice.candidates.items():
    print(f"{name:18} NLL {candidate.nll:.3f}" + ("   <- chosen" if name == choice.name else ""))
calibrator = choice.calibrator
before = calib.metrics.summarize(test.logits, test.labels)
after = calib.metrics.summarize(calibrator(test.logits).log(), test.labels)
for name, m in (("before", before), ("after", after)):
    print(f"{name:7} NLL {m['nll']:.3f}  ECE {m['ece']:.1%} (by chance {m['null_ece']:.1%})")

# %% [markdown]
# ## Prediction sets
#
# Every class that a case may be of, with a stated coverage. What is promised is said in words, and for
# whom.

# %%
val_probs, val_labels = calibrator(labelled.logits[~first]), labelled.labels[~first]
probs = calibrator(test.logits)
sets = calib.posthoc.PredictionSets("aps", coverage=0.9).fit(val_probs, val_labels)
found = calib.metrics.summarize_sets(sets(probs), test.labels, coverage=0.9, class_names=test.class_names)
low, high = found["intervals"]["coverage"]
print(
    f"coverage {found['coverage']:.1%} [{low:.1%}, {high:.1%}], {found['mean_size']:.2f} classes on average"
)
print("how many sets have 0, 1, 2, ... classes:", found["sizes"])
for row in found["per_class"]:
    print(f"  {row['name']:35} covered {row['coverage']:.0%}")
print("\n" + sets.guarantee)

# %% [markdown]
# ## The same coverage in every class
#
# Nine in ten over all cases, but one class is covered less than the others: the promise was not made for
# each. Ask for it. It takes 9 labelled cases of each class at least; here there are 10, so that the coverage
# each class gets is itself uncertain. The sets grow.

# %%
each = calib.posthoc.PredictionSets("aps", coverage=0.9, per_class=True).fit(val_probs, val_labels)
found = calib.metrics.summarize_sets(each(probs), test.labels, coverage=0.9, class_names=test.class_names)
print(f"coverage {found['coverage']:.1%}, {found['mean_size']:.2f} classes on average")
for row in found["per_class"]:
    print(f"  {row['name']:35} covered {row['coverage']:.0%}, {row['mean_size']:.2f} classes")

# %% [markdown]
# ## Which may pass unseen?

# %%
doubt = 1 - probs.max(dim=1).values
val_doubt, val_wrong = 1 - val_probs.max(dim=1).values, val_probs.argmax(dim=1) != val_labels
review = calib.posthoc.ReviewThreshold(max_error=0.1, delta=0.1).fit(val_doubt, val_wrong)
accepted = review(doubt)
print(review.guarantee)
wrong = test.failure[accepted].float().mean()
print(f"\nTest: {accepted.float().mean():.0%} pass; {wrong:.1%} of them are wrong")

# %% [markdown]
# ## One page for somebody else
#
# It opens from disk and asks nothing of the network: findings in sentences, intervals, reliability, sets,
# thresholds with a slider, single cases, checklists of reporting. Its tables lie beside it as JSON, CSV and
# Markdown.

# %%
folder = Path(tempfile.mkdtemp())
page = calib.report(
    test,
    folder / "report.html",
    calibrator=calibrator,
    sets=sets,
    review=review,
    n_resamples=500,
    title="Lung and colon",
)
print(*sorted(f"{path.name} {path.stat().st_size // 1000} kB" for path in folder.iterdir()), sep="\n")
text = (folder / "report.md").read_text()
print("\n" + text.split("## Comparison")[0])

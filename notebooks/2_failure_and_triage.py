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
# # Which predictions are wrong, and who must look at them?
#
# A classifier is right in 7 of 10 chest X-rays. Which three are wrong? We learn **one doubt** for each
# prediction, compare it with the model's own confidence, ask why, and turn it into a decision: these may
# pass, those a doctor must see, with a stated guarantee.

# %%
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import PercentFormatter

import calib

backbone = calib.create_backbone("embedded")
task = calib.load_data("cxr3")
prompt = calib.zero_shot(backbone, task)  # any prompt; this one needs no shots
seen = calib.encode(backbone, task.train, views=8, cache=None)  # labelled images: the doubt learns from them
test = prompt.predict(calib.encode(backbone, task.test, cache=None))
print(f"{test.failure.sum()} of {len(test.labels)} test predictions are wrong")

# %% [markdown]
# ## Learn the doubt
#
# The confidence, three scores that look at the image, and a small network (ViLU) judge images they were not
# fitted on; a logistic regression weighs them. The result is a probability of being wrong. The network
# trains for 10 epochs here to save time.

# %%
head = calib.fit_failure_head(prompt, seen, epochs=10, seed=1)
doubt = head.uncertainty(test.image_features, test.predictions)
texts = prompt.text_features
others = {
    name: calib.scores.fit(name, prompt.predict(seen), text_features=texts)
    for name in ("class_gaussians", "logit_scaling")
}
scores = {
    "the doubt": doubt,
    "confidence": calib.scores.fit("mcp")(test),
    "entropy": calib.scores.fit("entropy")(test),
    **{name: score(test, text_features=texts) for name, score in others.items()},
}
print(f"{'':16} AUROC   FPR95    AURC")
for name, score in scores.items():
    m = calib.metrics.summarize_failure(score, test.failure)
    print(f"{name:16} {m['auroc']:5.1%}  {m['fpr95']:5.1%}  {m['aurc']:6.2%}")

# %% [markdown]
# AUROC: the chance that a wrong prediction is doubted more than a right one. FPR95: the wrong ones that
# slip through where 95 % of the right ones pass. AURC: the mean error as ever more doubtful predictions are
# accepted. Is the gain more than luck? Patients are resampled, for both scores together:

# %%
gain = calib.stats.paired_bootstrap(
    calib.metrics.failure_statistic("auroc"),
    (doubt.numpy(), test.failure.numpy()),
    (scores["confidence"].numpy(), test.failure.numpy()),
    groups=test.groups,
)
points = [f"{100 * value:+.1f}" for value in (gain.estimate, gain.low, gain.high)]
print(f"AUROC, doubt minus confidence: {points[0]} points [{points[1]}, {points[2]}]")

# %% [markdown]
# ## Why is this one doubted?
#
# The number behind a reason is what it adds to the log-odds of being wrong: +0.7 doubles them, +2.3 makes
# them ten times as high.

# %%
reasons = head.explain(test.image_features, test.predictions).sentences(test.class_names)
for row in doubt.argsort(descending=True)[:3]:
    print(f"{'wrong' if test.failure[row] else 'right'}, doubt {doubt[row]:.0%}: {reasons[row]}\n")

# %% [markdown]
# ## The curve a clinic reads
#
# Accept the least doubtful predictions first. How wrong are the accepted ones?

# %%
figure, axes = plt.subplots(figsize=(6, 3.6))
for name in ("the doubt", "confidence"):
    curve = calib.metrics.risk_coverage_curve(scores[name], test.failure)
    axes.plot(curve.coverage, curve.risk, label=name)
axes.axhline(0.1, color="grey", ls=":")
axes.xaxis.set_major_formatter(PercentFormatter(1))
axes.yaxis.set_major_formatter(PercentFormatter(1))
axes.set(xlabel="accepted without review", ylabel="wrong among them", ylim=(0, None))
axes.legend()
figure.tight_layout()

# %% [markdown]
# ## From curve to guarantee
#
# Reading off where the curve crosses the dotted 10 % line would be a mistake: it is a curve of *these*
# images. `ReviewThreshold` tests thresholds one after the other and stops where the error is no longer shown
# to be low enough. Half of the patients are labelled here; the other half says whether the promise held.

# %%
owners = sorted(set(test.groups))
labelled = torch.tensor([owners.index(owner) % 2 == 0 for owner in test.groups])
mine = [owner for owner, known in zip(test.groups, labelled, strict=True) if known]
for max_error in (0.1, 0.15):
    review = calib.posthoc.ReviewThreshold(max_error=max_error, delta=0.1)
    review.fit(doubt[labelled], test.failure[labelled], groups=mine)
    passed = review(doubt[~labelled])
    held = (
        f"{test.failure[~labelled][passed].float().mean():.1%} of them wrong"
        if passed.any()
        else "nothing shown"
    )
    print(f"at most {max_error:.0%} wrong: of the others {passed.float().mean():.0%} pass, {held}")
    print(f"    {review.guarantee}\n")

# %% [markdown]
# 10 % cannot be promised with these labels, and the threshold says so instead of hoping: it accepts
# nothing, and names how many labelled patients would do. 15 % can be promised, and the promise holds.
#
# ## A picture of something else
#
# The doubt knows nothing of images unlike those it was fitted on. Class means of the training images do:
# noise is far from all of them.

# %%
near = calib.posthoc.Familiarity(false_alarms=0.05).fit(seen.image_features, seen.labels, owners=seen.groups)
noise = backbone.encode_image(torch.randn(20, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
strange, own = (near(each).float().mean() for each in (noise, test.image_features))
print(f"unlike: {strange:.0%} of noise images, {own:.1%} of test images")
surest = prompt.logits(noise).softmax(dim=1).max(dim=1).values.max()
print(f"and yet the model's confidence in noise reaches {surest:.0%}")

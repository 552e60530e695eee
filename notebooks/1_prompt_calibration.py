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
# # A prompt whose confidence you can believe
#
# A frozen vision-language model and 8 labelled chest X-rays per class. We learn a prompt, see that it is
# wrong about its own confidence, and let the same 8 images repair that. Everything is real, small and
# offline: the backbone and the image features are part of the package. It is a demonstration backbone, and
# nothing here is clinical.

# %%
import matplotlib.pyplot as plt
import torch

import calib

backbone = calib.create_backbone("embedded")  # or "plip", weights="hf://vinid/plip"
task = calib.load_data("cxr3")  # or "folder", "IMAGES"
test_images = calib.encode(backbone, task.test, cache=None)
task

# %% [markdown]
# ## Three ways to classify
#
# Zero-shot reads the sentence "A chest X-ray image of pneumonia." A prompt replaces the words around the
# class name by 16 learned tokens. `calibrate="none"` is the prompt alone, as papers train it; the default
# also trains prompts on parts of the shots, which judge what they did not see.

# %%
prompts = {
    "zero-shot": calib.zero_shot(backbone, task),
    "CE": calib.fit_prompt(backbone, task, shots=8, objective="coop", calibrate="none", cache=None),
    "CE + SMAC + AS": calib.fit_prompt(backbone, task, shots=8, calibrate="none", cache=None),
    "calibrated": calib.fit_prompt(backbone, task, shots=8, cache=None),
}
predictions = {name: prompt.predict(test_images) for name, prompt in prompts.items()}

print(f"{'':15} accuracy   ECE (by chance)    NLL   confidence - accuracy")
for name, said in predictions.items():
    m = said.metrics(n_bins=10)
    print(
        f"{name:15} {m['accuracy']:8.1%} {m['ece']:5.1%} ({m['null_ece']:.1%}) {m['nll']:11.3f} "
        f"{m['confidence_gap']:+12.1%}"
    )

# %% [markdown]
# Both learned prompts are more confident than they are right, by eight points and more; the losses that
# were made against it (SMAC and AS) change little here. The calibrated one has the lowest NLL, and errs to
# the other side. *By chance* is the ECE that a perfectly calibrated model with these confidences would show
# on as many images: less than that cannot be told from perfect. One seed says little; the last cell looks
# at three.
#
# ## Look at it
#
# Each dot is a bin of confidence, the larger the more images. Grey is where 95 % of a calibrated model's dots
# would lie: dots below it are over-confident, dots above it too timid.


# %%
def reliability(axes, said, title):
    confidence, correct = said.confidence, ~said.failure
    low, high = calib.metrics.consistency_band(confidence, n_bins=10)
    bins = (confidence * 10).long().clamp(max=9)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    for b in bins.unique():
        inside = bins == b
        axes.fill_between([b / 10, (b + 1) / 10], *([v[b].item()] * 2 for v in (low, high)), color="0.85")
        axes.plot(
            confidence[inside].mean(),
            correct[inside].float().mean(),
            "o",
            color="C0",
            ms=3 + inside.sum().item() ** 0.5 / 2,
        )
    axes.set(title=title, xlabel="confidence", xlim=(0.3, 1), ylim=(0, 1))


figure, panels = plt.subplots(1, 4, figsize=(13, 3.2), sharey=True)
for panel, (name, said) in zip(panels, predictions.items(), strict=True):
    reliability(panel, said, name)
panels[0].set_ylabel("share that is right")
figure.tight_layout()

# %% [markdown]
# ## How the shots did it
#
# The export predicts with one linear map, so that prediction costs what it did. It was made from three
# opinions, weighted by what prompts said of shots they had not seen: the prompt, zero-shot, and an image
# expert (does the image look like the shots of a class?).

# %%
facts = prompts["calibrated"].calibration.facts
print("weights:", *(f"{name} {share:.0%}" for name, share in facts["expert_shares"].items()), sep="  ")
print("NLL of the left-out shots:", *(f"{k} {v:.3f}" for k, v in facts["left_out_nll"].items()), sep="  ")

# %% [markdown]
# ## Your clinic is not balanced
#
# The shots have as many images of each class; patients do not come like that. Say how frequent the classes
# are where the prompt will be used. Here the test images themselves are drawn again with those shares.

# %%
shares = {"no finding": 0.8, "pneumonia": 0.15, "COVID-19": 0.05}
told = calib.fit_prompt(backbone, task, shots=8, prevalence=shares, cache=None)
weight = torch.tensor([shares[name] for name in task.class_names])[test_images.labels]
weight = weight / test_images.labels.bincount()[test_images.labels]
rows = torch.multinomial(weight, 2000, replacement=True, generator=torch.Generator().manual_seed(0))
for name, prompt in (("calibrated", prompts["calibrated"]), ("told the shares", told)):
    logits, labels = prompt.predict(test_images).logits[rows], test_images.labels[rows]
    m = calib.metrics.summarize(logits, labels)
    print(f"{name:16} accuracy {m['accuracy']:.1%}  NLL {m['nll']:.3f}  ECE {m['ece']:.1%}")

# %% [markdown]
# ## Keep it, use it
#
# One small file with everything that prediction needs; it refuses another backbone.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
prompts["calibrated"].save(folder / "prompt.safetensors")
again = calib.load(folder / "prompt.safetensors")
probs = again.logits(test_images.image_features[:3]).softmax(dim=1)
print(f"{(folder / 'prompt.safetensors').stat().st_size / 1000:.0f} kB")
for row in probs:
    print("  ".join(f"{name} {p:6.1%}" for name, p in zip(again.class_names, row, strict=True)))

# %% [markdown]
# ## More than one seed
#
# Other shots, another start: accuracy goes up or down with the seed, the NLL falls each time. The last line
# is the difference between the calibrated prompt and the same prompt without (`bare()`), paired, with an
# interval over patients for one seed; `calib evaluate` does this over seeds and patients together.

# %%
for seed in (2, 3):
    prompt = calib.fit_prompt(backbone, task, shots=8, seed=seed, cache=None)
    for name, each in (("bare", prompt.bare()), ("calibrated", prompt)):
        m = each.predict(test_images).metrics()
        print(f"seed {seed} {name:10} accuracy {m['accuracy']:.1%}  NLL {m['nll']:.3f}  ECE {m['ece']:.1%}")

ours, theirs = predictions["calibrated"], prompts["calibrated"].bare().predict(test_images)
nll = torch.nn.functional.cross_entropy
gain = nll(ours.logits, ours.labels, reduction="none") - nll(theirs.logits, theirs.labels, reduction="none")
interval = calib.stats.bootstrap_interval(lambda x: x.mean(), gain.double().numpy(), groups=ours.groups)
print(f"NLL, calibrated minus bare: {interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]")

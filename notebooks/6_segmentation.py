# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Segmentation: is the probability of a pixel true?
#
# A network that finds nuclei says 0.99 nearly everywhere, also where two readers would draw the edge
# differently. We train one small network with Dice and with Dice + cross-entropy, each without and with
# mL1-ACE, and judge all by Dice *and* by calibration. Images are drawn here, with edges that nobody could
# draw exactly; the loop is plain PyTorch: losses and metrics of calib fit into any. (`calib segment` does
# all of this from a folder.)

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import calib

# %% [markdown]
# ## Blurred nuclei, and readers who disagree about edges
#
# The mask is one draw: each nucleus is marked up to a radius that varies, as readers do. No network can know
# how far this one was marked. What it can do is say so.


# %%
def draw(count, seed, side=48):
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    images, masks = torch.zeros(count, 1, side, side), torch.zeros(count, side, side, dtype=torch.int64)
    for i in range(count):
        for _ in range(5):
            cy, cx = torch.rand(2, generator=rng) * side
            radius = 3 + 4 * torch.rand((), generator=rng)
            distance = ((y - cy) ** 2 + (x - cx) ** 2).sqrt()
            images[i, 0] = images[i, 0].maximum(torch.sigmoid((radius - distance) / 1.5))
            reader = 1 + 0.35 * torch.randn((), generator=rng).clamp(-1.5, 1.5)  # how far this one was marked
            masks[i] |= (distance < radius * reader).long()
    return images + 0.25 * torch.randn(images.shape, generator=rng), masks


# The settings below were chosen with the second of these at hand; the third was drawn afterwards.
train, val, test = draw(64, seed=0), draw(64, seed=1), draw(64, seed=2)

# %% [markdown]
# ## One network, four objectives

# %%
ace = {"ml1_ace": {"weight": 1.0, "n_bins": 20}}
objectives = {
    "Dice": {"dice": {}},
    "Dice + mL1-ACE": {"dice": {}, **ace},
    "Dice + CE": {"dice": {}, "ce": {}},
    "Dice + CE + mL1-ACE": {"dice": {}, "ce": {}, **ace},
}


def network():
    torch.manual_seed(0)  # all start alike
    layers = [
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=4, dilation=2),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Conv2d(16, 2, 3, padding=1))


def fit(objective, epochs=40):
    net, (images, masks) = network(), train
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(16):
            logits, labels = net(images[rows]), masks[rows]
            loss = objective(logits=logits, labels=labels)["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return net(val[0]), net(test[0])


logits = {name: fit(calib.losses.Objective(terms)) for name, terms in objectives.items()}
probs = {name: of_test.softmax(dim=1) for name, (_, of_test) in logits.items()}

# %% [markdown]
# ## Dice beside calibration
#
# ACE: every bin of probability counts alike, so the pixels at the edges matter. ECE counts pixels, and most
# are easy background: it is small for everyone.

# %%
print(f"{'':20} Dice    ACE    ECE    MCE   (mean over images)")
sums = {name: calib.metrics.image_sums(p, test[1]) for name, p in probs.items()}
for name, each in sums.items():
    m = calib.metrics.summarize_segmentation(each, ["background", "nucleus"])
    print(f"{name:20} {m['dice']:.1%}  {m['ace']:.1%}  {m['ece']:.1%}  {m['mce']:.1%}")

# %% [markdown]
# Is the difference more than luck? Images are drawn again, for both networks together.

# %%
per_image = {name: calib.metrics.per_image(each, "ace")[:, 1].numpy() for name, each in sums.items()}
for name in ("Dice", "Dice + CE"):
    gain = calib.stats.paired_bootstrap(lambda x: x.mean(), per_image[f"{name} + mL1-ACE"], per_image[name])
    points = [f"{100 * value:+.1f}" for value in (gain.estimate, gain.low, gain.high)]
    print(f"{name:9} ACE with mL1-ACE minus without: {points[0]} points [{points[1]}, {points[2]}]")

# %% [markdown]
# What the Dice loss breaks, mL1-ACE repairs, and so does cross-entropy; beside cross-entropy mL1-ACE adds a
# little. Hardly any Dice is lost here. So compare with Dice + CE, not with Dice alone.
#
# ## What it looks like
#
# An image, its mask, and the probability of "nucleus" by three of the networks.

# %%
figure, panels = plt.subplots(1, 5, figsize=(11, 2.5))
shown = {"image": test[0][0, 0], "mask": test[1][0]}
shown |= {name: probs[name][0, 1] for name in ("Dice", "Dice + CE", "Dice + CE + mL1-ACE")}
for panel, (name, picture) in zip(panels, shown.items(), strict=True):
    panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
    panel.set_title(name, fontsize=10)
    panel.axis("off")
figure.tight_layout()

# %% [markdown]
# Of the pixels that are called a nucleus with some probability, how many are? On the dotted line as many as
# was said.

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for name, each in sums.items():
    counts, said, true = (part[:, 1].sum(dim=0) for part in (each.counts, each.prob_sums, each.label_sums))
    axes.plot(said / counts, true / counts, "o-", ms=4, lw=1.2, label=name)
axes.plot([0, 1], [0, 1], ":", color="grey")
axes.set(xlabel="probability of nucleus", ylabel="share that is a nucleus")
axes.legend()
figure.tight_layout()

# %% [markdown]
# ## After the fact: one temperature
#
# A temperature fitted on other images costs nothing and changes no mask. It is the baseline that a loss for
# calibration has to beat. These are drawn images and one start of the network: real ones, five starts and
# another stain are in `benchmarks/segmentation_study.py`.


# %%
def of_pixels(images):
    return images.movedim(1, -1).reshape(-1, 2)


for name, (of_val, of_test) in logits.items():
    temperature = calib.posthoc.TemperatureScaling().fit(of_pixels(of_val), val[1].reshape(-1))
    again = (
        temperature(of_pixels(of_test)).float().reshape(len(of_test), *of_test.shape[2:], 2).movedim(-1, 1)
    )
    aces = []
    for each in (probs[name], again):
        found = calib.metrics.summarize_segmentation(
            calib.metrics.image_sums(each, test[1]), ["background", "nucleus"]
        )
        aces.append(found["ace"])
    print(f"{name:20} ACE {aces[0]:.1%}, with a temperature {aces[1]:.1%}; Dice {found['dice']:.1%}")

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
# # Own images, own model
#
# From a folder of images to a calibrated prompt, with a backbone that lies in a folder of yours. The images
# are drawn here, so that the notebook needs nothing: three kinds of "cells", with noise enough that some
# are hard. Put your own folder in their place.

# %%
import math
import random
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image, ImageDraw

import calib

work = Path(tempfile.mkdtemp())


def draw(kind, rng):
    image = Image.new("RGB", (96, 96), (235, 225, 235))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 9)):
        x, y, r = rng.randint(10, 86), rng.randint(10, 86), rng.randint(5, 10)
        ink = (rng.randint(90, 150), rng.randint(40, 110), rng.randint(130, 180))
        own = kind if rng.random() < 0.75 else rng.choice(["round", "long", "star_shaped"])
        if own == "round":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        elif own == "long":
            pen.line((x - 2 * r, y - r // 2, x + 2 * r, y + r // 2), fill=ink, width=5)
        else:
            spikes = [
                (x + r * (1 + i % 2) * math.cos(i * 0.628), y + r * (1 + i % 2) * math.sin(i * 0.628))
                for i in range(10)
            ]
            pen.polygon(spikes, fill=ink)
    return image


rng = random.Random(0)
for split, count in (("train", 12), ("test", 40)):
    for kind in ("round", "long", "star_shaped"):
        (work / "images" / split / kind).mkdir(parents=True)
        for i in range(count):
            draw(kind, rng).save(work / "images" / split / kind / f"{i:02}.png")

figure, axes = plt.subplots(1, 6, figsize=(9, 1.8))
for panel, path in zip(axes, sorted((work / "images/train").glob("*/0[01].png")), strict=True):
    panel.imshow(Image.open(path))
    panel.set_title(path.parent.name, fontsize=8)
    panel.axis("off")

# %% [markdown]
# ## A folder
#
# `train/<class>/*` and `test/<class>/*`. Folder names become class names; the sentence is yours to choose,
# and it matters more than any loss.

# %%
task = calib.load_data("folder", work / "images", template="A microscopy image of {} cells.")
print(task.class_names, len(task.train), len(task.test))

# %% [markdown]
# ## A backbone in a folder of yours
#
# Anything that open_clip knows, from disk: a folder with `open_clip_config.json`, weights and tokenizer.
# Here it is a copy of the embedded one. PLIP, QuiltNet, BiomedCLIP and MedCLIP have names of their own:
# `calib.create_backbone("plip", weights="FILE")`.

# %%
import shutil

embedded = Path(calib.__file__).parent / "assets" / "embedded"
shutil.copytree(embedded, work / "my_model")
backbone = calib.create_backbone(f"local-dir:{work / 'my_model'}")
print(f"{sum(p.numel() for p in backbone.parameters()) / 1e6:.1f} million parameters, all frozen")

# %% [markdown]
# ## Train, calibrate, look
#
# Images are encoded once and kept in a cache, under a digest of their pixels and the weights.

# %%
test_images = calib.encode(backbone, task.test, cache=work / "cache")
prompt = calib.fit_prompt(backbone, task, shots=8, views=4, cache=work / "cache")
for name, each in (
    ("zero-shot", calib.zero_shot(backbone, task)),
    ("bare", prompt.bare()),
    ("calibrated", prompt),
):
    m = each.predict(test_images).metrics()
    ece = f"ECE {m['ece']:.1%} (by chance {m['null_ece']:.1%})"
    print(f"{name:10} accuracy {m['accuracy']:.1%}  NLL {m['nll']:.3f}  {ece}")

# %% [markdown]
# ## One image
#
# What `calib predict` does for a folder of images, by hand.

# %%
prompt.save(work / "prompt.safetensors")
mine = calib.load(work / "prompt.safetensors")
model = mine.restore_backbone()  # the same weights and preprocessing, or an error
image = calib.open_image(work / "images/test/round/00.png")
probs = mine.logits(model.encode_image(model.preprocess(image).unsqueeze(0))).softmax(dim=1)[0]
print("  ".join(f"{name} {p:.1%}" for name, p in zip(mine.class_names, probs, strict=True)))

# %% [markdown]
# ## A table instead of a folder
#
# A CSV with the columns path, label, split and, where it is known, patient: patients are then never divided
# between shots and what judges them, and intervals count patients.

# %%
rows = ["path,label,split,patient"]
for path in sorted((work / "images").rglob("*.png")):
    split, kind = path.parts[-3:-1]
    rows.append(f"images/{split}/{kind}/{path.name},{kind},{split},{split}-{kind}-{int(path.stem) // 2}")
(work / "table.csv").write_text("\n".join(rows))
table = calib.load_data("table", work / "table.csv", template="A microscopy image of {} cells.")
shots = table.draw(4, seed=1)
patients = len(set(table.train.groups))
print(f"{len(table.train)} training images of {patients} patients; {len(shots.train)} shots")

# %% [markdown]
# ## Outputs only, and the page
#
# Where there is nothing of a model but what it said, metrics, calibrators, sets and thresholds need no more
# than tensors (notebook 3). The page for somebody else has thumbnails where images are at hand; they are as
# confidential as the images.

# %%
said = prompt.predict(test_images)
m = calib.metrics.summarize(said.logits, said.labels)
print(f"accuracy {m['accuracy']:.1%}  NLL {m['nll']:.3f}  ECE {m['ece']:.1%}")
page = calib.report(said, work / "report.html", images=task.test, n_resamples=200, title="My model")
print(page.name, page.stat().st_size // 1000, "kB")

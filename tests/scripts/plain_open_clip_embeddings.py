"""What a stranger's script does: open_clip alone encodes images and class names into an .npz file.

    python plain_open_clip_embeddings.py MODEL.json FOLDER OUT.npz

MODEL.json is an open_clip model configuration; the weights are random. FOLDER holds train/ and test/ with one
folder of images per class. Beside the file of embeddings, OUT.probs.npy holds the model's own probabilities
of the test images, for comparison. Nothing of calib is used.
"""

import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

config, folder, out = map(Path, sys.argv[1:4])
open_clip.add_model_config(config)
torch.manual_seed(0)
model, _, preprocess = open_clip.create_model_and_transforms(config.stem)
model.eval()
tokenizer = open_clip.get_tokenizer(config.stem)

names = sorted(path.name for path in (folder / "train").iterdir())
files = [file for split in ("train", "test") for file in sorted((folder / split).glob("*/*.png"))]
with torch.no_grad():
    images = torch.stack([preprocess(Image.open(file)) for file in files])
    image_features = model.encode_image(images, normalize=True)
    text_features = model.encode_text(tokenizer([f"a photo of a {name}" for name in names]), normalize=True)
    probs = (model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)

np.savez(
    out,
    image_features=image_features.numpy(),
    text_features=text_features.numpy(),
    labels=np.array([names.index(file.parent.name) for file in files]),
    logit_scale=model.logit_scale.detach().numpy(),
    class_names=np.array(names),
    names=np.array([str(file.relative_to(folder)) for file in files]),
    split=np.array([file.parts[-3] for file in files]),
)
in_test = [file.parts[-3] == "test" for file in files]
np.save(out.with_suffix(".probs.npy"), probs[torch.tensor(in_test)].numpy())

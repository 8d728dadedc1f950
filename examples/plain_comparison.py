"""Which small set teaches more? Sets of any tools beside random pictures, in plain PyTorch.

    python plain_comparison.py TRAIN TEST mine=SET theirs=THEIRS.npz --seeds 3 --steps 1000

It needs torch, NumPy and Pillow, not gvbsm. TRAIN and TEST hold real pictures, a folder per class.
A set is such a folder, or an .npz with one array of images and one of labels: numbers in the order
of the classes' names. All sets have the same side, channels and number of images.

Each set trains the same network from scratch, for as many steps with the same views. So do as many
random pictures of TRAIN for each class, drawn anew with each seed. --flip mirrors half of the
batches. *Hard* are the labels of the classes. *Soft* are the logits that one teacher, trained on
TRAIN, gives each view. Soft labels that come with a set are not read. Accuracies are the means over
the classes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, RATE, GAMMA = 50, 0.003, 0.1  # GAMMA: weight of the hard labels beside soft ones


def opened(file):
    """A picture: upright, gray of 16 bits with 8, and white where it is clear."""
    picture = ImageOps.exif_transpose(Image.open(file))
    if picture.mode[0] == "I":
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype("uint8"))
    if picture.has_transparency_data:
        page = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(page, picture.convert("RGBA"))
    return picture


def read_folder(root, names, shape=None):
    """The pictures of class folders in [0, 1], (N, C, S, S), and their classes, (N,).

    Where shape = (C, S) is given, pictures are scaled and cut to it.
    """
    facts = Path(root, "gvbsm.json")  # of an export of gvbsm: which folder holds which class
    folders = dict(zip(names, names, strict=True))
    if facts.is_file():
        facts = json.loads(facts.read_text(encoding="utf-8"))
        folders = dict(zip(facts["class_names"], facts["folders"], strict=True))
    pictures, labels = [], []
    for label, name in enumerate(names):
        files = [file for file in Path(root, folders[name]).iterdir() if file.name[0] != "."]
        for picture in map(opened, sorted(files)):
            gray = picture.mode == "L" if shape is None else shape[0] == 1
            picture = picture.convert("L" if gray else "RGB")
            if shape is not None:
                picture = ImageOps.fit(picture, (shape[1], shape[1]), Image.Resampling.BILINEAR)
            pictures.append(np.atleast_3d(np.asarray(picture)))
            labels.append(label)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255, torch.tensor(labels)


def read_npz(path):
    """The images of an .npz in [0, 1], (N, C, S, S), and their classes, (N,)."""
    with np.load(path) as file:
        keys = [key for key in file.files if not key.startswith(("test", "val"))]
        arrays = [torch.from_numpy(file[key]) for key in keys if file[key].dtype.kind in "uif"]
    images = [array for array in arrays if array.ndim in (3, 4)]
    labels = [array for array in arrays if array.ndim == 1]
    if len(images) != 1 or len(labels) != 1:
        raise SystemExit(f"{path} holds {keys}: expected one array of images and one of labels")
    pixels = images[0][:, None] if images[0].ndim == 3 else images[0]
    pixels = pixels if pixels.shape[1] in (1, 3) else pixels.permute(0, 3, 1, 2)
    pixels = pixels / 255 if images[0].dtype == torch.uint8 else pixels.float()
    if pixels.min() < 0 or pixels.max() > 1:
        raise SystemExit(f"{path}: expected uint8, or 0 to 1: undo the normalization of its images")
    return pixels, labels[0].long()


def network(classes, channels, side):
    """A ConvNet of 128 channels, halved until the side is 4 pixels or less."""
    layers = []
    while side > 4 or not layers:
        layers += [nn.Conv2d(channels, 128, 3, padding=1), nn.GroupNorm(128, 128), nn.ReLU()]
        layers, channels, side = [*layers, nn.AvgPool2d(2)], 128, side // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * side**2, classes)).to(DEVICE)


def view(images, flip):
    """Shift a batch by up to an eighth of its side, and mirror it in half of the cases."""
    room = max(1, images.shape[-1] // 8)
    top, left = torch.randint(2 * room + 1, (2,)).tolist()
    side = images.shape[-1]
    padded = F.pad(images, (room,) * 4, mode="replicate")
    images = padded[..., top : top + side, left : left + side]
    return images.flip(3) if flip and torch.rand(()) < 0.5 else images


def train(images, labels, steps, flip, seed, classes, teacher=None):
    """Train a network from scratch; with a teacher, on its logits of every view."""
    torch.manual_seed(seed)
    model = network(classes, *images.shape[1:3])
    solver = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if not len(order):
            order = torch.randperm(len(images))
        chosen, order = order[:BATCH], order[BATCH:]
        views, hard = view(images[chosen], flip).to(DEVICE), labels[chosen].to(DEVICE)
        outputs = model(views)
        loss = F.cross_entropy(outputs, hard)
        if teacher is not None:
            with torch.no_grad():
                soft = teacher(views)
            loss = F.mse_loss(outputs, soft) + GAMMA * loss
        solver.zero_grad()
        loss.backward()
        solver.step()
        schedule.step()
    return model.eval()


def accuracy(model, images, labels):
    """The balanced accuracy in percent: the mean over the classes of each one's share."""
    with torch.no_grad():
        guesses = torch.cat([model(part.to(DEVICE)).argmax(1).cpu() for part in images.split(256)])
    right = (guesses == labels).float()
    return 100 * float(
        torch.stack([right[labels == label].mean() for label in labels.unique()]).mean()
    )


def draw(labels, like, seed):
    """Positions of random pictures, as many of each class as in `like`."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for label, count in zip(*like.unique(return_counts=True), strict=True):
        places = (labels == label).nonzero().flatten()
        parts.append(places[torch.randperm(len(places), generator=generator)[:count]])
    return torch.cat(parts)


def compare(train_root, test_root, sets, seeds=3, steps=1000, flip=False):
    """Return a row for each set and for random pictures: its name, labels and accuracies."""
    folders = (path for path in Path(train_root).iterdir() if path.is_dir())
    names = sorted(path.name for path in folders if path.name[0] != ".")
    read = {n: read_folder(p, names) if Path(p).is_dir() else read_npz(p) for n, p in sets.items()}
    shapes = {name: (tuple(images.shape[1:]), len(images)) for name, (images, _) in read.items()}
    if len({*shapes.values()}) != 1:
        raise SystemExit(f"the sets differ in shape or number of images: {shapes}")
    first, first_labels = next(iter(read.values()))
    shape = (first.shape[1], first.shape[2])
    real, test = (read_folder(root, names, shape) for root in (train_root, test_root))
    mean, std = (f(real[0], (0, 2, 3))[:, None, None] for f in (torch.mean, torch.std))
    test = ((test[0] - mean) / std, test[1])
    teacher = train((real[0] - mean) / std, real[1], 2 * steps, flip, seeds, len(names))
    print(f"teacher, trained on all {len(real[1])} pictures: {accuracy(teacher, *test):.1f} %")
    rows = []
    for labels_of, guide in (("hard", None), ("soft", teacher)):
        for name in ("random", *read):
            found = []
            for seed in range(seeds):
                index = draw(real[1], first_labels, seed)
                images, labels = read.get(name, (real[0][index], real[1][index]))
                images = (images - mean) / std
                model = train(images, labels, steps, flip, seed, len(names), guide)
                found.append(accuracy(model, *test))
            rows.append((name, labels_of, found))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("sets", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--flip", action="store_true")
    given = parser.parse_args()
    sets = dict(text.split("=", 1) for text in given.sets)
    for name, kind, found in compare(
        given.train, given.test, sets, given.seeds, given.steps, given.flip
    ):
        values = torch.tensor(found)
        spread = f" ± {values.std():.1f}" if len(found) > 1 else ""
        print(f"{name:12} {kind} labels  {values.mean():.1f}{spread} %  (n = {len(found)})")

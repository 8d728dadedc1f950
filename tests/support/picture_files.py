"""Write pictures, folders of pictures and arrays as files, and encode them."""

import io

import numpy as np
from PIL import Image


def draw_classes(root, counts, mode="RGB", size=(8, 8)):
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            draw(root / name / f"{i:03}.png", seed=100 * label + i, mode=mode, size=size)
    return root


def draw_tree(root):
    """train/ and val/ of two classes."""
    draw_classes(root / "train", {"cat": 4, "dog": 3})
    draw_classes(root / "val", {"cat": 2, "dog": 1})
    return root


def draw(path, seed=0, size=(8, 8), mode="RGB"):
    """Save a noise picture of (width, height) `size`; PNG, so the pixels survive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def arrays(channels=3, count=6, size=8, **changes):
    rng = np.random.default_rng(0)
    shape = (count, size, size, channels) if channels else (count, size, size)
    made = {
        "train_images": rng.integers(0, 256, shape, dtype=np.uint8),
        "train_labels": np.arange(count) % 2,
        "test_images": rng.integers(0, 256, shape, dtype=np.uint8),
        "test_labels": np.arange(count) % 2,
    }
    return {k: v for k, v in {**made, **changes}.items() if v is not None}


def write_npz(path, **changes):
    np.savez(path, **arrays(**changes))
    return path


def encoded(value, kind="PNG", size=8):
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, 255 - value, 7)).save(file, kind)
    return file.getvalue()


def reds(split):
    """The numbers of a split's pictures, in their order."""
    if split.images is not None:
        return split.images[:, 0, 0, 0].tolist()
    return [path.open().convert("RGB").getpixel((0, 0))[0] for path in split.paths]

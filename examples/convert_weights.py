"""Convert weights that were published under other names to a file for `squeeze.weights_dir`.

    python examples/convert_weights.py SOURCE.pth timm/tf_efficientnet_lite0 WEIGHTS \
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
    gvbsm run imagenet-1k --data-root DIR --squeeze.weights_dir WEIGHTS \
        --squeeze.backbones '[timm/tf_efficientnet_lite0]'

Tensors are matched by their order, and each must have the shape of its partner. The source is read
as tensors alone: no code in it is run. `--mean` and `--std` say how the weights expect pixels of 0
to 1 normalized. gvbsm normalizes ImageNet as torchvision does, so the difference is folded into the
first convolution and the BatchNorm after it. This is exact but for the pictures' outermost pixels,
which the convolution pads with zeros.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from gvbsm import build_backbone
from gvbsm.backbones.weights import read_weights
from gvbsm.files.network_names import file_stem

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those of `gvbsm run imagenet-1k`


def renamed(state, model):
    """Give the tensors of a state dict the names of a network's, in the same order."""
    expected = model.state_dict()
    if len(state) != len(expected):
        raise SystemExit(f"{len(state)} tensors, but the network has {len(expected)}")
    pairs = list(zip(state.items(), expected.items(), strict=True))
    for (old, tensor), (new, other) in pairs:
        if tensor.shape != other.shape:
            raise SystemExit(f"{old} {tuple(tensor.shape)} is not {new} {tuple(other.shape)}")
    return {new: tensor.contiguous() for (_, tensor), (new, _) in pairs}


def fold_normalization(model, mean, std):
    """Make a network take pixels normalized by MEAN and STD instead of `mean` and `std`."""
    conv = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    ours, theirs = (torch.tensor(pair) for pair in ((MEAN, STD), (mean, std)))
    shift = (ours[0] - theirs[0]) / theirs[1]  # their input is ours * scale + shift
    scale = ours[1] / theirs[1]
    with torch.no_grad():
        norm.running_mean -= (conv.weight * shift[:, None, None]).sum(dim=(1, 2, 3))
        conv.weight *= scale[:, None, None]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="file of torch or safetensors")
    parser.add_argument("backbone", help="name of the network, such as timm/tf_efficientnet_lite0")
    parser.add_argument("directory", type=Path, help="folder for squeeze.weights_dir")
    parser.add_argument("--classes", type=int, default=1000, help="classes of the weights")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--mean", type=float, nargs=3, default=MEAN)
    parser.add_argument("--std", type=float, nargs=3, default=STD)
    options = parser.parse_args()
    model = build_backbone(options.backbone, options.classes, options.size)
    model.load_state_dict(renamed(read_weights(options.source), model))
    fold_normalization(model, options.mean, options.std)
    options.directory.mkdir(parents=True, exist_ok=True)
    path = options.directory / f"{file_stem(options.backbone)}.safetensors"
    save_file(model.state_dict(), path)
    print(path)


if __name__ == "__main__":
    main()

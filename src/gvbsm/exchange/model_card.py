"""The card (README.md) of a network that was trained on a distilled set."""

from __future__ import annotations

from gvbsm.config.yaml_files import format_yaml
from gvbsm.engine.progress.spelling import spell_count
from gvbsm.exchange.card import PAPER, escaped, torch_code
from gvbsm.files.schema import StudentHeader

TRAINED_WITH = ("seed", "precision", "labels", "evaluation")  # entries of the recipe
_SHOWN_CLASSES = 20


def model_card(header: StudentHeader, model: str, weights: str) -> str:
    """Write the card: data, training, accuracy, and how to load the network.

    Args:
        header: The header of the weights.
        model: Name of the ONNX file beside the card.
        weights: Name of the safetensors file beside the card.
    """
    name, source = escaped(header.backbone), escaped(header.trained_on.dataset)
    sections = [
        f"# {name}, trained on {source}, distilled\n",
        _about(header),
        _accuracy(header),
        _files(header, model, weights),
        _onnxruntime(header, model),
        f"## With torch\n\n{torch_code(header.model_dump(), weights)}",
        _settings(header),
        "## License\n\nNot settled here: the distilled images are derived from the pictures of "
        f"{source}, whose terms may bind the network.\n",
    ]
    return "\n".join(sections)


def _about(header: StudentHeader) -> str:
    trained, side = header.trained_on, header.image_size
    labels = "hard labels"
    if trained.label_epochs is not None:
        labels = f"soft labels of {spell_count(trained.label_epochs, 'epoch')}"
    names = header.class_names
    listed = ", ".join(f"{number} {escaped(n)}" for number, n in enumerate(names[:_SHOWN_CLASSES]))
    more = ", ... (all are in the metadata of both files)" * (len(names) > _SHOWN_CLASSES)
    return (
        f"A `{header.backbone}` that classifies pictures of {side} x {side} pixels with "
        f"{spell_count(header.channels, 'channel')} into {spell_count(len(names), 'class')}.\n\n"
        f"- Trained on {spell_count(trained.images, 'image')} of {escaped(trained.dataset)}, made "
        f"by the method `{trained.method}`, with {labels}, and on no other pictures. The images "
        "and soft labels come from networks that were trained on the real pictures.\n"
        f"- Made by gvbsm {header.gvbsm} ({PAPER}).\n"
        f"- Classes: {listed}{more}.\n"
    )


def _accuracy(header: StudentHeader) -> str:
    if header.test is None:
        return "## Accuracy\n\nNot measured.\n"
    test = header.test
    return (
        f"## Accuracy\n\nTop-1 {test.top1:.1f} % on {spell_count(test.pictures, 'real picture')} "
        f"of {escaped(test.dataset)}, after the last epoch, by the weights below. It is one "
        "training (n = 1): other seeds give other values. "
        f"{_standard_error(test.top1, test.pictures)}\n"
    )


def _standard_error(top1: float, pictures: int) -> str:
    error = (top1 * (100 - top1) / pictures) ** 0.5
    return f"The standard error from the number of test pictures is {error:.1f} points."


def _files(header: StudentHeader, model: str, weights: str) -> str:
    shape = f"(batch, {header.channels}, {header.image_size}, {header.image_size})"
    return (
        "## Files\n\n"
        f"- `{model}`: input `pixels`, uint8 {shape}; output `logits`, float32 (batch, "
        f"{len(header.class_names)}). Normalization is inside. The metadata hold `class_names`.\n"
        f"- `{weights}`: the weights of torch, for normalized pictures.\n"
    )


def _onnxruntime(header: StudentHeader, model: str) -> str:
    return f"""## With onnxruntime

```python
import json
import onnxruntime

session = onnxruntime.InferenceSession("{model}")
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
# pixels: NumPy, uint8 (batch, {header.channels}, {header.image_size}, {header.image_size})
(logits,) = session.run(["logits"], {{"pixels": pixels}})
print([names[number] for number in logits.argmax(1)])
```
"""


def _settings(header: StudentHeader) -> str:
    settings = {name: header.recipe[name] for name in TRAINED_WITH if name in header.recipe}
    return (
        "## Settings of the training\n\n<details><summary>settings</summary>\n\n"
        f"```yaml\n{format_yaml(settings)}```\n\n</details>\n"
    )

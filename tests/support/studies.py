"""Make a work directory of finished results, and the results of a study."""

import torch

from gvbsm.backbones import build_backbone
from gvbsm.config import WHOLE_SET
from gvbsm.files.artifacts import write_json
from gvbsm.files.tensors import save
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics
from gvbsm.pipeline.results import spread
from gvbsm.reporting.figures.curves import TERMS
from gvbsm.store.film import Film, save_film
from gvbsm.store.statistics_codec import pack_statistics
from gvbsm.store.teachers import save_teacher

NAMES = ["ant", "$bee_2", "cat 猫", "a dog of the larger kind, brown"]


STUDENT = "convnet8_d1"
ORIGIN = {"preset": None, "changed": []}


TEACHER = "wrn10_1"


HISTORY = {"epochs": [2, 4], "top1": [40.0, 60.0], "losses": [9.0, 3.0, 1.0, 0.1]}


class Maker:
    """Writes the files of a work directory, as far as the gallery reads them."""

    def __init__(self, folder):
        self.folder = folder

    def images(
        self, method, place=".", ipc=6, traces=(), file="synthesis/images.safetensors", classes=4
    ):
        labels = torch.arange(classes).repeat_interleave(ipc)
        pixels = (labels * 60).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
        recipe = {"ipc": ipc, "synthesis": {"init": "noise"}}
        header = {
            "kind": "images",
            "recipe": recipe,
            "method": method,
            "dataset": "toy",
            "class_names": NAMES,
            "mean": [0.5] * 3,
            "std": [0.2] * 3,
            "traces": list(traces),
        }
        save(self.folder / place / file, {"images": pixels, "labels": labels}, header)
        return recipe

    def trace(self):
        return [
            {"step": step, "teacher": TEACHER, **dict.fromkeys(TERMS, 1.0 / (1 + step))}
            for step in range(12)
        ]

    def film(self, recipe, start=0, end=0):
        frames = torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8)
        frames[:, 0], frames[:, -1] = start, end
        film = Film(frames, torch.tensor([0, 5, 90]), torch.tensor([1, 3]))
        save_film(self.folder / "synthesis", film, recipe)

    def student(self, method, seed, top1=60.0, place=".", confusion=None):
        content = {**HISTORY, "top1": [40.0, top1]}
        content["recipe"] = {"student": STUDENT, "seed_index": seed}
        if confusion is not None:
            content["confusion"] = confusion
        write_json(self.folder / place / "evaluation" / f"{method}-{STUDENT}-{seed}.json", content)

    def results(self, label_bytes=None, **values):
        """Rows of methods; `label_bytes` by method where they are not 0."""
        rows = [
            {
                "method": method.replace("_", "-"),
                "student": STUDENT,
                "ipc": 6,
                "top1": spread(found),
                "top1_best": spread(found),
                "seconds": 1.0,
                **self._sizes(method.replace("_", "-"), label_bytes or {}),
            }
            for method, found in values.items()
        ]
        write_json(self.folder / "results.json", {"rows": rows, "origin": ORIGIN})

    def _sizes(self, method, label_bytes):
        if method in WHOLE_SET:
            return {}
        return {"image_bytes": 4 * 6 * 3 * 8 * 8, "label_bytes": label_bytes.get(method, 0)}

    def teacher(self, data, runtime, statistics=True):
        with torch.random.fork_rng():
            model = build_backbone(TEACHER, 4, 8)
        folder = self.folder
        save_teacher(
            folder / "squeeze" / f"{TEACHER}.safetensors", model, TEACHER, data, HISTORY, {}
        )
        if statistics:
            convs = [path for path, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]
            channel = {path: Moments(torch.ones(3), torch.ones(3)) for path in convs}
            found = Statistics(channel, channel)
            header = {"kind": "statistics", "recipe": {}, "backbone": TEACHER}
            save(folder / "statistics" / f"{TEACHER}.safetensors", pack_statistics(found), header)

    def analysis(self, value=0.5, **values):
        sets = ["gvbsm", "real"]
        tensors = {
            f"{kind}/{name}": torch.full((4,), values.get(name, value))
            for kind in ("cosine", "pixel_cosine")
            for name in sets
        }
        tensors |= {"tsne/points": torch.rand(8, 2), "tsne/labels": torch.arange(8) % 4}
        tensors["tsne/set"] = torch.arange(8) // 4
        header = {
            "kind": "analysis",
            "recipe": {},
            "sets": sets,
            "teacher": TEACHER,
            "accuracy": {"gvbsm": 91.0, "real": 100.0},
        }
        save(self.folder / "report" / "analysis.safetensors", tensors, header)

    def continual(self):
        steps = [spread([90.0, 92.0]), spread([70.0, 80.0])]
        row = {
            "method": "gvbsm",
            "student": STUDENT,
            "ipc": 6,
            "steps": steps,
            "average": spread([80.0]),
        }
        content = {"classes": [2, 4], "orders": [[0, 1, 2, 3], [3, 1, 2, 0]], "rows": [row]}
        write_json(
            self.folder / "continual.json",
            {**content, "note": "Teachers know it all.", "origin": ORIGIN},
        )


def study_row(point, method, *values, seconds=None, stored=(100, 200), axes=None):
    return {
        "study": "s",
        "point": point,
        "axes": axes or {},
        "method": method,
        "student": STUDENT,
        "ipc": None if method == "full" else 10,
        "top1": spread(list(values)),
        "seconds": None,
        "synthesis_seconds": None,
        "seconds_per_iteration": seconds,
        "image_bytes": stored[0],
        "label_bytes": stored[1],
    }


def write_study(folder, name, axes, rows, paper=None):
    (folder / "points").mkdir(parents=True, exist_ok=True)
    points = {row["point"]: row["axes"] for row in rows if row["point"] is not None}
    config = {"ipc": 10, "method": "gvbsm", "data": {"name": "digits"}}
    entries = [
        {
            "name": n,
            "axes": at,
            "folders": [f"points/{n}"],
            "done": True,
            "config": {**config, "ipc": at.get("ipc", 10)},
        }
        for n, at in points.items()
    ]
    entries.append({"name": "later", "axes": {}, "folders": [], "done": False, "config": config})
    content = {
        "study": name,
        "title": "what helps",
        "source": "table 1",
        "axes": axes,
        "paper": paper or [],
        "points": entries,
        "rows": rows,
        "additive": False,
        "versions": {},
        "origin": ORIGIN,
    }
    write_json(folder / f"{name}.json", content)

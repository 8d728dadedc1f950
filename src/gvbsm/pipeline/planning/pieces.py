"""What the stages of a plan have in common: a part, its costs, and its share between processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gvbsm.backbones.cost import weight_bytes
from gvbsm.config import BY_FEATURES, Config, SqueezeConfig
from gvbsm.config.build import forgetting_training
from gvbsm.config.settled import coreset_teacher, corruption_kinds
from gvbsm.data.datasets import ImageData
from gvbsm.pipeline.planning.plan import Group, PlannedPart
from gvbsm.pipeline.planning.process_plan import ProcessPlan
from gvbsm.pipeline.planning.work import Costs, Memory, Task, Work
from gvbsm.store.image_set import CURRICULUM

REPORT = "report"  # key of what comes after the last stage
TEST_BATCH = 256  # pictures in a test and in a selection


class AskedCosts:
    """Costs that note for which works they were asked."""

    def __init__(self, costs: Costs) -> None:
        self._costs, self.works = costs, list[Work]()

    def __call__(self, work: Work) -> float:
        """Return the seconds a picture, and note the work."""
        self.works.append(work)
        return self._costs(work)


@dataclass(frozen=True)
class Pieces:
    """Costs of what a run is made of; for the attributes see `estimate.plan_run`."""

    config: Config
    data: ImageData
    costs: AskedCosts
    processes: ProcessPlan
    made: frozenset[str]
    memory: Memory

    def training_on_pictures(self, name: str, squeeze: SqueezeConfig, tests: int) -> float:
        """Seconds of a training on the real pictures and its tests."""
        batch = min(squeeze.batch_size, len(self.data.train))
        micro = min(batch, squeeze.micro_batch or batch)
        step = {"optimizer": squeeze.optimizer.name, "averaged": False}
        picture = self.cost("training", name, micro, **step)
        picture += self.cost("real views", "", batch, views=squeeze.views)
        tested = min(tests, squeeze.epochs) * self.testing(name)
        return squeeze.epochs * len(self.data.train) * picture + tested

    def forgetting(self) -> float:
        """Seconds in which it is counted how often each real picture is forgotten."""
        backbone = coreset_teacher(self.config)
        squeeze = forgetting_training(self.config)
        training = self.training_on_pictures(backbone, squeeze, 0)
        return training + squeeze.epochs * self.testing(backbone, len(self.data.train))

    def selection(self, selection: str) -> float:
        """Seconds in which a teacher sees the real pictures, for a selection or a start by it."""
        if selection not in (*BY_FEATURES, CURRICULUM):
            return 0.0
        return self.testing(coreset_teacher(self.config), len(self.data.train))

    def testing(self, name: str, pictures: int | None = None) -> float:
        """Seconds in which a network classifies so many pictures; None is the test pictures."""
        pictures = len(self.data.test) if pictures is None else pictures
        batch = max(1, min(TEST_BATCH, pictures))
        return pictures * (
            self.cost("testing", name, batch) + self.cost("test pictures", "", batch)
        )

    @property
    def corrupted_pictures(self) -> int:
        """Test pictures of which there are corrupted copies, if the settings name kinds."""
        return min(self.config.evaluation.corruptions.pictures, len(self.data.test))

    def corrupted_testing(self, name: str) -> float:
        """Seconds in which a network is tested on the copies, and on their pictures as they are."""
        section = self.config.evaluation.corruptions
        if not (kinds := corruption_kinds(section)):
            return 0.0
        tests = len(kinds) * len(section.severities) + 1
        return tests * self.testing(name, self.corrupted_pictures)

    def cost(self, task: Task, network: str, batch: int, **settings: object) -> float:
        """Seconds a picture of a kind of work on batches of a size."""
        side = self.data.image_size
        return self.costs(Work(task, network, batch, side, tuple(settings.items())))

    def part(self, key: str, group: Group, what: str, cost: Callable[[], float]) -> PlannedPart:
        """A part that takes `cost()` seconds, or none if it is made."""
        if key in self.made:
            return PlannedPart(key, group, what, 0.0, 0.0, is_made=True)
        self.costs.works.clear()
        seconds = cost()
        works = {*self.costs.works}
        memory = self.memory(works) if works or key == REPORT else None
        return PlannedPart(key, group, what, seconds, seconds, memory=memory)

    def dealt(self, parts: Sequence[PlannedPart], pieces: int, parallel: str) -> list[PlannedPart]:
        """Parts that are dealt to the processes, or of which each is done by all together."""
        if parallel == "pictures":
            shares = [part.seconds / self.processes.count for part in parts]
            return [
                replace(part, seconds=share, wall_seconds=share)
                for part, share in zip(parts, shares, strict=True)
            ]
        gain = self.processes.gain(pieces)
        seconds = [part.seconds / gain for part in parts]
        share = self.processes.dealt(seconds) / (sum(seconds) or 1.0)
        return [
            replace(part, seconds=time, wall_seconds=time * share)
            for part, time in zip(parts, seconds, strict=True)
        ]

    def weight_bytes(self, name: str) -> int:
        """Bytes of the file of a teacher."""
        data = self.data
        return weight_bytes(name, len(data.class_names), data.image_size, data.channels)

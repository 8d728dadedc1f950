"""Late starts: which image begins at which iteration."""

from gvbsm.config import SynthesisConfig
from gvbsm.data.class_sizes import ImageCounts
from gvbsm.method.beyond.late_starts import late_begins


def test_late_begins__cut_images_and_iterations_evenly():
    def begins(iterations, rounds, ipc):
        config = SynthesisConfig(iterations=iterations, rounds=rounds)
        return late_begins(config, ImageCounts.even(1, ipc)).tolist()

    assert begins(4000, 1, 3) == [0, 0, 0]
    assert begins(4000, 4, 4) == [0, 1000, 2000, 3000]
    assert begins(8, 3, 5) == [0, 0, 2, 2, 5]  # the first rounds are the larger
    assert begins(2, 2, 3) == [0, 0, 1]
    assert begins(8, 3, 2) == [0, 2]  # a class of fewer images has none in the last rounds


def test_late_begins__each_class_has_its_own_rounds():
    config = SynthesisConfig(iterations=8, rounds=2)
    assert late_begins(config, ImageCounts((1, 4, 2))).tolist() == [0, 0, 0, 4, 4, 0, 4]

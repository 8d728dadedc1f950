"""Late starts: which image begins at which iteration."""

from gvbsm.config import SynthesisConfig
from gvbsm.method.beyond.late_starts import late_begins


def test_late_begins__cut_images_and_iterations_evenly():
    def begins(iterations, rounds, ipc):
        return late_begins(SynthesisConfig(iterations=iterations, rounds=rounds), ipc)

    assert begins(4000, 1, 3) == [0, 0, 0]
    assert begins(4000, 4, 4) == [0, 1000, 2000, 3000]
    assert begins(8, 3, 5) == [0, 0, 2, 2, 5]  # the first rounds are the larger
    assert begins(2, 2, 3) == [0, 0, 1]

"""The scores of DD-Ranking against its formula, and which rows they take."""

import math
import random
import statistics

import pytest

from gvbsm.studies.robust_scores import robust_scores

TOP1 = {
    "gvbsm": 60.0,
    "random-soft": 50.0,
    "random-hard": 20.0,
    "gvbsm-hard": 25.0,
    "full": 75.0,
    "gvbsm-unaugmented": 41.0,
    "random-unaugmented": 33.0,
}


def row(method, mean, std=1.0, student="convnet128"):
    return {"method": method, "student": student, "top1": {"mean": mean, "std": std}}


def rows(std=1.0, **changed):
    return [row(method, mean, std) for method, mean in {**TOP1, **changed}.items()]


def of(scores, name, images):
    (found,) = [score for score in scores if (score.name, score.images) == (name, images)]
    return found


def dd_ranking(first, second, w=0.5):
    """The formula of arXiv 2505.13300, with accuracies as shares."""
    alpha = w * first + (1 - w) * second
    return (math.e**alpha - math.e**-1) / (math.e - math.e**-1)


def test_scores_are_those_of_the_formula():
    scores = robust_scores(rows())
    assert of(scores, "label-robust", "gvbsm").value == pytest.approx(dd_ranking(0.10, -0.50))
    assert of(scores, "label-robust", "random").value == pytest.approx(dd_ranking(0.0, -0.55))
    augmentation = of(scores, "augmentation-robust", "gvbsm")
    assert augmentation.value == pytest.approx(dd_ranking(0.10, 0.08))
    assert len(scores) == 3  # random pictures against themselves say nothing of augmentation


def test_w_weighs_the_first_difference():
    score = of(robust_scores(rows(), w=0.8), "label-robust", "gvbsm")
    assert score.value == pytest.approx(dd_ranking(0.10, -0.50, w=0.8))


@pytest.mark.parametrize(("low", "high", "value"), [(0.0, 100.0, 0.0), (100.0, 0.0, 1.0)])
def test_the_worst_images_have_0_and_the_best_1(low, high, value):
    worst = {"gvbsm": low, "random-soft": high, "gvbsm-hard": low, "full": high}
    (score,) = robust_scores([row(method, mean, 0.0) for method, mean in worst.items()])
    assert score.value == pytest.approx(value, abs=1e-12)


def test_the_deviation_is_that_of_drawn_accuracies():
    score = of(robust_scores(rows(std=2.0)), "augmentation-robust", "gvbsm")
    draw = random.Random(0).gauss
    drawn = []
    for _ in range(4000):
        changed = [row(method, draw(mean, 2.0)) for method, mean in TOP1.items()]
        drawn.append(of(robust_scores(changed), "augmentation-robust", "gvbsm").value)
    assert score.deviation == pytest.approx(statistics.stdev(drawn), rel=0.05)


def test_single_students_have_no_deviation_but_the_teacher_may_be_one():
    one = [row("gvbsm", 60.0, None), *rows()[1:]]
    assert of(robust_scores(one), "label-robust", "gvbsm").deviation is None
    teacher = [item for item in rows() if item["method"] != "full"] + [row("teacher", 75.0, None)]
    by_teacher = of(robust_scores(teacher), "label-robust", "gvbsm")
    assert by_teacher.value == of(robust_scores(rows()), "label-robust", "gvbsm").value
    assert 0 < by_teacher.deviation < of(robust_scores(rows()), "label-robust", "gvbsm").deviation


@pytest.mark.parametrize("missing", ["random-soft", "gvbsm-hard", "full"])
def test_a_score_needs_all_its_rows_of_one_student(missing):
    some = [item for item in rows() if item["method"] != missing]
    some.append(row(missing, TOP1[missing], student="resnet18"))
    assert ("label-robust", "gvbsm") not in [score[:2] for score in robust_scores(some)]


def test_selections_of_real_pictures_have_a_score():
    selected = [*rows(), row("herding-soft", 55.0), row("herding-hard", 30.0)]
    score = of(robust_scores(selected), "label-robust", "herding")
    assert score.value == pytest.approx(dd_ranking(0.05, -0.45))
    assert score.cells()[0:3] == ("label-robust", "herding", "convnet128")
    assert score.cells()[3].startswith(f"{score.value:.3f} ± 0.00")

"""The verdict and the warnings of a report: each by a case made for it, and none without cause."""

import copy
import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.config import Config
from gvbsm.config.build import to_dict
from gvbsm.config.provenance import UNKNOWN, Origin
from gvbsm.files.schema.measures import RowMetrics, Score
from gvbsm.files.schema.runs import ResultRow
from gvbsm.reporting.facts import Recognition, RunFacts, Stored, Teacher
from gvbsm.reporting.findings import find_all, verdict
from gvbsm.reporting.significance import chance_error, noise, standard_error
from gvbsm.reporting.wording import NO_BREAK, file_words, method_words

STUDENT = "convnet128"


def score(*values):
    std = statistics.stdev(values) if len(values) > 1 else None
    return Score(mean=statistics.fmean(values), std=std, values=list(values))


def row(method, *values, best=None, student=STUDENT):
    last = score(*values)
    return ResultRow(
        method=method,
        student=student,
        ipc=None if method in ("full", "teacher") else 10,
        top1=last,
        top1_best=best or last,
        seconds=1.0,
    )


OWN = row("gvbsm", 80.0, 80.5, 81.0)
ROWS = (
    OWN,
    row("random-hard", 40.0, 41.0, 42.0),
    row("random-soft", 70.0, 70.5, 71.0),
    row("sre2l", 75.0, 75.5, 76.0),
    row("teacher", 90.0),
)


def step(number, gradient):
    return {"step": number, "densification": gradient, "densification_gradient": gradient}


@pytest.fixture
def facts():
    """A run against which nothing is to be said."""
    config = copy.deepcopy(to_dict(Config()))
    config["evaluation"]["students"] = [STUDENT]
    config["data"]["name"] = "cifar10"
    return RunFacts(
        class_names=tuple("abcdefghij"),
        shape=(3, 32),
        train=50_000,
        test=10_000,
        held_out="",
        skipped=(),
        notes=(),
        config=config,
        origin=UNKNOWN,
        preset=copy.deepcopy(config),
        full=copy.deepcopy(config),
        rows=ROWS,
        teachers=(Teacher("a", 80.0, 80.0, 5), Teacher("b", 75.0, 76.0, 5)),
        traces=((step(0, 1.0), step(1, 0.5), step(40, 0.2)),),
        stored={"squeeze": Stored(10, 0)},
        set_bytes={"images": 307_200, "labels": 500_000},
        seconds={},
        versions={"gvbsm": "1.0"},
        writers=("1.0",),
    )


def test_classes_of_few_pictures_and_uneven_classes(facts):
    counts = dict.fromkeys(facts.class_names, 50)
    assert find_all(replace(facts, train_of_class=counts)) == []
    few = only(replace(facts, train_of_class={**counts, "a": 9}))
    assert (few.name, few.level) == ("few-pictures", "warning")
    assert few.text.startswith(
        "1 of 10 classes has fewer training pictures than images ('a' has 9 for 10)"
    )
    config = {**facts.config, "ipc_of": {"b": 51}}
    few = only(replace(facts, train_of_class=counts, config=config))
    assert few.text.startswith(
        "1 of 10 classes has fewer training pictures than images ('b' has 50"
    )
    names = ("a`b", *facts.class_names[1:])
    counts = {**dict.fromkeys(names, 50), "a`b": 500}
    uneven = only(replace(facts, class_names=names, train_of_class=counts))
    assert (uneven.name, uneven.level) == ("uneven", "warning")
    assert uneven.text == ("The classes are uneven: \"a'b\" has 500 training pictures, 'b' 50.")


def test_pictures_that_were_left_out_are_counted_and_named(facts):
    finding = only(replace(facts, skipped=tuple(f"train/a/{number}.png" for number in range(7))))
    assert (finding.name, finding.level) == ("skipped", "warning")
    assert finding.text.startswith(
        "7 real pictures cannot be read and were left out: `train/a/0.png`, `train"
    )
    assert "train/a/6.png" not in finding.text
    assert "and 4 more" in finding.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/data/my set/dog/a b.png", "`dog/a b.png`"),
        ("7.jpg in /data/my set/train-0.tar", "`7.jpg in train-0.tar`"),
        ("/data/my sets/dog/`x`.png", "`/data/my sets/dog/'x'.png`"),
    ],
)
def test_pictures_are_named_from_the_data_s_folder_on(name, words):
    assert file_words(name, "/data/my set") == words
    assert file_words(name, None).strip("`") == name.replace("`", "'")


def test_what_was_assumed_in_reading_the_data_is_said(facts):
    finding = only(replace(facts, notes=("4 of 9 rows have no label and are left out",)))
    assert (finding.name, finding.level) == ("notes", "warning")
    assert finding.text == "Reading the data: 4 of 9 rows have no label and are left out."


def with_rows(facts, *rows):
    """The same facts, with some rows in place of those of the same method and student."""
    new = {(item.method, item.student): item for item in (*facts.rows, *rows)}
    return replace(facts, rows=tuple(new.values()))


def with_config(facts, section, **changes):
    config = {**facts.config, section: {**facts.config[section], **changes}}
    return replace(facts, config=config)


def only(facts):
    (finding,) = find_all(facts)
    assert finding.advice.endswith(".")
    return finding


def test_a_sound_run_has_no_findings(facts):
    assert find_all(facts) == []


# The verdict


def test_verdict_in_two_sentences(facts):
    first, second = (text.replace("\N{NO-BREAK SPACE}", " ") for text in verdict(facts))
    assert first == (
        "Trained on 100 distilled images, convnet128 reaches 80.5 ± 0.5 %; on as many random real "
        "pictures with soft labels of the same teachers, 70.5 ± 0.5 %; as a teacher, on all 50,000 "
        "pictures, 90.0 %."
    )
    assert second == (
        "With as many images, other baselines reach 75.5 ± 0.5 % (SRe2L) and "
        "41.0 ± 1.0 % (random real pictures, hard labels)."
    )


def test_verdict_without_comparison_and_of_one_student(facts):
    alone = replace(facts, rows=(row("gvbsm", 50.04),))
    (text,) = verdict(alone)
    assert text.replace("\N{NO-BREAK SPACE}", " ") == (
        "Trained on 100 distilled images, convnet128 reaches 50.0 %."
    )
    unknown = replace(facts, rows=(row("gvbsm", 50.0), row("teacher", 90.0)), train=None)
    assert "as a teacher, on the whole set, 90.0" in verdict(unknown)[0]
    published = replace(unknown, teachers=(Teacher(STUDENT, 90.0, 90.0, 0),))
    assert verdict(published)[0].endswith("; as a pretrained teacher, 90.0\N{NO-BREAK SPACE}%.")


def test_verdict_names_the_best_of_many_baselines_and_always_random_pictures(facts):
    rows = [row(f"{name}-soft", 79.0, 79.0, 79.0) for name in ("herding", "k-center")]
    first, sentence = verdict(with_rows(facts, *rows))
    assert "70.5" in first
    assert "the best of 4 other baselines" in sentence
    assert "pictures chosen by herding, soft labels" in sentence
    assert "41.0" not in sentence


def test_verdict_with_a_single_baseline(facts):
    random = row("random-soft", 70.0, 70.5, 71.0)
    _, sentence = verdict(replace(facts, rows=(OWN, random, ROWS[3])))
    assert sentence.replace(NO_BREAK, " ") == (
        "With as many images, another baseline reaches 75.5 ± 0.5 % (SRe2L)."
    )
    _, sentence = verdict(replace(facts, rows=(OWN, ROWS[3])))
    assert "images, a baseline reaches" in sentence
    _, sentence = verdict(replace(facts, rows=(OWN, ROWS[1], ROWS[3])))
    assert "images, baselines reach" in sentence


def test_verdict_before_the_own_method_is_evaluated(facts):
    waiting = replace(facts, rows=ROWS[1:])
    assert verdict(waiting) == ["G-VBSM has not been evaluated yet."]


def test_verdict_of_a_selection_does_not_call_it_distilled(facts):
    chosen = replace(facts, config={**facts.config, "method": "random-soft"})
    assert "100 selected real pictures" in verdict(chosen)[0]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("gvbsm", "G-VBSM"),
        ("balanced-hard", "real pictures chosen by clusters, hard labels"),
        ("k-center-hard", "real pictures chosen by k-center, hard labels"),
        (
            "curriculum-soft",
            "distilled images and real pictures chosen in rounds, soft labels",
        ),
        ("full", "whole set"),
        ("new", "new"),
    ],
)
def test_methods_in_words(method, words):
    assert method_words(method) == words


# Chance


def test_standard_error_by_hand():
    assert standard_error(50, 98) == pytest.approx(100 * 0.5 / math.sqrt(98))
    assert standard_error(100, 360) > 0  # no error is ever nothing


@given(st.floats(0, 100), st.integers(1, 10**6))
def test_standard_error_is_symmetric_and_falls_with_pictures(top1, pictures):
    here = standard_error(top1, pictures)
    assert here == pytest.approx(standard_error(100 - top1, pictures))
    assert 0 < here <= 100
    assert standard_error(top1, 4 * pictures + 6) < here


def test_noise_is_of_students_or_of_test_pictures_whichever_is_larger():
    first, second, single = score(60.0, 66.0), score(50.0, 50.0), score(55.0)
    pooled = math.sqrt((18 + 0) / 2)
    assert noise(first, second, None) == pytest.approx(2 * pooled)
    assert noise(first, single, None) == pytest.approx(2 * math.sqrt(18))
    assert noise(single, single, None) == 0
    assert noise(second, single, 100) == pytest.approx(2 * standard_error(52.5, 100))
    assert noise(first, second, 10**6) == pytest.approx(2 * pooled)


# Rivals


@pytest.mark.parametrize(
    ("values", "how"),
    [
        ((80.0, 80.4, 80.0), "do as well:"),
        ((82.0, 82.5, 83.0), "do better:"),
        ((79.7, 79.8, 79.9), "do as well:"),  # 0.7 points behind, two standard errors being 0.8
    ],
)
def test_random_pictures_with_soft_labels_that_do_as_well(facts, values, how):
    finding = only(with_rows(facts, row("random-soft", *values)))
    assert finding.name == "rival-soft"
    assert finding.level == "warning"
    assert f"Random real pictures with the same soft labels {how}" in finding.text
    # the labels' share is another matter: random pictures with hard labels may be near
    assert finding.text.endswith("Here the distilled images bring no more than real pictures.")
    assert finding.advice.startswith("Compare at fewer images per class")


def test_one_image_a_class_cannot_be_fewer(facts):
    facts.config["ipc"] = 1
    finding = only(with_rows(facts, row("random-soft", 82.0, 82.5, 83.0)))
    assert finding.name == "rival-soft"
    assert finding.advice.startswith("Raise `synthesis.iterations`.")


@pytest.mark.parametrize(("top1", "told"), [(83.9, True), (81.0, True), (84.1, False)])
def test_pictures_that_are_nearly_as_good_as_their_teacher_leave_nothing_to_add(facts, top1, told):
    facts.config["ipc"] = 1
    rows = with_rows(facts, row("random-soft", 81.9, 82.0, 82.1), row("teacher", top1))
    finding = only(rows)
    assert ("images can add little here" in finding.text) is told
    if told:
        gap = max(0.0, top1 - 82.0)
        assert f"They are {gap:.1f} points behind the teacher's {top1} %" in finding.text
    assert finding.advice.startswith("If you may pass on" if told else "Raise")


def test_a_difference_beyond_two_deviations_counts(facts):
    assert find_all(with_rows(facts, row("random-soft", 79.4, 79.4, 79.4))) == []


def test_rivals_of_one_kind_are_told_together(facts):
    both = with_rows(
        facts, row("random-soft", 80.5, 80.5, 80.5), row("herding-soft", 90.0, 90.0, 90.0)
    )
    finding = only(both)
    assert "Random real pictures and real pictures chosen by herding with" in finding.text
    assert "do as well or better" in finding.text
    assert "(herding-soft)" in finding.text


def test_other_rivals(facts):
    names = [
        finding.name
        for finding in find_all(
            with_rows(facts, row("random-hard", 81.0, 81.0, 81.0), row("sre2l", 99.0, 99.0, 99.0))
        )
    ]
    assert names == ["rival-hard", "rival-sre2l"]


@pytest.mark.parametrize(
    ("labels", "words"), [("soft", "the same soft labels"), ("hard", "plain hard labels")]
)
def test_some_images_and_selected_pictures_that_do_as_well(facts, labels, words):
    """They hold distilled images: they do not show that distillation gains nothing."""
    rows = with_rows(facts, row(f"curriculum-{labels}", 80.5, 80.5, 80.5))
    finding = only(rows)
    assert finding.name == f"rival-curriculum-{labels}"
    assert finding.text.startswith(
        f"Distilled images and real pictures chosen in rounds with {words} do as well"
    )
    assert finding.text.endswith("are worth as much as all of them.")
    assert finding.advice == "If you may pass on real pictures, take that set."
    other = with_rows(rows, row("random-soft", 80.5, 80.5, 80.5))
    assert {each.name for each in find_all(other)} == {finding.name, "rival-soft"}


def test_a_set_of_another_method_that_does_as_well(facts):
    finding = only(with_rows(facts, row("dm", 80.5, 80.5, 80.5)))
    assert finding.name == "rival-dm"
    assert finding.text.startswith("The set `dm` does as well: convnet128 80.5")
    assert finding.text.endswith("The distilled images have no lead over it here.")
    assert "`synthesis.iterations`" in finding.advice
    assert "The additions of G-VBSM make no" in (
        only(with_rows(facts, row("sre2l", 80.5, 80.5, 80.5))).text
    )


@pytest.mark.parametrize(("accuracy", "words"), [(41.5, "no more than"), (50.0, "more than")])
def test_the_distilled_images_with_hard_labels_are_no_rival_but_what_the_images_teach(
    facts, accuracy, words
):
    finding = only(with_rows(facts, row("gvbsm-hard", *[accuracy] * 3)))
    assert (finding.name, finding.level) == ("images-alone", "note")
    assert f"teach convnet128 {accuracy:.1f}" in finding.text.replace(NO_BREAK, " ")
    assert f"without soft labels they teach {words} these" in finding.text
    assert only(with_rows(facts, row("gvbsm-hard", 90.0, 90.0, 90.0))).name == "images-alone"
    _, others = verdict(with_rows(facts, row("gvbsm-hard", 79.0, 79.0, 79.0)))
    assert "(distilled images, hard labels)" in others


def test_a_baseline_as_the_run_itself_has_no_rivals(facts):
    config = {**facts.config, "method": "sre2l"}
    assert find_all(replace(facts, config=config, rows=(row("sre2l", 75.0, 75.0, 75.0),))) == []


# The rest, a case each


def test_one_student_has_no_spread(facts):
    lonely = with_config(with_rows(facts, row("sre2l", 75.0)), "evaluation", seeds=3)
    finding = only(lonely)
    assert finding.name == "single"
    assert "SRe2L (convnet128)" in finding.text
    assert "whole set" not in finding.text  # a teacher is always one


def test_students_that_are_not_trained_yet(facts):
    later = with_config(facts, "evaluation", students=[STUDENT, "resnet18"], seeds=3)
    assert only(later).text == "Not all students are trained: resnet18 0 of 3."
    assert only(with_config(facts, "evaluation", seeds=4)).text.endswith("convnet128 3 of 4.")


def test_accuracies_of_guesses(facts):
    """Ten classes of 1,000 test pictures each: chance is 10 %, with a standard error of 0.3."""
    error = 100 * math.sqrt(0.1 * 0.9 / 10_000)
    assert find_all(with_rows(facts, row("sre2l", *[10 + 2.01 * error] * 3))) == []
    finding = only(with_rows(facts, row("sre2l", *[10 + 1.99 * error] * 3)))
    assert (finding.name, finding.level) == ("chance", "warning")
    assert "These accuracies are no better than guesses (10.0 %;" in finding.text
    assert "two standard errors are 0.6 points" in finding.text
    assert finding.text.endswith("SRe2L (convnet128) 10.6 %.")
    assert only(with_rows(facts, row("sre2l", 1.0, 1.0, 1.0))).name == "chance"


def test_accuracies_of_guesses__balanced_where_classes_are_uneven(facts):
    """Always naming the largest class is right for 91 % of the pictures, and learns nothing."""
    uneven = replace(facts, test_of_class=(9100, *[100] * 9))

    def measured(balanced):
        metrics = RowMetrics(calibration_error=score(1.0), by_class=[], balanced=score(balanced))
        sre2l = row("sre2l", 79.0, 79.0, 79.0).model_copy(update={"metrics": metrics})
        return with_rows(uneven, sre2l)

    error = 10 * math.sqrt(0.1 * 0.9 * (1 / 9100 + 9 / 100))
    assert chance_error(uneven.test_of_class) == pytest.approx(error)
    assert find_all(measured(10 + 2.01 * error)) == []
    assert "These balanced accuracies are" in only(measured(10.0)).text
    assert find_all(uneven) == []  # nothing is known of older results


def test_chance_error__is_binomial_where_classes_are_even():
    assert chance_error([25] * 4) == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 100))


def test_images_that_a_teacher_does_not_recognize(facts):
    def recognized(percent, teacher="a", images=1000):
        return replace(facts, recognition=Recognition(teacher, percent, images))

    assert find_all(recognized(70.5)) == []  # the teacher has 80 % on the test pictures
    finding = only(recognized(69.5))
    assert (finding.name, finding.level) == ("unrecognized", "warning")
    assert "The teacher a classifies 69.5 % of 1,000 distilled images" in finding.text
    assert "80.0 % of the test pictures" in finding.text
    assert find_all(recognized(69.5, images=10)) == []  # one image is ten points
    assert find_all(recognized(10.0, teacher="c")) == []
    assert only(recognized(10.0, images=10)).name == "unrecognized"


def test_a_large_spread(facts):
    finding = only(with_rows(facts, row("gvbsm", 80.0, 85.0, 90.0)))
    assert (finding.name, "convnet128 ± 5.0" in finding.text) == ("spread", True)


def test_a_last_epoch_below_the_best(facts):
    late = row("gvbsm", 80.0, 80.5, 81.0, best=score(82.0, 82.5, 83.0))
    finding = only(with_rows(facts, late))
    assert (finding.name, "82.5 at best, 80.5 %" in finding.text) == ("late", True)
    assert "schedule" not in finding.advice  # the settings have a cosine
    settings = facts.config["evaluation"]["optimizer"] | {"schedule": "constant"}
    constant = with_config(with_rows(facts, late), "evaluation", optimizer=settings)
    assert "A cosine schedule" in only(constant).advice


def test_densification_that_never_acted(facts):
    still = replace(facts, traces=((step(0, 0.0), step(1, 0.0)),))
    assert (only(still).name, only(still).level) == ("densification", "warning")
    one = replace(still, config={**still.config, "ipc": 1}, preset=None)
    assert only(one).level == "note"
    off = with_config(still, "synthesis", weight_densification=0.0)
    assert find_all(off) == []
    assert find_all(replace(facts, traces=())) == []
    scaled = with_config(still, "synthesis", densification="scaled")
    assert only(scaled).advice == "Try a higher `synthesis.tau`."


def test_densification_that_rarely_acted(facts):
    rare = (step(0, 1.0), *(step(number, 0.001) for number in range(1, 10)))
    finding = only(replace(facts, traces=(rare,)))
    assert finding.name == "densification-rare"
    assert "at 90% of the logged steps" in finding.text
    assert "That is the paper's form" in finding.advice
    scaled = with_config(replace(facts, traces=(rare,)), "synthesis", densification="scaled")
    assert "paper" not in only(scaled).advice


def test_a_weak_teacher(facts):
    teachers = (*facts.teachers, Teacher("c", 69.9, 70.0, 5))
    finding = only(replace(facts, teachers=teachers))
    assert finding.name == "weak-teacher"
    assert "much less accurate than a (80.0 %): c 69.9 %." in finding.text
    assert "longer (`squeeze.epochs`)" in finding.advice
    published = (*facts.teachers, Teacher("c", 69.9, 69.9, 0))
    advice = only(replace(facts, teachers=published)).advice
    assert ("`squeeze.pretrained` false" in advice, "epochs" in advice) == (True, False)


def test_a_whole_set_that_is_no_upper_bound(facts):
    short = only(with_rows(facts, row("teacher", 70.0)))
    assert (short.name, short.advice) == ("short-teacher", "Raise `squeeze.epochs`.")
    assert "was trained too briefly: its row is no upper bound." in short.text
    published = (*facts.teachers, Teacher(STUDENT, 70.0, 70.0, 0))
    other = only(replace(with_rows(facts, row("teacher", 70.0)), teachers=published))
    assert "has published weights, which do not fit these pictures: its row is no" in other.text
    assert "`squeeze.pretrained`" in other.advice
    assert "epochs" not in other.advice


def test_settings_below_the_preset(facts):
    less = with_config(facts, "synthesis", iterations=100)
    less = with_config(less, "squeeze", backbones=["resnet18"])
    text = only(less).text
    assert "`synthesis.iterations` 100 of 4,000" in text
    assert "number of `squeeze.backbones` 1 of 5" in text
    assert find_all(with_config(facts, "synthesis", iterations=9000)) == []
    assert find_all(replace(less, full=None)) == []
    beyond = replace(less, origin=Origin("cifar10-best"), preset=less.config)
    assert find_all(beyond) == []  # it is no less of the paper's, but another recipe
    assert find_all(replace(less, origin=Origin("cifar10+cifar10-small"), preset=less.config))


def test_a_teacher_of_fewer_epochs_than_the_preset_s(facts):
    own = {"wrn16_2": {"epochs": "3"}, "resnet50": {"epochs": 1}}  # the second is no teacher
    less = with_config(facts, "squeeze", settings_of=own)
    assert "preset cifar10: `squeeze.epochs` of wrn16_2 3 of 50." in only(less).text
    longer = with_config(facts, "squeeze", settings_of={"wrn16_2": {"epochs": 60}})
    assert find_all(longer) == []
    assert "`squeeze.epochs` of wrn16_2 50 of 60" in only(replace(facts, full=longer.config)).text
    assert find_all(facts) == []
    assert only(replace(facts, full=longer.config)).name == "reduced"


def test_labels_that_outweigh_the_images(facts):
    heavy = replace(facts, set_bytes={"images": 307_200, "labels": 30_720_000})
    assert "100 times the space" in only(heavy).text
    assert "more than all real" not in only(heavy).text  # 154 MB
    small = replace(heavy, train=100)
    assert "more than all training pixels (307 kB)" in only(small).text
    assert "`labels.storage.pruning` 10" in only(heavy).advice
    heavy.config["labels"]["batchnorm"] = "batch"
    assert "pruning" not in only(heavy).advice  # refused with it
    assert "`labels.storage.bits` 8 stores half" in only(heavy).advice
    heavy.config["labels"]["storage"]["bits"] = 8
    assert only(heavy).advice == "Include them in the size of the set."  # nothing is left to do
    heavy.config["labels"]["batchnorm"] = "running"
    assert "`labels.storage.pruning` 10 stores a tenth" in only(heavy).advice
    heavy.config["labels"]["storage"]["pruning"] = 10.0
    assert only(heavy).advice == "Include them in the size of the set."


def test_missing_baselines(facts):
    finding = only(replace(facts, rows=(OWN, *ROWS[2:4])))
    assert finding.name == "missing"
    assert "random real pictures, hard labels and teacher" in finding.text


def test_own_pictures_have_no_full_preset_and_no_sre2l_to_miss(facts):
    less = with_config(facts, "synthesis", iterations=100)
    less = with_config(less, "baselines", methods=["random-hard", "random-soft", "teacher"])
    own = replace(less, origin=Origin("own"), rows=(*ROWS[:3], ROWS[4]))
    assert find_all(own) == []
    without = with_config(own, "baselines", methods=[])
    finding = only(replace(without, rows=(OWN, ROWS[1], ROWS[4])))
    assert finding.name == "missing"  # the honest row is missed, whoever left it out
    assert "random real pictures, soft labels." in finding.text


def test_few_test_pictures(facts):
    rows = (OWN, ROWS[1], row("random-soft", 60.0, 60.0), row("sre2l", 60.0, 61.0), ROWS[4])
    finding = only(replace(facts, test=360, rows=rows))
    assert finding.name == "test-pictures"
    assert "one is 0.3 points, and the standard error" in finding.text
    assert "about 2.1 points" in finding.text


def test_files_of_several_versions(facts):
    assert "1.0 and 1.1" in only(replace(facts, writers=("1.0", "1.1"))).text


def test_notes_come_after_warnings(facts):
    both = replace(facts, set_bytes={"images": 1, "labels": 100}, writers=("1", "2"))
    assert [finding.level for finding in find_all(both)] == ["warning", "note"]

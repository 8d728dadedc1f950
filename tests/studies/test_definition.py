"""Studies: what a file may hold, how its points are completed, and those of the paper."""

import re

import pytest
import yaml

from gvbsm.config import ConfigError
from gvbsm.config.build import build_config, squeeze_of, to_dict
from gvbsm.config.preset_files import read_preset
from gvbsm.config.settled import settle_beta_dr
from gvbsm.data.epochs import batch_size_for
from gvbsm.studies.definition import (
    STUDIES,
    BackboneChoice,
    complete_points,
    data_name,
    read_studies,
    read_study,
    read_sweep_plan,
    study_names,
)
from gvbsm.studies.published import published_columns

PRESETS = [
    "digits",
    "digits+digits-short",
    "cifar10",
    "cifar10+cifar10-small",
    "cifar100",
    "tiny-imagenet",
    "imagenet-1k",
    "folder",
    "npz",
]
UNFIT = {
    (name, "imagenet-1k")
    for name in ("table11-teacher-epochs", "appendix-d-convnet", "table5-coresets")
}
OF_BASELINES = ["table5-coresets"]  # whose points are other methods


# The paper's accuracies as printed, first column; of figures what section 4.1 tells of them.
PAPER = {
    "table1-alpha": [30.4, 31.4, 31.9],
    "table3-label-backbones": [25.7, 27.2, 27.9, 31.4],
    "table6-logit-normalization": [31.4, 25.4, 31.0, 25.1],
    "table10-matching": [27.8, 24.0, 31.4],
    "table11-teacher-epochs": [46.5, 45.8, 42.5, 42.1],
    "appendix-d-convnet": [32.8, 38.7],
    "figure1-stages": [21.3, None, 21.3 + 6.5, 31.4],
    "figure5-components": [21.3, 21.3 + 0.9, None, 21.3 + 6.5 - 2.7, 21.3 + 6.5, 31.4],
    "figure6-loss": [25.4, None, 25.4 + 1.4, 25.4 + 6.0],
    "figure6-beta-dr": [31.4, None, None, None, None, 31.4 - 3.6],
    "figure6-batch-size": [None, None, None, None],
    "table2-cross-architecture": [15.41, 29.43],
    "table4-ipc": [None, 47.6, 51.0],
    "table5-coresets": [26.0, 31.6, 14.7, 23.3],
    "cross-architecture": [None] * 5,
    "ipc": [None, 46.5, 54.3],
    "label-storage": [None] * 13,
    "alternatives": [None] * 19,
    "budget": [None] * 6,
    "ladder": [None] * 16,
    "traps": [None] * 11,
}

ON_BEST = ["alternatives", "budget"]  # they vary single settings of a recipe beyond the paper

# Students that the paper's tables test and presets or studies name beside their own.
PAPER_STUDENTS = [
    "torchvision/resnet50",
    "torchvision/resnet101",
    "timm/deit_tiny_patch16_224",
    "timm/swin_tiny_patch4_window7_224",
]

PUBLISHED = {"data": "cifar10", "student": "resnet18", "ipc": 10, "figures": {"one": 31.4}}
MINIMAL = {"title": "toy", "source": "none", "axes": ["a"], "points": {"one": None}}


@pytest.fixture
def write(tmp_path):
    """Write a study and return its path as text."""

    def to(content, name="toy"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        )
        return str(path)

    return to


def points_of(name, settings=None, options=None):
    (points,) = complete_points([read_study(name)], settings or {}, options or {})
    return points


# Points


def test_a_grid_is_a_product_and_names_its_points(write):
    path = write(
        {
            **{key: MINIMAL[key] for key in ("title", "source")},
            "axes": ["alpha", "normalized"],
            "grid": {"synthesis.alpha": [0.0, 0.4], "labels.logit_normalization": [True, False]},
        }
    )
    points = points_of(path)
    assert [point.name for point in points] == [
        "alpha=0.0,normalized=true",
        "alpha=0.0,normalized=false",
        "alpha=0.4,normalized=true",
        "alpha=0.4,normalized=false",
    ]
    for point in points:
        config = point.config
        found = {"alpha": config.synthesis.alpha, "normalized": config.labels.logit_normalization}
        assert found == point.axes


def test_the_later_wins__preset_base_data_options_point(write):
    path = write(
        {
            **MINIMAL,
            "base": {"ipc": 2, "seed": 2, "labels.epochs": 2, "synthesis.iterations": 2},
            "for": {"digits": {"seed": 3, "labels.epochs": 3, "synthesis.iterations": 3}},
            "points": {"one": {"synthesis.iterations": 5}, "two": None},
        }
    )
    settings = {"ipc": 1, "seed": 1, "threads": 1, "labels": {"epochs": 1, "batch_size": 7}}
    options = {"labels": {"epochs": 4}, "synthesis": {"iterations": 4}}
    one, two = points_of(path, settings, options)
    for point, iterations in ((one, 5), (two, 4)):
        config = point.config
        assert (config.threads, config.ipc, config.seed) == (1, 2, 3)
        assert (config.labels.epochs, config.labels.batch_size) == (4, 7)
        assert config.synthesis.iterations == iterations
    elsewhere = points_of(path, {**settings, "data": {"name": "npz"}})
    assert elsewhere[0].config.seed == 2


def test_a_preset_is_laid_below_the_settings_beside_it(write):
    over = {"preset": "sre2l", "synthesis.alpha": 0.5}
    (point,) = points_of(write({**MINIMAL, "points": {"one": over}}))
    assert (point.config.method, point.config.evaluation.loss) == ("sre2l", "kl")
    assert point.config.synthesis.alpha == 0.5


def test_backbones_are_chosen_from_the_teachers(write):
    points = {
        "first": {"labels.backbones": {"first": 2}},
        "without": {"synthesis.backbones": {"without": "conv"}},
        "own": {"squeeze.backbones": ["wrn10_1"], "labels.backbones": {"first": 1}},
    }
    teachers = ["convnet8_d1", "wrn10_1", "wrn16_1"]
    first, without, own = points_of(
        write({**MINIMAL, "points": points}), {"squeeze": {"backbones": teachers}}
    )
    assert first.config.labels.backbones == ("convnet8_d1", "wrn10_1")
    assert without.config.synthesis.backbones == ("wrn10_1", "wrn16_1")
    assert own.config.labels.backbones == ("wrn10_1",)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (BackboneChoice(count=3), "asks for the first 3 of squeeze.backbones ['a1', 'b1']"),
        (BackboneChoice(without="c"), "leaves c* out of squeeze.backbones ['a1', 'b1']"),
    ],
)
def test_a_choice_that_cannot_be_made(choice, words):
    with pytest.raises(ConfigError) as error:
        choice.of(["a1", "b1"])
    assert str(error.value).startswith(words)


def test_points_of_an_additive_study_keep_what_those_before_set(write):
    points = {
        "start": {"synthesis.iterations": 7, "synthesis.alpha": 0.1},
        "sre2l": {"preset": "sre2l", "ipc": 3},
        "more": {"synthesis.iterations": 9, "labels.backbones": {"first": 1}},
    }
    base = {"base": {"synthesis.beta_dr": 0.25}}
    path = write({**MINIMAL, "additive": True, "points": points, **base})
    assert read_study(path).additive
    start, sre2l, more = (point.config for point in points_of(path))
    preset = build_config(read_preset("sre2l"))
    assert (start.synthesis.iterations, start.synthesis.alpha, start.ipc) == (7, 0.1, 10)
    assert start.synthesis.beta_dr == 0.25
    # a point's preset lies upon the points before it, and below what the point sets
    assert (sre2l.method, sre2l.synthesis.loop, sre2l.ipc) == ("sre2l", preset.synthesis.loop, 3)
    assert sre2l.synthesis.iterations == read_preset("sre2l")["synthesis"].get("iterations", 7)
    assert (more.method, more.ipc, more.synthesis.iterations) == ("sre2l", 3, 9)
    assert more.labels.backbones == more.squeeze.backbones[:1]
    apart = write({**MINIMAL, "points": points}, "apart")
    assert not read_study(apart).additive
    assert points_of(apart)[2].config.ipc == 10


def test_presets_of_an_additive_study_are_read_for_the_images_per_class_of_the_command(
    write, tmp_path
):
    preset = tmp_path / "by_number.yaml"
    preset.write_text("synthesis: {iterations: 5}\nat_ipc:\n  3: {synthesis: {iterations: 7}}\n")
    points = {"start": None, "best": {"preset": str(preset)}, "more": {"seed": 1}}
    path = write({**MINIMAL, "additive": True, "points": points})
    plan = points_of(path, {}, {"ipc": 3})
    assert [point.config.synthesis.iterations for point in plan[1:]] == [7, 7]
    assert [point.config.synthesis.iterations for point in points_of(path)[1:]] == [5, 5]


def test_the_first_point_of_an_additive_study_may_set_nothing(write):
    points = {"start": None, "more": {"ipc": 3}}
    assert [p.config.ipc for p in points_of(write({**MINIMAL, "additive": True, "points": points}))]
    with pytest.raises(ConfigError, match="--ipc is the setting that the study varies"):
        points_of(
            write({**MINIMAL, "additive": True, "points": {"a": {"ipc": 1}, "b": {"seed": 2}}}),
            {},
            {"ipc": 4},
        )


# Faults


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tittle": "x"}, "there is no entry 'tittle'; did you mean title?"),
        ({"title": 3}, "title must be a text, found 3"),
        ({"axes": "a"}, "axes must be a list of names, found 'a'"),
        ({"points": [1]}, "points must be a mapping, found [1]"),
        ({"points": {}}, "give either grid or points"),
        ({"grid": {"ipc": [1]}}, "give either grid or points"),
        ({"axes": ["a", "b"]}, "points vary along one axis, but axes names 2"),
        ({"points": {}, "grid": {"ipc": 1}}, "grid: ipc must have a list of values, found 1"),
        ({"points": {}, "grid": {"ipc": [1], "seed": [2]}}, "grid varies 2 settings, but axes"),
        ({"points": {1: None, "1": {"ipc": 2}}}, "two points are named '1'; give each a name"),
        ({"points": {}, "grid": {"seed": [1, 2, 1]}}, "two points are named 'a=1'; give each"),
        ({"points": {"one": {"ipcc": 1}}}, "point one: there is no setting 'ipcc'; did you mean"),
        ({"base": {"synthesis.alfa": 1}}, "did you mean synthesis.alpha"),
        ({"base": {"synthesis": 1}}, "base: synthesis is a section of settings, found 1"),
        ({"base": {"preset": "sre3l"}}, "there is no preset 'sre3l'; did you mean sre2l?"),
        ({"for": {"digits": [1]}}, "for digits must be a mapping of settings, found [1]"),
        (
            {"base": {"labels.backbones": {"last": 2}}},
            "base: labels.backbones must be a list, {first: COUNT}, {only: NUMBER} or",
        ),
        ({"base": {"labels.backbones": {"first": 0}}}, "{first: COUNT}"),
        ({"additive": "yes"}, "additive must be true or false, found 'yes'"),
        (
            {"additive": True, "points": {}, "grid": {"seed": [1]}},
            "additive is for points, which follow each other; a grid has no order",
        ),
        (
            {"additive": True, "points": {"one": {"ipc": 1}, "two": {"ipc": 1}}},
            "point two adds nothing to the point before",
        ),
        ({"additive": True, "points": {"one": None, "two": None}}, "point two adds nothing"),
        ({"paper": {"data": "x"}}, "paper: expected a list, one entry for each data set"),
        ({"paper": [{"data": "x"}]}, "paper: each entry needs data, student and figures, found"),
        ({"paper": [PUBLISHED | {"icp": 1}]}, "paper: there is no entry 'icp'; did you mean ipc"),
        ({"paper": [PUBLISHED | {"data": 1}]}, "paper: data and student must be names, found 1"),
        ({"paper": [PUBLISHED | {"figures": [1]}]}, "paper: figures must map points to accuracies"),
        ({"paper": [PUBLISHED | {"figures": {"too": 1}}]}, "paper: there is no point 'too'"),
        (
            {"paper": [PUBLISHED | {"figures": {"one": 131.4}}]},
            "paper: one needs an accuracy in percent, found 131.4",
        ),
        (
            {"paper": [{k: v for k, v in PUBLISHED.items() if k != "ipc"}]},
            "paper: one needs images per class: set ipc beside its figures, found None",
        ),
        (
            {"points": {"one": {"ipc": 3}}, "paper": [PUBLISHED]},
            "paper: one has 3 images per class, its figure says 10",
        ),
    ],
)
def test_a_fault_of_the_file_is_one_line(write, change, words):
    path = write({**MINIMAL, **change})
    with pytest.raises(ConfigError) as error:
        read_study(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"study {path}: ")
    assert words in line


def test_a_file_that_is_no_mapping_or_not_there(write, tmp_path):
    with pytest.raises(ConfigError, match="must hold a mapping"):
        read_study(write("- 1"))
    with pytest.raises(ConfigError, match="there is no study"):
        read_study(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="no study 'table1'; did you mean table1"):
        read_study("table1")


def test_faults_of_all_points_are_told_at_once_and_equal_ones_once(write):
    study = {**MINIMAL, "axes": ["alpha", "ipc"], "points": {}}
    study["grid"] = {"synthesis.alpha": [0.5, 1.5, "high"], "ipc": [1, 0]}
    with pytest.raises(ConfigError) as error:
        points_of(write(study))
    lines = str(error.value).splitlines()
    assert [line for line in lines if "alpha must be in [0, 1)" in line] == [
        "toy, alpha=1.5,ipc=1 and 1 more: synthesis.alpha must be in [0, 1), got 1.5"
    ]
    assert "toy, alpha=0.5,ipc=0 and 1 more: ipc must be positive, got 0" in lines
    assert sum("found high" in line for line in lines) == 1
    assert len(lines) == 3


def test_an_option_without_effect_is_a_fault(write):
    study = write({**MINIMAL, "points": {"one": {"ipc": 1}, "two": {"ipc": 2, "seed": 4}}})
    with pytest.raises(
        ConfigError, match=r"^toy: --ipc is the setting that the study varies; leave it out$"
    ):
        points_of(study, options={"ipc": 3})
    one, two = points_of(study, options={"seed": 3})
    assert (one.config.seed, two.config.seed) == (3, 4)


def test_plan__repeat_and_names(write):
    with pytest.raises(ConfigError, match="repeat must be at least 1, got 0"):
        read_sweep_plan("ipc", {}, {}, 0)
    path = write(MINIMAL, "ipc")
    with pytest.raises(ConfigError, match=r"two studies .* have the same name"):
        read_studies(f"ipc+{path}", "digits")
    assert [study.name for study in read_studies("ipc+ipc", "digits")] == ["ipc"]


# The paper's


def test_all_studies_are_there():
    assert study_names() == sorted(PAPER)
    assert len(list(STUDIES.iterdir())) == len(PAPER)


@pytest.mark.parametrize("name", sorted(PAPER))
def test_a_study_opens_with_its_command_and_has_the_paper_s_figures(name):
    lines = (STUDIES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    opening = [line for line in lines if line.startswith("#")]
    assert lines[: len(opening)] == opening
    preset = "digits-best" if name in ON_BEST else "digits"
    assert any(re.match(rf"#\s+gvbsm sweep {name} {preset}$", line) for line in opening)
    assert max(map(len, lines)) <= 110
    study = read_study(name)
    column = next(iter(published_columns(study.paper)), None)
    first = {} if column is None else column.top1
    found = [first.get(variant.name) for variant in study.variants]
    assert found == [None if value is None else pytest.approx(value) for value in PAPER[name]]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_study_resolves_on_every_preset(preset):
    settings = read_preset(preset)
    data = data_name(settings)
    studies = read_studies("all", data)
    assert {(name, data) for name in study_names()} - {(s.name, data) for s in studies} == {
        pair for pair in UNFIT if pair[1] == data
    }
    for study, points in zip(studies, complete_points(studies, settings, {}), strict=True):
        configs = [str(to_dict(point.config)) for point in points]
        assert len(set(configs)) == len(points) == len(study.variants)
        for point in points:
            if study.name not in OF_BASELINES:
                assert point.config.method == "gvbsm"
                assert "random-soft" in point.config.baselines.methods
            assert list(point.axes) == list(study.axes)


@pytest.mark.parametrize("preset", ["digits", "digits+digits-short", "digits-best"])
def test_studies_on_digits_have_10_images_per_class_unless_they_vary_it(preset):
    settings = read_preset(preset)
    assert settings["ipc"] == 1
    studies = read_studies("all", "digits")
    for study, points in zip(studies, complete_points(studies, settings, {}), strict=True):
        if study.axes != ("ipc",):
            assert {point.config.ipc for point in points} == {10}, study.name
    (fewer,) = complete_points([read_study("table1-alpha")], settings, {"ipc": 3})
    assert {point.config.ipc for point in fewer} == {3}


def test_teachers_own_settings_do_not_outlive_a_study_of_their_epochs():
    study = read_study("table11-teacher-epochs")
    (points,) = complete_points([study], read_preset("cifar10-best"), {})
    for point in points:
        squeeze = point.config.squeeze
        epochs = {squeeze_of(squeeze, name).epochs for name in squeeze.backbones}
        assert epochs == {squeeze.epochs}


@pytest.mark.parametrize("preset", ["digits-best", "cifar10-best+cheap-teachers"])
def test_single_settings_vary_where_a_recipe_beyond_the_paper_stands(preset):
    for points in complete_points(map(read_study, ON_BEST), read_preset(preset), {}):
        assert len({str(to_dict(point.config)) for point in points}) == len(points)


@pytest.mark.parametrize(("name", "data"), sorted(UNFIT))
def test_a_study_that_does_not_fit_says_why(name, data):
    with pytest.raises(ConfigError, match=f"^{name} does not fit {data}: "):
        read_studies(name, data)


def test_figure_5_climbs_from_sre2l_to_the_whole_method():
    settings = read_preset("cifar10")
    steps = {point.name: point.config for point in points_of("figure5-components", settings)}
    sre2l = build_config(read_preset("cifar10+sre2l"))
    first = steps["sre2l"]
    assert first.evaluation == sre2l.evaluation
    assert first.labels == sre2l.labels
    assert first.synthesis.weight_densification == first.synthesis.weight_conv == 0
    assert first.synthesis.backbones == ("resnet18",)
    assert (first.synthesis.loop, first.synthesis.alpha) == ("original", 0.0)
    assert steps["sre2l+mse-gt"].synthesis == first.synthesis
    dd = steps["dd+mse-gt"].synthesis
    assert (dd.loop, dd.alpha, dd.weight_densification) == ("reorder", 0.8, 1.0)
    assert (dd.backbones, dd.weight_conv) == (("resnet18",), 0.0)
    gbm = steps["dd+gbm+mse-gt"]
    assert (gbm.synthesis.backbones, gbm.labels.backbones) == (None, None)
    assert gbm.synthesis.weight_conv == 0.0
    assert steps["dd+gbm"].labels == gbm.labels
    assert steps["dd+gbm"].evaluation.loss == "kl"
    whole = steps["dd+gbm+gsm+mse-gt"].synthesis
    assert (whole.weight_conv, whole.weight_batchnorm, whole.beta_dr) == (0.01, 0.01, 0.0)
    table_10 = {point.name: point.config for point in points_of("table10-matching", settings)}
    assert table_10["both"] == steps["dd+gbm+gsm+mse-gt"]  # one run for both studies
    assert table_10["batchnorm"] == gbm


@pytest.mark.parametrize("preset", ["cifar10", "imagenet-1k", "digits+digits-short"])
def test_figure_1_has_stages_of_figure_5_and_shares_their_runs(preset):
    settings = read_preset(preset)
    stages = {point.name: point.config for point in points_of("figure1-stages", settings)}
    steps = {point.name: point.config for point in points_of("figure5-components", settings)}
    names = ("sre2l", "dd+mse-gt", "dd+gbm+mse-gt", "dd+gbm+gsm+mse-gt")
    assert list(stages.values()) == [steps[name] for name in names]
    assert {config.synthesis.init for config in stages.values()} == {"noise"}


def test_table_3_labels_with_nested_teachers_and_shares_its_images():
    for preset in ("digits", "cifar10"):
        points = points_of("table3-label-backbones", read_preset(preset))
        teachers = points[0].config.squeeze.backbones
        assert [point.config.labels.backbones for point in points] == [
            teachers[:count] for count in (1, 2, 3, 4)
        ]
        assert len({point.config.synthesis.backbones for point in points}) == 1
        assert [point.axes["label backbones"] for point in points] == [1, 2, 3, 4]


def test_the_coresets_of_table_5_have_the_protocol_of_their_sources():
    points = points_of("table5-coresets", read_preset("cifar10"))
    methods = ["random-hard", "herding-hard", "k-center-hard", "forgetting-hard"]
    assert [point.config.method for point in points] == methods
    for point in points:
        labels, students = point.config.labels, point.config.evaluation
        assert (labels.epochs, labels.views.crop, labels.views.cutmix) == (300, "none", 0)
        assert (students.loss, students.students) == ("hard", ("convnet128",))
        assert (students.optimizer.name, students.optimizer.lr) == ("sgd", 0.01)
        assert batch_size_for(100, students.batch_size, labels.full_batch_up_to) == 100


def test_table_2_has_sre2l_s_one_teacher():
    sre2l, gvbsm = points_of("table2-cross-architecture", read_preset("imagenet-1k"))
    assert sre2l.config.synthesis.backbones == ("torchvision/resnet18",)
    assert sre2l.config.labels.backbones == ("torchvision/resnet18",)
    assert gvbsm.config.synthesis.backbones is None
    assert sre2l.config.evaluation.students == gvbsm.config.evaluation.students


def test_the_matrix_of_architectures_takes_each_teacher_alone_and_all():
    points = points_of("cross-architecture", read_preset("cifar10"))
    teachers = points[0].config.squeeze.backbones[:4]
    chosen = [point.config.labels.backbones for point in points]
    assert chosen == [*((name,) for name in teachers), teachers]
    assert chosen == [point.config.synthesis.backbones for point in points]


def test_images_per_class_on_imagenet_have_the_paper_s_chance_of_dropping_a_layer():
    settings = read_preset("imagenet-1k")
    points = points_of("table4-ipc", settings=settings)
    found = [settle_beta_dr(point.config).synthesis.beta_dr for point in points]
    assert found == [0.0, 0.4, 0.4]  # appendix A, table 7
    points = points_of("figure6-beta-dr", settings=settings)
    found = [settle_beta_dr(point.config).synthesis.beta_dr for point in points]
    assert found == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    with pytest.raises(ConfigError, match=r"beta_dr_of has 0\.0 at 10 images"):
        points_of("table4-ipc", settings=settings, options={"synthesis": {"beta_dr": 0.2}})


def test_a_point_whose_chance_of_dropping_a_layer_would_be_overruled_is_refused(write):
    points = {"some": {"synthesis.beta_dr": 0.2}, "more": {"synthesis.beta_dr": 0.4}}
    settings = read_preset("imagenet-1k")
    with pytest.raises(ConfigError, match=r"some: synthesis\.beta_dr is 0\.2, but .* 0\.0 at 10"):
        points_of(write({**MINIMAL, "points": points}), settings)
    base = {"base": {"synthesis.beta_dr_of": {}}}
    found = points_of(write({**MINIMAL, "points": points, **base}, "apart"), settings)
    assert [point.config.synthesis.beta_dr for point in found] == [0.2, 0.4]


@pytest.mark.parametrize("name", sorted(PAPER))
def test_accuracies_of_the_paper_name_data_students_and_ipc_of_a_preset(name):
    for figure in read_study(name).paper:
        config = build_config(read_preset(figure.data))
        assert figure.student in (*config.evaluation.students, *PAPER_STUDENTS)
        (point,) = [p for p in points_of(name, read_preset(figure.data)) if p.name == figure.point]
        assert figure.ipc == point.config.ipc


def test_images_per_class_of_the_paper_are_the_point_s_or_those_beside_its_figures(write):
    figures = {"one": 31.4, "two": 35}
    path = write(
        {
            **MINIMAL,
            "points": {"one": {"ipc": 1}, "two": {"ipc": 50}},
            "paper": [{"data": "cifar10", "student": "resnet18", "figures": figures}],
        }
    )
    assert read_study(path).paper == (
        ("one", "cifar10", "resnet18", 1, 31.4),
        ("two", "cifar10", "resnet18", 50, 35.0),
    )
    assert {figure.ipc for figure in read_study("table1-alpha").paper} == {10}

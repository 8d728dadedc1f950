"""Settings for own pictures: the rules, the search for the greatest effort, the check of flips."""

import dataclasses
import itertools

import pytest
import torch

from gvbsm.backbones import check_takes
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import as_config, squeeze_of, validate
from gvbsm.config.fields import replaced
from gvbsm.data.datasets import ImageData
from gvbsm.data.pictures import Split, write_image
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from gvbsm.files.artifacts import ArtifactError, write_json
from gvbsm.pipeline.budget import mirror
from gvbsm.pipeline.budget.record import keep_settings
from gvbsm.pipeline.budget.request import Request, parse_duration
from gvbsm.pipeline.budget.rules import (
    BATCH,
    DataFacts,
    Span,
    recipe,
    scaled,
    sides,
    with_forgetting,
)
from gvbsm.pipeline.budget.search import MARGIN, SIDE_EFFORT, choose

OWN = as_config("own")
FACTS = DataFacts(classes=10, pictures=5000, side=64, mirror=True)


def own(facts, side, effort, ipc=1):
    return replaced(OWN, recipe(OWN.squeeze.backbones, facts, ipc, side, effort))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), (" 2 H ", 7200)],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "0m", "-5m", "5 minutes", "1d", "5m3"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="takes a duration such as"):
        parse_duration(text)


def test_a_span_grows_by_equal_factors():
    span = Span(10, 1000)
    assert [round(span.at(effort)) for effort in (0, 0.5, 1)] == [10, 100, 1000]


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64, 96, 224])
@pytest.mark.parametrize("effort", [0.0, 0.3, 1.0])
def test_every_recipe_is_valid(side, effort):
    config = own(FACTS, side, effort)
    assert validate(config) == config
    assert config.data.image_size == side
    for name in config.squeeze.backbones:
        check_takes(name, 10, side, 3)


@pytest.mark.parametrize(
    ("side", "name"),
    [
        *((8, "convnet128_d2"), (20, "convnet128_d2"), (28, "convnet128"), (40, "convnet128")),
        *((48, "convnet128_d4"), (64, "convnet128_d4"), (128, "convnet128_d5")),
    ],
)
def test_the_last_map_of_the_convnet_has_about_4_pixels_in_a_row(side, name):
    assert own(FACTS._replace(side=side), side, 1.0).evaluation.students == (name,)


def test_more_effort_never_means_less_work():
    configs = [own(FACTS, 32, effort / 10) for effort in range(11)]
    work = [
        (c.squeeze.epochs, c.synthesis.iterations, c.labels.epochs, c.labels.min_steps)
        for c in configs
    ]
    for less, more in itertools.pairwise(work):
        assert all(a <= b for a, b in zip(less, more, strict=True))
    assert all(a < b for a, b in zip(work[0], work[-1], strict=True))


def test_more_images_per_class_mean_more_training_of_the_teacher_that_labels_alone():
    configs = [own(FACTS, 32, 0.0, ipc) for ipc in (1, 2, 10, 50)]
    assert [config.squeeze.epochs for config in configs] == [2, 3, 13, 20]  # of 5,000 pictures
    assert {squeeze_of(config.squeeze, "airbench").epochs for config in configs} == {1}
    most = own(FACTS._replace(pictures=50_000), 32, 1.0, 10)
    assert (most.squeeze.epochs, squeeze_of(most.squeeze, "airbench").epochs) == (19, 2)


@pytest.mark.parametrize(
    ("pictures", "ipc", "epochs"),
    [
        (1000, 1, (8, 16)),
        (1000, 2, (8, 28)),
        (1000, 10, (8, 100)),
        (2000, 1, (6, 12)),  # 24,000 pictures
        (8000, 1, (4, 8)),
        (8000, 2, (8, 17)),
        (8000, 10, (8, 100)),
    ],
)
def test_teachers_see_pictures_less_often_than_they_have_time_for(pictures, ipc, epochs):
    config = own(FACTS._replace(pictures=pictures), 32, 1.0, ipc)
    airbench = squeeze_of(config.squeeze, "airbench")
    assert (airbench.epochs, config.squeeze.epochs) == epochs


@pytest.mark.parametrize(
    "config", [OWN, *(own(FACTS, side, effort) for side in (16, 64) for effort in (0.0, 1.0))]
)
def test_all_teachers_are_trained_as_was_measured(config):
    """SGD at 0.05 left ConvNet-128 at chance after 3 epochs at 48 pixels (docs/own_pictures.md)."""
    assert len(config.squeeze.backbones) == 2
    for name in config.squeeze.backbones:
        found = squeeze_of(config.squeeze, name).optimizer
        assert (found.name, found.lr, found.momentum) == ("muon", 0.005, 0.95)
        assert (found.weight_decay, found.schedule) == (0.01, "cosine")


@pytest.mark.parametrize(
    ("ipc", "effort", "both"),
    [
        (1, 1.0, False),
        (9, 1.0, False),
        (10, 1.0, True),  # 1,000 epochs of 4 batches
        (10, 0.7, False),  # 501 epochs
        (10, 0.8, True),  # 631 epochs
        (50, 0.5, True),  # 316 epochs of 20 batches
    ],
)
def test_both_teachers_label_many_images_for_many_steps(ipc, effort, both):
    config = own(FACTS, 32, effort, ipc)
    assert validate(config) == config
    assert config.labels.backbones == (("airbench", "convnet128") if both else ("convnet128",))
    assert config.labels.batchnorm == ("batch" if both else "running")
    assert config.evaluation.students == ("convnet128",)


def test_the_batch_of_the_rules_is_that_of_the_preset():
    assert OWN.evaluation.batch_size == OWN.labels.batch_size == BATCH


@pytest.mark.parametrize("mirrored", [True, False])
def test_flips_are_on_in_all_views_or_in_none(mirrored):
    config = own(FACTS._replace(mirror=mirrored), 32, 0.5)
    views = (config.squeeze.views, config.synthesis.views, config.labels.views)
    assert [view.flip for view in views] == [mirrored] * 3


def test_small_pictures_are_never_enlarged():
    assert sides(FACTS._replace(side=28), "cpu") == (28,)
    assert sides(FACTS._replace(side=40), "cpu") == (32, 40)
    assert sides(FACTS._replace(side=64), "cpu") == (32, 48, 64)
    assert sides(FACTS._replace(side=500), "cpu") == (32, 48, 64)
    assert sides(FACTS._replace(side=500), "cuda")[-1] == 224


def settings(side, effort):
    return replaced(Config(), {"data": {"image_size": side}, "ipc": round(1000 * effort) + 1})


def linear(seconds_at_32):
    """A prediction: proportional to the pixels, and to 0.1 and the effort."""

    def predict(config):
        effort = (config.ipc - 1) / 1000
        return seconds_at_32 * (config.data.image_size / 32) ** 2 * (0.1 + effort)

    return predict


@pytest.mark.parametrize("budget", [20, 50, 99, 130, 400, 5000])
def test_the_choice_fits_and_leaves_no_step_unused(budget):
    predict = linear(100)
    choice = choose(settings, [32, 64], budget, predict)
    assert choice.seconds == predict(choice.config) <= MARGIN * budget
    side = choice.config.data.image_size
    step = predict(settings(side, min(1.0, choice.effort + 0.01)))
    assert choice.effort == 1 or step > MARGIN * budget


def test_a_larger_side_is_taken_if_it_leaves_enough_effort():
    needed = 400 * (0.1 + SIDE_EFFORT) / MARGIN
    below = choose(settings, [32, 64], needed * 0.98, linear(100))
    above = choose(settings, [32, 64], needed * 1.02, linear(100))
    assert (below.config.data.image_size, above.config.data.image_size) == (32, 64)
    assert below.effort == 1


def test_a_budget_below_the_cheapest_run_is_refused_with_one_that_suffices():
    with pytest.raises(ConfigError, match=r"takes about 4 min .*budget of 3 min: give --budget 5m"):
        choose(settings, [32], 180, linear(2400))
    with pytest.raises(ConfigError, match=r"give --budget 5m$"):  # one image per class: no fewer
        choose(settings, [32], 180, linear(2400))
    with pytest.raises(ConfigError, match=r"give --budget 5m, or fewer --ipc$"):
        choose(lambda *key: replaced(settings(*key), {"ipc": 2}), [32], 180, lambda _: 240)
    assert choose(settings, [32], 300, linear(2400)).config.data.image_size == 32


def test_a_preset_is_scaled_but_for_what_is_given():
    config = as_config("cifar10")
    least = scaled(config, 0.0, {"squeeze.epochs"})
    assert scaled(config, 1.0, ()) == config
    assert least.squeeze == config.squeeze
    assert least.evaluation == config.evaluation
    assert least.synthesis.iterations == config.synthesis.iterations // 50
    assert least.labels.epochs == config.labels.epochs // 50
    assert least.labels.min_steps == config.labels.min_steps == 0


def test_the_epochs_of_single_teachers_are_scaled_too():
    config = as_config("cifar10-best")
    table = config.squeeze.settings_of
    few = scaled(config, 0.0, ()).squeeze.settings_of
    assert {name: own["epochs"] for name, own in few.items()} == dict.fromkeys(table, 1)
    assert all({**few[name], "epochs": own["epochs"]} == own for name, own in table.items())
    assert scaled(config, 1.0, ()).squeeze == config.squeeze
    assert scaled(config, 0.0, {"squeeze.settings_of"}).squeeze.settings_of == table


def test_teachers_that_are_given_label_as_the_settings_say():
    """The rules know neither how well they label by the batch nor which of them labels best."""
    given = {"squeeze.backbones": ("resnet18", "convnet128")}
    chosen = recipe(OWN.squeeze.backbones, FACTS, 10, 32, 1.0, given=given)
    assert chosen["labels"]["batchnorm"] == "running"
    assert "backbones" not in chosen["labels"]


def test_epochs_of_teachers_that_are_given_are_those_of_both():
    given = recipe(OWN.squeeze.backbones, FACTS, 1, 32, 1.0, given={"squeeze.epochs": 3})
    assert given["squeeze"]["settings_of"] == {}
    assert recipe(OWN.squeeze.backbones, FACTS, 1, 32, 1.0)["squeeze"]["settings_of"]


def test_the_least_steps_of_a_preset_are_scaled_with_its_epochs():
    config = as_config("digits")
    assert scaled(config, 0.0, ()).labels.min_steps == config.labels.min_steps // 50
    assert scaled(config, 0.0, {"labels.min_steps"}).labels.min_steps == config.labels.min_steps


def test_epochs_of_labels_that_are_given_are_not_raised_by_least_steps():
    def labels(given, ipc=10):
        chosen = recipe(OWN.squeeze.backbones, FACTS, ipc, 32, 1.0, given=given)
        return replaced(OWN, chosen).labels

    assert labels({}).batchnorm == "batch"  # for 4,000 steps
    few = labels({"labels.epochs": 300})
    assert (few.epochs, few.min_steps, few.batchnorm) == (300, 0, "running")  # for 1,200
    assert labels({"evaluation.batch_size": 100}).batchnorm == "batch"  # for the 2,500 at least
    assert labels({"labels.epochs": 300, "labels.min_steps": 2500}).batchnorm == "batch"


@pytest.mark.parametrize("section", ["baselines", "continual"])
def test_forgetting_gets_two_epochs_where_teachers_have_one(section):
    few = replaced(own(FACTS, 32, 0.0), {section: {"methods": ("forgetting-soft",)}})
    assert squeeze_of(few.squeeze, few.squeeze.backbones[0]).epochs == 1
    assert with_forgetting(few).coreset.epochs == 2
    other = replaced(few, {section: {"methods": ("random-soft",)}})
    assert with_forgetting(other) == other


def test_mirror_images_do_harm_only_beyond_chance_and_noise():
    def judge(kept, lost, won, wrong, chance=0.1):
        plain = torch.tensor([True] * (kept + lost) + [False] * (won + wrong))
        mirrored = torch.tensor([True] * kept + [False] * lost + [True] * won + [False] * wrong)
        return mirror.judge(plain, mirrored, chance)

    assert judge(kept=50, lost=50, won=0, wrong=0)[:3] == (100, 50, 100)
    assert not judge(kept=50, lost=50, won=0, wrong=0).harmless
    assert judge(kept=95, lost=5, won=0, wrong=0).harmless  # keeps 94 % of what is above chance
    assert judge(kept=6, lost=6, won=3, wrong=85).harmless  # falls, but by less than the noise
    assert judge(kept=10, lost=0, won=0, wrong=90).harmless  # at chance
    assert judge(kept=50, lost=12, won=2, wrong=36).harmless
    assert not judge(kept=50, lost=12, won=2, wrong=36, chance=0.45).harmless  # 17 points to 7


def test_chance_is_the_share_of_the_largest_class(monkeypatch):
    data, chances = halves(turned=False), []
    split = Split((torch.arange(240) % 8 == 0).long(), data.train.images)  # 7 of 8 are of class 0
    monkeypatch.setattr(mirror, "_trained", lambda *_: lambda pixels: torch.zeros(len(pixels), 2))
    monkeypatch.setattr(mirror, "judge", lambda _plain, _mirrored, chance: chances.append(chance))
    runtime = Runtime(torch.device("cpu"), "fp32", seed=0, quiet=True)
    mirror.check_mirror(dataclasses.replace(data, train=split), runtime)
    assert chances[0] == pytest.approx(7 / 8, abs=0.1)


def halves(turned):
    """Pictures of two classes: bright on top or at the bottom; turned, left or right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 2
    images = torch.rand(240, 1, 32, 32, generator=generator) * 100
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, :16] += 100 * label
        image[:, 16:] += 100 * (1 - label)
    images = images.transpose(2, 3) if turned else images
    split = Split(labels, images.to(torch.uint8).contiguous())
    return ImageData("halves", ("a", "b"), 1, 32, split, split, Normalization((0.5,), (0.5,)), "")


@pytest.mark.parametrize("turned", [False, True])
def test_a_quick_network_tells_whether_flips_do_harm(turned, monkeypatch):
    monkeypatch.setattr(mirror, "PASSES", 500)
    runtime = Runtime(torch.device("cpu"), "fp32", seed=0, quiet=True)
    before = torch.get_rng_state()
    check = mirror.check_mirror(halves(turned), runtime)
    assert check.pictures == 60
    assert check.plain > 90
    assert check.harmless is not turned
    assert torch.equal(torch.get_rng_state(), before)


def test_of_large_pictures_few_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PASSES", 30)
    monkeypatch.setattr(mirror, "LEAST_SAMPLE", 8)
    monkeypatch.setattr(mirror, "READ_SECONDS", 0.0)
    data = halves(turned=False)
    paths = tuple(tmp_path / f"{index}.png" for index in range(40))
    for path, image in zip(paths, data.train.images, strict=False):
        write_image(path, image)
    split = Split(data.train.labels[:40], paths=paths)
    data = dataclasses.replace(data, train=split, test=split)
    runtime = Runtime(torch.device("cpu"), "fp32", seed=0, quiet=True)
    assert mirror.check_mirror(data, runtime).pictures == 2  # a quarter of 8


def test_settings_of_another_side_leave_those_of_a_run_alone(tmp_path):
    workdir, request = tmp_path / "w", Request("own", {})
    first, second = (replaced(OWN, {"data": {"image_size": side}}) for side in (32, 48))
    keep_settings(first, OWN, request, {}, workdir)
    write_json(workdir / "data.json", {"image_size": 32})  # as the run does that begins
    before = (workdir / "budget.json").read_bytes()
    with pytest.raises(ArtifactError, match=r"belongs to other data \(image_size: 32 -> 48\)"):
        keep_settings(second, OWN, request, {}, workdir)
    assert (workdir / "budget.json").read_bytes() == before

"""Plans of epochs: functions of seed and epoch, stored without loss, seen as the loops see them."""

import itertools
from dataclasses import astuple, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.config import (
    Config,
    ConfigError,
    LabelsConfig,
    SqueezeConfig,
    SynthesisConfig,
    ViewConfig,
)
from gvbsm.config.build import build_config, for_method
from gvbsm.data.epochs import (
    EpochPlan,
    batch_size_for,
    draw_plan,
    join_plans,
    settle,
    settle_epochs,
    view_batch,
)
from gvbsm.data.loading import batch_count, border_color
from gvbsm.data.mixing import Mixes
from gvbsm.data.views import Views, check_cells
from gvbsm.method.beyond.label_pool import pooled_epochs, redraw
from gvbsm.method.ensemble import label_batch
from gvbsm.store.label_codec import pack_rows, packed_bytes, unpack_rows
from gvbsm.store.plan_codec import from_table, pack_plan, plan_fields, tabulate
from support import reference
from support.toy import CONVNET, WRN

VIEWS = ViewConfig(crop="resized", scale=(0.2, 1.0), roll=3, cutmix=1.0)
PADDED = ViewConfig(crop="pad", padding=2, cutmix=1.0)


BOTH = replace(VIEWS, shuffle=2, mixup=1.0)
MIXUP = replace(VIEWS, cutmix=0.0, mixup=0.5, shuffle=4, tiles=2, per_sample=False)


def flat(plan):
    more = [part for part in (plan.cells, plan.shares) if part is not None]
    return [plan.order, *plan.views, *plan.mixes, *more]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(flat(ours), flat(theirs), strict=True))


@pytest.mark.parametrize(
    ("count", "limit", "expected"), [(100, 100, 100), (101, 100, 64), (10, 100, 10), (10, 0, 10)]
)
def test_batch_size__no_more_than_there_are(count, limit, expected):
    assert batch_size_for(count, 64, limit) == expected


@pytest.mark.parametrize(
    ("count", "epochs", "min_steps", "expected"),
    [
        (10, 200, 800, 800),  # one batch
        (100, 200, 800, 200),  # four batches of 25
        (100, 200, 801, 201),
        (26, 200, 800, 800),  # the single image at the end makes no batch
        (27, 200, 800, 400),
        (10, 200, 0, 200),
        (10, 900, 800, 900),
    ],
)
def test_settle_epochs__known_answers(count, epochs, min_steps, expected):
    labels = LabelsConfig(epochs=epochs, min_steps=min_steps, full_batch_up_to=25)
    settled = settle_epochs(labels, count, 25)
    assert settled == replace(labels, epochs=expected)
    assert settle_epochs(settled, count, 25) == settled


@settings(derandomize=True)
@given(
    st.integers(1, 300),
    st.integers(1, 70),
    st.integers(0, 120),
    st.integers(1, 50),
    st.integers(0, 2000),
)
def test_settle_epochs__as_many_as_are_needed_and_no_more(count, size, limit, epochs, min_steps):
    labels = LabelsConfig(epochs=epochs, min_steps=min_steps, full_batch_up_to=limit)
    settled = settle_epochs(labels, count, size)
    steps = batch_count(count, batch_size_for(count, size, limit))
    assert settled.epochs * steps >= min_steps
    assert settled.epochs >= epochs
    assert settled.epochs == epochs or (settled.epochs - 1) * steps < min_steps
    assert replace(settled, epochs=epochs) == labels


NAMES = tuple("abcde")


@pytest.mark.parametrize(
    ("overrides", "epochs"),
    [
        ({"labels": {"min_steps": 50}}, 50),
        ({"labels": {"min_steps": 2}}, 3),
        ({"labels": {"min_steps": 50, "epochs": 70}}, 70),
        ({"labels": {"full_batch_up_to": 0}, "evaluation": {"batch_size": 5}}, 4),
        ({"labels": {"epochs": 5}}, 5),  # as it is given
        ({"evaluation": {"loss": "hard"}}, 7),  # the run's own
    ],
)
def test_settle__a_baseline_gets_the_epochs_that_its_own_steps_need(overrides, epochs):
    settings = {"random-soft": overrides}
    given = {"ipc": 2, "labels": {"epochs": 3, "min_steps": 7}}
    config = build_config({**given, "baselines": {"overrides": settings}})
    settled = settle(config, NAMES)  # 10 images: one batch in an epoch, or two of 5
    assert settled.labels.epochs == for_method(settled, "herding-soft").labels.epochs == 7
    assert for_method(settled, "random-soft").labels.epochs == epochs
    assert settle(settled, NAMES) == settled
    assert settings == {"random-soft": overrides}


def test_settle__brings_all_that_depends_on_the_set_to_one_value():
    synthesis = SynthesisConfig(beta_dr=0.4, beta_dr_of={2: 0.1})
    labels = LabelsConfig(epochs=3, min_steps=7, weights={"b": 2.0})
    squeeze = SqueezeConfig(backbones=("a", "b"))
    config = Config(ipc=2, squeeze=squeeze, synthesis=synthesis, labels=labels)
    settled = settle(config, NAMES)  # 10 images: one batch in an epoch
    assert settled.labels == replace(labels, epochs=7, backbones=("a", "b"))
    assert settled.synthesis == replace(synthesis, beta_dr=0.1)
    assert replace(settled, labels=labels, synthesis=synthesis) == config
    assert settle(settled, NAMES) == settled
    uneven = settle(replace(config, ipc_of={"b": 120, "c": 2}), NAMES)  # 128 images: two batches
    assert (uneven.ipc_of, uneven.labels.epochs) == ({"b": 120}, 4)


def test_plan__belongs_to_seed_and_epoch(runtime):
    first = draw_plan(12, 8, VIEWS, 3, runtime)
    torch.manual_seed(4)
    assert same(draw_plan(12, 8, VIEWS, 3, runtime), first)
    for other in (
        draw_plan(12, 8, VIEWS, 4, runtime),
        draw_plan(12, 8, VIEWS, 3, replace(runtime, seed=8)),
    ):
        for ours, theirs in zip(flat(other), flat(first), strict=True):
            assert not torch.equal(ours, theirs)


def test_plan__orders_and_partners_are_permutations(runtime):
    plan = draw_plan(12, 8, VIEWS, 0, runtime)
    assert sorted(plan.order.tolist()) == sorted(plan.mixes.partners.tolist()) == list(range(12))
    assert plan.order.tolist() != list(range(12))
    assert len(plan.views.boxes) == len(plan.mixes.boxes) == 12


@pytest.mark.parametrize(
    "views", [VIEWS, PADDED, BOTH, MIXUP, ViewConfig(crop="none", per_sample=False)]
)
def test_plan__pack_and_unpack(views, runtime):
    plan = draw_plan(12, 8, views, 0, runtime)
    packed = pack_plan(plan)
    wide = {name: part if name == "flips" else part.long() for name, part in packed.items()}
    columns = [wide["order"], *(wide[name] for name in ("boxes", "flips", "rolls"))]
    columns += [wide["partners"], wide["mix_boxes"]]
    columns += [wide[name] for name in ("cells", "shares") if name in wide]
    assert all(map(torch.equal, columns, flat(plan)))
    assert len(columns) == len(flat(plan))
    narrow = {torch.int32, torch.int16, torch.bool}
    assert {part.dtype for part in packed.values()} == narrow
    if views is PADDED:
        assert plan.views.boxes.min() < 0  # corners outside of the picture


def viewed_by_reference(picture, box, flip, roll):
    view = reference.resized_crop(reference.roll(picture, *roll.tolist()), *box.tolist())
    return reference.mirror(view) if flip else view


def test_view_batch__equals_the_loops(data, runtime):
    """Normalize, view, view the partner too, and paste from its view."""
    images, plan = data.train.images[:12], draw_plan(12, 8, VIEWS, 1, runtime)
    index = torch.tensor([7, 2, 11, 3, 0])
    found = view_batch(images, plan, index, data.normalization, runtime)
    mean, std = (torch.tensor(part, dtype=torch.float64) for part in astuple(data.normalization))
    pictures = (images.double() / 255 - mean[:, None, None]) / std[:, None, None]
    seen = [viewed_by_reference(x, *view) for x, *view in zip(pictures, *plan.views, strict=True)]
    mixed = 0
    for ours, which in zip(found, index.tolist(), strict=True):
        partner, box = int(plan.mixes.partners[which]), plan.mixes.boxes[which]
        expected = reference.paste(seen[which], seen[partner], *box.tolist())
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)
        mixed += not torch.equal(expected, seen[which])
    assert mixed >= 3


def test_view_batch__a_black_border_is_around_image_and_partner(data, runtime):
    """Padded in uint8, and then normalized."""
    images, plan = data.train.images[:12], draw_plan(12, 8, PADDED, 1, runtime)
    normal = data.normalization
    border = border_color(replace(PADDED, border="black"), normal, runtime.device)
    found = view_batch(images, plan, torch.arange(12), normal, runtime, border)
    assert border_color(PADDED, normal, runtime.device) is None

    def seen(which):
        top, left = plan.views.boxes[which, :2].tolist()
        cut = F.pad(images[which], [2] * 4)[:, 2 + top : 10 + top, 2 + left : 10 + left]
        return cut.flip(2) if plan.views.flips[which] else cut

    for which, ours in enumerate(found):
        partner, box = int(plan.mixes.partners[which]), plan.mixes.boxes[which].tolist()
        expected = normal.normalize(reference.paste(seen(which), seen(partner), *box))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("views", [BOTH, MIXUP, replace(BOTH, shuffle=1)])
def test_view_batch__shuffled_and_mixed_up_equals_the_loops(views, data, runtime):
    """The cells of a view change places, then it is pasted into, or blended with its partner's."""
    images, plan = data.train.images[:12], draw_plan(12, 8, views, 1, runtime)
    index, n = torch.tensor([7, 2, 11, 3, 0, 5]), views.shuffle
    found = view_batch(images, plan, index, data.normalization, runtime)
    mean, std = (torch.tensor(part, dtype=torch.float64) for part in astuple(data.normalization))
    pictures = (images.double() / 255 - mean[:, None, None]) / std[:, None, None]
    seen = [viewed_by_reference(x, *view) for x, *view in zip(pictures, *plan.views, strict=True)]
    if n > 1:
        seen = [reference.shuffled(x, cells) for x, cells in zip(seen, plan.cells, strict=True)]
    kept = plan.kept(index, 8, 8).tolist()
    ways = set()
    for ours, which, own in zip(found, index.tolist(), kept, strict=True):
        partner, box = int(plan.mixes.partners[which]), plan.mixes.boxes[which].tolist()
        share = max(0, int(plan.shares[which])) / 255
        expected = reference.paste(seen[which], seen[partner], *box)
        expected = (1 - share) * expected + share * seen[partner]
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)
        assert own == pytest.approx((1 - share) * (1 - box[2] * box[3] / 64), abs=1e-6)
        assert not (share and any(box))  # one of the two
        ways |= {"up"} if share else {"cut"} if any(box) else set()
    assert ways == ({"up", "cut"} if views.cutmix else {"up"})


def test_plan__what_came_later_leaves_the_other_draws_alone(runtime):
    for views in (VIEWS, PADDED):
        plain = draw_plan(12, 8, views, 3, runtime)
        more = draw_plan(12, 8, replace(views, shuffle=2, mixup=1.0), 3, runtime)
        assert (plain.cells, plain.shares) == (None, None)
        assert torch.equal(more.order, plain.order)
        assert torch.equal(more.mixes.partners, plain.mixes.partners)
        cut = more.shares < 0
        assert torch.equal(more.mixes.boxes[cut], plain.mixes.boxes[cut])
        assert 0 < int(cut.sum()) < 12


@pytest.mark.parametrize("key", ["shuffle", "tiles"])
def test_cells__must_divide_the_side(key):
    check_cells(ViewConfig(**{key: 4}), 32)
    check_cells(ViewConfig(**{key: 1}), 7)
    with pytest.raises(ConfigError, match=rf"{key} must divide .* 32 pixels, got 3"):
        check_cells(ViewConfig(**{key: 3}), 32)


def test_view_batch__known_answer(data, runtime):
    """Picture 0 as it is, with the left half of picture 1's mirror image pasted in."""
    whole = torch.tensor([[0, 0, 8, 8]]).expand(2, 4)
    views = Views(whole, torch.tensor([False, True]), torch.zeros(2, 2, dtype=torch.long))
    boxes = torch.tensor([[0, 0, 8, 4], [0, 0, 0, 0]])
    plan = EpochPlan(torch.tensor([0, 1]), views, Mixes(torch.tensor([1, 0]), boxes))
    images = data.train.images[:2]
    found = view_batch(images, plan, torch.tensor([0, 1]), data.normalization, runtime)
    pictures = data.normalization.normalize(images)
    expected = torch.cat([pictures[1].flip(2)[:, :, :4], pictures[0][:, :, 4:]], dim=2)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], pictures[1].flip(2))


def test_view_batch__an_image_is_seen_alike_in_any_batch(data, runtime):
    images, plan = data.train.images[:12], draw_plan(12, 8, VIEWS, 2, runtime)
    together = view_batch(images, plan, torch.arange(12), data.normalization, runtime)
    for size in (1, 5):
        parts = [
            view_batch(images, plan, index, data.normalization, runtime)
            for index in plan.order.split(size)
        ]
        torch.testing.assert_close(torch.cat(parts), together[plan.order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("views", [VIEWS, BOTH])
def test_join_plans__views_of_several_epochs_at_once_are_those_of_each(views, data, runtime):
    images, normal = data.train.images[:12], data.normalization
    plans = [draw_plan(12, 8, views, epoch, runtime) for epoch in range(3)]
    joined = join_plans(plans)
    found = view_batch(images, joined, joined.order, normal, runtime)
    expected = [view_batch(images, plan, plan.order, normal, runtime) for plan in plans]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-6)
    assert torch.equal(joined.order % 12, torch.cat([plan.order for plan in plans]))
    assert torch.equal(
        joined.kept(joined.order, 8, 8), torch.cat([plan.kept(plan.order, 8, 8) for plan in plans])
    )


@pytest.mark.parametrize("normalized", [True, False])
def test_label_batch__is_eq_8(normalized, teachers, data, runtime):
    models = [teachers[CONVNET], teachers[WRN]]
    pictures = data.normalization.normalize(data.test.images)
    config = LabelsConfig(logit_normalization=normalized)
    found = label_batch(pictures, models, config, runtime)
    logits = [model(pictures) for model in models]
    expected = reference.ensemble_logits(logits, normalized)
    other = reference.ensemble_logits(logits, not normalized)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, rtol=2**-10, atol=1e-3)
    assert (found.double() - other).abs().max() > 0.05  # the setting matters here
    assert not found.requires_grad


# What a store holds of plans, and a pool of epochs


@pytest.mark.parametrize(
    "views",
    [
        VIEWS,
        PADDED,
        BOTH,
        MIXUP,
        ViewConfig(crop="none", flip=False),
        ViewConfig(crop="resized", scale=(0.08, 1.0), ratio=(0.2, 5.0), per_sample=False),
        ViewConfig(crop="pad", padding=12, roll=40, cutmix=0.1),  # further than a picture is wide
    ],
)
@pytest.mark.parametrize("count", [1, 2, 37])
def test_plans_come_back_from_packed_rows(views, count, runtime):
    fields = plan_fields(count, 8, views)
    for epoch in range(20):
        plan = draw_plan(count, 8, views, epoch, runtime)
        table = tabulate(plan)
        assert torch.equal(table[:, 0], plan.order)
        again = from_table(unpack_rows(pack_rows(table, fields), fields), fields)
        assert same(again, plan)
        assert [part.dtype for part in flat(again)] == [part.dtype for part in flat(plan)]


@pytest.mark.parametrize(
    ("count", "size", "views", "expected"),
    [
        (100, 8, ViewConfig(crop="pad", padding=1, flip=False, cutmix=1.0), 4),
        (500, 32, ViewConfig(cutmix=1.0), 8),
        (10_000, 224, ViewConfig(cutmix=1.0), 12),
        (100, 8, ViewConfig(crop="none", flip=False), 2),
        (100, 8, ViewConfig(crop="none", flip=False, shuffle=2, mixup=1.0), 4),  # 8 and 9 bits
    ],
)
def test_bytes_of_a_view(count, size, views, expected):
    assert packed_bytes(plan_fields(count, size, views)) == expected


@pytest.mark.parametrize(
    ("epochs", "pruning", "expected"),
    [(200, 40, 5), (300, 40, 8), (5, 2.5, 2), (10, 100, 1), (10, 1.0, 10), (3, 1.01, 3)],
)
def test_pooled_epochs__how_many(epochs, pruning, expected, runtime):
    pool = pooled_epochs(epochs, pruning, runtime)
    assert len(set(pool)) == len(pool) == expected
    assert list(pool) == sorted(pool)
    assert 0 <= min(pool) <= max(pool) < epochs


def test_pooled_epochs__a_smaller_pool_is_part_of_a_larger_one(runtime):
    pools = [set(pooled_epochs(200, pruning, runtime)) for pruning in (40, 20, 10, 2)]
    assert all(small < large for small, large in itertools.pairwise(pools))
    assert pooled_epochs(200, 40, runtime) != pooled_epochs(200, 40, replace(runtime, seed=8))


def test_redraw__all_of_a_pool_in_turn_and_new_orders(runtime):
    pool = (3, 17, 40)
    drawn = [redraw(epoch, pool, 6, runtime) for epoch in range(30)]
    turns = [tuple(epoch for epoch, _ in drawn[start : start + 3]) for start in range(0, 30, 3)]
    assert all(sorted(turn) == list(pool) for turn in turns)
    assert len(set(turns)) > 2
    orders = [tuple(order.tolist()) for _, order in drawn]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len(set(orders)) > 25
    assert redraw(7, pool, 6, runtime)[1].tolist() == list(orders[7])


def test_labels_are_divided_by_their_temperature(teachers, data, runtime):
    pictures = data.normalization.normalize(data.train.images[:6])
    plain = label_batch(pictures, list(teachers.values()), LabelsConfig(), runtime)
    for temperature in (0.5, 4.0):  # powers of two: exact in half precision
        config = LabelsConfig(temperature=temperature)
        found = label_batch(pictures, list(teachers.values()), config, runtime)
        assert torch.equal(found, plain / temperature)

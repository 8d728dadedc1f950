"""Label stores: any batch of any epoch, from shards that are whole, sound and of one recipe."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gvbsm.stages.labels
import gvbsm.store.soft_labels
from gvbsm.config import LabelsConfig, LabelStorageConfig, ViewConfig
from gvbsm.data.epochs import draw_plan, join_plans
from gvbsm.files.artifacts import ArtifactError, read_json, write_json
from gvbsm.files.tensors import load_tensors, save
from gvbsm.stages.labels import new_store
from gvbsm.store.distilled import is_whole, load_labels
from gvbsm.store.label_codec import decode_logits, encode_logits, pack_rows, unpack_rows
from gvbsm.store.plan_codec import pack_plan

COUNT, CLASSES, SIZE = 11, 6, 8
RECIPE = {"stage": "labels", "seed": 7}
VIEWS = ViewConfig(crop="resized", scale=(0.3, 1.0), roll=2, cutmix=1.0)
CONFIG = LabelsConfig(epochs=5, batch_size=4, full_batch_up_to=0, views=VIEWS)  # 4 + 4 + 3
STORAGES = [
    LabelStorageConfig(),
    LabelStorageConfig(bits=8),
    LabelStorageConfig(top_k=2),
    LabelStorageConfig(pruning=2.5, top_k=2, bits=8),
]


def truth(epoch):
    """Logits of all images, float16 (images, classes)."""
    generator = torch.Generator().manual_seed(epoch)
    return (3 * torch.randn(COUNT, CLASSES, generator=generator)).half()


@pytest.fixture
def planned(runtime, tmp_path):
    """Call it for a store that is not written; `size` bounds a shard in bytes."""

    def plan(storage=STORAGES[0], size=10**6, config=CONFIG, folder="labels", recipe=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gvbsm.stages.labels, "SHARD_BYTES", size)
            return new_store(
                tmp_path / folder,
                replace(config, storage=storage),
                COUNT,
                CLASSES,
                SIZE,
                runtime,
                recipe or RECIPE,
            )

    return plan


@pytest.fixture
def written(planned, runtime):
    """Call it for a store that is written, its logits being `truth`."""

    def write(*arguments, shards=None, **options):
        store = planned(*arguments, **options)

        def labeled(epoch):
            plan, logits = draw_plan(COUNT, SIZE, VIEWS, epoch, runtime), truth(epoch)
            order = plan.order[shard.start : shard.stop]
            return [plan], [store.encode(logits[index]) for index in order.split(store.batch)]

        store.write_index()
        for shard in store.shards[:shards]:
            store.write(shard, map(labeled, shard.epochs))
        return load_labels(store.directory)

    return write


def same(ours, theirs):
    parts = zip(
        [ours.order, *ours.views, *ours.mixes],
        [theirs.order, *theirs.views, *theirs.mixes],
        strict=True,
    )
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in parts)


# Shards


@pytest.mark.parametrize(
    ("size", "shards", "epochs", "images"),
    [
        (10**6, 1, 5, 11),  # all in one
        (2 * 11 * 17, 3, 2, 11),  # 12 bytes of logits and 5 of views
        (2 * 11 * 17 - 1, 5, 1, 11),
        (11 * 17 - 1, 10, 1, 8),  # an epoch is cut between batches: 8 + 3
        (8 * 17 - 1, 15, 1, 4),
        (1, 15, 1, 4),  # a batch is never cut
    ],
)
def test_shards_are_bounded_in_bytes(size, shards, epochs, images, written):
    store = written(size=size)
    assert (len(store.shards), store.shard_epochs, store.shard_images) == (shards, epochs, images)
    for shard in store.shards:
        tensors, _ = load_tensors(shard.path, "labels")
        held = sum(part.nbytes for part in tensors.values())
        assert held <= size or (shard.stop - shard.start <= 4 and len(shard.epochs) == 1)
    places = [
        (epoch, place)
        for shard in store.shards
        for epoch in shard.epochs
        for place in range(shard.start, shard.stop)
    ]
    assert sorted(places) == [(epoch, place) for epoch in range(5) for place in range(COUNT)]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("size", [10**6, 300, 100, 1])
def test_any_batch_of_any_epoch(storage, size, written, runtime):
    store = written(storage, size)
    assert len(store.kept) == (2 if storage.pruning > 1 else 5)
    for epoch in reversed(store.kept):
        plan, labels = store.epoch(epoch)
        assert same(plan, draw_plan(COUNT, SIZE, VIEWS, epoch, runtime))
        expected = decode_logits(encode_logits(truth(epoch), storage.top_k, storage.bits), CLASSES)
        for index in (plan.order[:4], torch.tensor([10]), torch.tensor([3, 0, 3, 9, 7])):
            assert torch.equal(labels.logits(index), expected[index])
        whole = store.read(epoch)
        assert torch.equal(whole.pop("logits").float(), expected)
        packed = pack_plan(plan)
        assert whole.keys() == packed.keys()
        assert all(torch.equal(whole[name], packed[name]) for name in packed)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("size", [10**6, 300, 100, 1])
def test_several_epochs_are_read_as_one(storage, size, written, runtime):
    """Also from several shards, and an epoch that comes twice, as a pool's may."""
    store = written(storage, size)
    epochs = [store.kept[-1], *store.kept, store.kept[0]]
    plan, labels = store.joined(epochs)
    assert same(plan, join_plans([draw_plan(COUNT, SIZE, VIEWS, each, runtime) for each in epochs]))
    expected = torch.cat([store.epoch(epoch)[1].logits(torch.arange(COUNT)) for epoch in epochs])
    for index in (plan.order, torch.tensor([COUNT * len(epochs) - 1, 0, COUNT, 3, COUNT - 1])):
        assert torch.equal(labels.logits(index), expected[index])


@settings(
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    reads=st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 10), min_size=1))),
)
def test_random_access_in_any_order(reads, written, tmp_path):
    there = (tmp_path / "labels").exists()
    store = load_labels(tmp_path / "labels") if there else written(size=100)
    for epoch, index in reads:
        found = store.epoch(epoch)[1].logits(torch.tensor(index))
        assert torch.equal(found, truth(epoch)[index].float())


def test_few_shards_stay_open(written, monkeypatch):
    monkeypatch.setattr(gvbsm.store.soft_labels, "OPEN_SHARDS", 2)
    store = written(size=1)
    for epoch in (0, 3, 0, 4, 1):
        assert torch.equal(store.read(epoch)["logits"], truth(epoch))
        assert len(store._open) <= 2


def test_an_epoch_that_is_not_kept_is_refused(written):
    store = written(STORAGES[3])
    lost = next(epoch for epoch in range(5) if epoch not in store.kept)
    with pytest.raises(ValueError, match=rf"epoch {lost} is not stored; there are \["):
        store.epoch(lost)


def test_a_shard_follows_from_recipe_and_number_alone(written, planned, runtime):
    first = written(size=100)
    again = planned(size=100, folder="again")
    for shard in reversed(again.shards):  # each by itself, in any order
        plans = [draw_plan(COUNT, SIZE, VIEWS, epoch, runtime) for epoch in shard.epochs]
        orders = [plan.order[shard.start : shard.stop] for plan in plans]
        logits = [truth(epoch)[order] for epoch, order in zip(shard.epochs, orders, strict=True)]
        again.write(shard, [(plans, map(again.encode, logits))])  # all epochs at once
    for ours, theirs in zip(again.shards, first.shards, strict=True):
        assert ours.path.read_bytes() == theirs.path.read_bytes()


# While it is written, and when it is damaged


def test_a_store_is_read_while_it_is_written(written):
    store = written(size=2 * 11 * 17, shards=2)
    assert (store.epochs, len(store.shards)) == (5, 3)
    assert not is_whole(store.directory, RECIPE)
    assert [shard.epochs for shard in store.missing()] == [(4,)]
    assert torch.equal(store.read(3)["logits"], truth(3))
    with pytest.raises(ArtifactError) as caught:
        store.read(4)
    assert "1 of 3 shards are missing" in str(caught.value)
    assert "gvbsm labels" in str(caught.value)
    assert "\n" not in str(caught.value)
    files = read_json(store.directory / "index.json")["files"]
    assert files == [shard.path.name for shard in store.shards]
    whole = written(size=2 * 11 * 17)
    assert is_whole(whole.directory, RECIPE)
    assert not is_whole(whole.directory, {**RECIPE, "seed": 8})
    assert not is_whole(whole.directory / "elsewhere", RECIPE)
    assert torch.equal(store.read(4)["logits"], truth(4))  # by the reader that had asked too early


@pytest.mark.parametrize("name", ["logits", "views"])
def test_a_changed_byte_is_found_when_a_shard_is_first_opened(name, written):
    store = written()
    path = store.shards[0].path
    tensors, _ = load_tensors(path, "labels")
    content = bytearray(path.read_bytes())
    place = content.find(bytes(tensors[name].reshape(-1).view(torch.uint8).numpy().data))
    content[place + 7] ^= 4
    path.unlink()
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"shard-00000.* is damaged \(its tensors do not match"):
        store.epoch(0)
    with pytest.raises(ArtifactError, match="is damaged"):
        store.read(1)


def test_a_shard_of_other_labels_is_refused(written):
    store = written()
    path = store.shards[0].path
    tensors, header = load_tensors(path, "labels")
    save(path, tensors, {**header, "recipe": {"stage": "other"}})
    with pytest.raises(ArtifactError, match="it belongs to other labels"):
        store.epoch(0)
    assert not store.is_made(store.shards[0])
    short = {name: part[:-1] for name, part in tensors.items()}
    save(path, short, header)
    with pytest.raises(ArtifactError, match=r"is not torch\.\w+ of \[55"):
        load_labels(store.directory).epoch(0)


@pytest.mark.parametrize(
    ("column", "value"), [("image", 0), ("image", 15), ("partner", 11), ("partner", 15)]
)
def test_views_of_no_image_of_the_set_are_refused(column, value, written):
    """Shards with checksums of their own, of 11 images that 4 bits number."""
    store = written(STORAGES[1])
    path = store.shards[0].path
    tensors, header = load_tensors(path, "labels")
    table = unpack_rows(tensors["views"], store.fields)
    names = [field.name for field in store.fields]
    row = 1 if int(table[0, names.index(column)]) == value else 0
    table[row, names.index(column)] = value
    save(path, {**tensors, "views": pack_rows(table, store.fields)}, header)
    with pytest.raises(ArtifactError, match="epoch 0 should have each of 11 images once") as caught:
        load_labels(store.directory).joined([1, 0, 2])
    assert str(caught.value).isprintable()
    load_labels(store.directory).epoch(1)


def test_an_index_without_the_fields_of_its_rows_is_refused(written):
    path = written().directory / "index.json"
    write_json(path, {**read_json(path), "fields": []})
    with pytest.raises(ArtifactError, match="fields should begin with image"):
        load_labels(path.parent)


def test_logits_of_no_class_of_the_set_are_refused(written):
    store = written(STORAGES[2])
    path = store.shards[0].path
    tensors, header = load_tensors(path, "labels")
    tensors["classes"][0, 0] = CLASSES
    save(path, tensors, header)
    with pytest.raises(ArtifactError, match=r"a class index is not in \[0, 6\)"):
        load_labels(store.directory).epoch(0)


def test_tidy__removes_shards_of_other_labels_and_no_file_of_anybody_else(written, planned):
    store = written(size=2 * 11 * 17)
    kept = {path.name for path in store.directory.iterdir()}
    other = planned(STORAGES[1])
    assert not {shard.path for shard in other.shards} & {shard.path for shard in store.shards}
    for stale in (store.directory / "shard-00009.safetensors", other.shards[0].path):
        save(stale, {}, {"kind": "labels", "recipe": {}})
    (store.directory / "shard-of-glass.txt").write_text("mine")
    (store.directory / "shard-00010.safetensors").mkdir()
    store.tidy()
    others = {"shard-of-glass.txt", "shard-00010.safetensors"}
    assert {path.name for path in store.directory.iterdir()} == kept | others


def test_what_a_store_says_of_itself(written):
    assert written().describe() == "5 epochs"
    pruned = written(STORAGES[3])
    assert pruned.describe() == "2 of 5 epochs, the 2 largest logits, 8 bits"
    assert pruned.nbytes() == sum(p.stat().st_size for p in pruned.directory.glob("shard-pool*"))


READ_ONE_BATCH = """
import sys
from pathlib import Path
from gvbsm.store.distilled import load_labels
store = load_labels(Path(sys.argv[1]))
def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before = held()
plan, labels = store.epoch(store.kept[-1])
labels.logits(plan.order[:4])
print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_batch_holds_no_whole_shard(runtime, tmp_path):
    """24 MB of logits lie in one shard, which is mapped: what is held is the batch."""
    config = LabelsConfig(epochs=2, batch_size=4, full_batch_up_to=0, views=VIEWS)
    store = new_store(tmp_path / "l", config, 600, 10_000, SIZE, runtime, RECIPE)

    plans = [draw_plan(600, SIZE, VIEWS, epoch, runtime) for epoch in range(2)]
    assert len(store.shards) == 1
    store.write_index()
    store.write(store.shards[0], [(plans, [store.encode(torch.ones(1200, 10_000).half())])])
    command = [sys.executable, "-c", READ_ONE_BATCH, str(store.directory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 6_000_000

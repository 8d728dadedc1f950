"""Tar shards: samples, classes and splits; what is broken or unsafe is refused by name."""

import io
import json
import os
import pickle
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.data.datasets import load_dataset
from gvbsm.data.pictures import DataError
from gvbsm.data.sources import webdataset as shards
from gvbsm.data.sources.webdataset import expand_braces
from support.picture_files import draw, encoded, reds
from support.workdirs import assert_seen_alike


def write_shard(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def samples(start, count, label=lambda i: i % 2, extra=()):
    """Members of `count` samples, in which a picture's red is its number."""
    members = []
    for index in range(start, start + count):
        members.append((f"a/{index:04d}.png", encoded(index)))
        members.append((f"a/{index:04d}.cls", str(label(index)).encode()))
    return [*members, *extra]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "sets"
    write_shard(root / "train-000.tar", samples(0, 4))
    write_shard(root / "train-001.tar", samples(4, 4))
    write_shard(root / "val-000.tar", samples(8, 2))
    return root


def test_shards_in_memory_and_streamed_agree(folder, tmp_path, runtime):
    kept = load_dataset("webdataset", folder, cache_dir=tmp_path)
    streamed = load_dataset("webdataset", folder, cache_dir=tmp_path, in_memory=False)
    assert (kept.class_names, kept.channels, kept.image_size) == (("0", "1"), 3, 8)
    for data in (kept, streamed):
        assert reds(data.train) == list(range(8))
        assert reds(data.test) == [8, 9]
        assert data.train.labels.tolist() == [0, 1] * 4
    assert kept.normalization.mean == pytest.approx(streamed.normalization.mean)
    assert_seen_alike(kept, streamed, runtime)


def test_a_set_is_known_by_its_members_wherever_it_lies(folder, tmp_path):
    def prints(root):
        return load_dataset("webdataset", root, cache_dir=tmp_path, in_memory=False).fingerprint

    first = prints(folder)
    moved = folder.rename(tmp_path / "moved")
    assert prints(moved) == first
    write_shard(moved / "val-000.tar", samples(8, 2, label=lambda i: 1 - i % 2))
    assert prints(moved) != first


def test_one_set_is_split_and_patterns_name_shards(folder, tmp_path):
    pattern = folder / "{train,val}-{000..000}.tar"
    data = load_dataset("webdataset", pattern)
    assert (reds(data.train), reds(data.test)) == ([0, 1, 2, 3], [8, 9])
    alone = load_dataset("webdataset", folder / "train-{000..001}.tar", val_fraction=0.25)
    assert sorted(reds(alone.train) + reds(alone.test)) == list(range(8))
    assert len(alone.test) == 2
    assert len(load_dataset("webdataset", folder / "train-000.tar").train) == 2
    with pytest.raises(DataError, match=r"1 shard.* is missing"):
        load_dataset("webdataset", folder / "train-{000..002}.tar")


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 4))
def test_braces_count_and_keep_zeros(first, length, width):
    name = f"a-{{{first:0{width}d}..{first + length:0{width}d}}}.{{x,y}}"
    found = expand_braces(name)
    numbers = [str(n).zfill(len(f"{first:0{width}d}")) for n in range(first, first + length + 1)]
    assert found == [f"a-{number}.{end}" for number in numbers for end in "xy"]


def test_imagenet_in_shards_is_normalized_as_published_weights_expect(folder, tmp_path):
    (folder / "classes.txt").write_text("n01440764\nn01443537\n", encoding="utf-8")
    mean = load_dataset("webdataset", folder, cache_dir=tmp_path).normalization.mean
    for root in (folder, f"{folder}/{{train-000,train-001,val-000}}.tar"):
        data = load_dataset("imagenet-1k", root, image_size=8)
        assert data.class_names == ("n01440764", "n01443537")
        assert (reds(data.train), reds(data.test)) == ([*range(8)], [8, 9])
        assert data.train.images is None
        assert data.normalization.mean == (0.485, 0.456, 0.406) != mean
    for side in ("train", "val"):
        (folder / side).mkdir()
        for shard in folder.glob(f"{side}-*.tar"):
            shard.rename(folder / side / shard.name)
    assert len(load_dataset("imagenet-1k", folder, image_size=8).train) == 8


def test_a_jpeg_that_lacks_its_end_marker_is_read(tmp_path):
    """As one in a folder."""
    labels = [(f"{index}.cls", str(index % 2).encode()) for index in range(4)]
    whole = [(f"{index}.jpg", encoded(index, "JPEG")) for index in range(4)]
    cut = [(name, content[:-2]) for name, content in whole]
    read = [
        load_dataset("webdataset", write_shard(tmp_path / f"{name}.tar", members + labels))
        for name, members in (("whole", whole), ("cut", cut))
    ]
    assert read[0].train.images.equal(read[1].train.images)


def test_archives_beside_class_folders_are_no_shards(folder):
    for side in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            draw(folder / side / name / "a.png")
    data = load_dataset("imagenet-1k", folder, image_size=8)
    assert (len(data.train), len(data.test)) == (2, 2)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("imagenet1k-train-0012.tar", "train"),
        ("imagenet1k-validation-00.tar", "test"),
        ("train/00000.tar", "train"),
        ("test/train-0.tar", "train"),
        ("val0.tar", "test"),
        ("00001.tar", None),
        ("trainer-0.tar", None),
        ("latest-0.tar", None),
    ],
)
def test_the_name_tells_the_side(name, side, tmp_path):
    assert shards._side(tmp_path.relative_to(tmp_path) / name) == side


def test_classes_by_json_by_words_and_by_a_list_of_names(tmp_path):
    def as_json(i):
        return json.dumps({"other": 3, "label": "cat" if i % 2 else "dog", "n": i}).encode()

    members = [m for i in range(4) for m in ((f"{i}.png", encoded(i)), (f"{i}.json", as_json(i)))]
    data = load_dataset("webdataset", write_shard(tmp_path / "words" / "a.tar", members))
    assert data.class_names == ("cat", "dog")
    assert sorted(zip(reds(data.train), data.train.labels.tolist(), strict=True)) in (
        [(i, 1 - i % 2) for i in pair] for pair in ((0, 1), (0, 3), (1, 2), (2, 3))
    )
    with pytest.raises(DataError, match=r"no class: .*kind in \.json"):
        load_dataset("webdataset", tmp_path / "words", label_column="kind")
    root = write_shard(tmp_path / "named" / "train-0.tar", samples(0, 4)).parent
    (root / "classes.txt").write_text("ant\nbee\n", encoding="utf-8")
    assert load_dataset("webdataset", root).class_names == ("ant", "bee")
    (root / "classes.txt").write_text("ant\n", encoding="utf-8")
    with pytest.raises(DataError, match="names 1 classes, but not the class 1"):
        load_dataset("webdataset", root)


@given(
    st.permutations(["ant", "bee", "cat"]),
    st.permutations(range(6)),
    st.lists(st.sampled_from(["ant", "bee", "cat"]), min_size=1, max_size=6),
    st.sampled_from(["words", "json", "listed", "numbers"]),
)
def test_the_order_of_classes_and_samples_changes_no_class(
    tmp_path_factory, order, places, classes, form
):
    """Against the samples as they were written, whatever order they and their classes have."""
    root = tmp_path_factory.mktemp("set")
    train = [(number, ["ant", "bee", "cat"][number % 3]) for number in places]
    test = list(enumerate(classes, start=10))
    if form in ("listed", "numbers"):
        (root / "classes.txt").write_text("\n".join(order), encoding="utf-8")
    for side, pictures in (("train", train), ("val", test)):
        members = []
        for number, name in pictures:
            text = str(order.index(name)) if form == "numbers" else name
            label = ("json", json.dumps({"label": text})) if form == "json" else ("cls", text)
            members.append((f"{number}.png", encoded(number)))
            members.append((f"{number}.{label[0]}", label[1].encode()))
        write_shard(root / f"{side}-0.tar", members)
    data = load_dataset("webdataset", root)
    for split, expected in ((data.train, train), (data.test, test)):
        names = [data.class_names[label] for label in split.labels]
        assert list(zip(reds(split), names, strict=True)) == expected


def link(name, target):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return name, entry


def sparse(name):
    """A sparse member in GNU tar's old form."""
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.GNUTYPE_SPARSE
    return name, entry


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([("a/0000.pyd", pickle.dumps(1))], r"0000\.pyd, pickled data"),
        ([("a/0000.mask.pkl", b"")], "pickled data"),
        ([link("a/9.png", "../../secret.png")], r"a/9\.png, which is no plain file but a link"),
        ([("a/0000.png", encoded(1))], "twice"),
        (
            [("a/0000.seg.png", encoded(1))],
            r"several pictures, .*0000\.png and .*0000\.seg\.png: .*dot",
        ),
        ([("b.1.png", encoded(1)), ("b.1.cls", b"1")], "no class.*name ends at its first dot"),
        ([("a/9.cls", b"-1"), ("a/9.png", encoded(9))], "number -1: classes count from 0"),
        (
            [("b/caf\udce9.png", encoded(1))],
            r"b/caf\\udce9\.png', a name with control characters or no UTF-8",
        ),
        ([sparse("a/9.png")], r"a/9\.png as a sparse file: pack it without"),
        ([("a/9.png", encoded(9))], "no class"),
        ([("a/9.png", encoded(9)), ("a/9.cls", b"cat")], "numbers and words"),
        ([("a/9.png", encoded(9)), ("a/9.cls", b"\xff\xfe")], "no class"),
        ([("a/9.png", encoded(9)), ("a/9.json", b"[" * 100_000)], "no class"),
        ([("a/9.cls", b"1" * (1024**2 + 1))], r"a/9\.cls .* bytes, more than"),
    ],
)
def test_what_is_unsafe_or_broken_is_named(extra, message, tmp_path):
    path = write_shard(tmp_path / "train-0.tar", samples(0, 4, extra=extra))
    with pytest.raises(DataError, match=message):
        load_dataset("webdataset", path)


def test_pictures_beyond_the_limit_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_PICTURE_BYTES", 10)
    with pytest.raises(DataError, match="more than 10"):
        load_dataset("webdataset", write_shard(tmp_path / "a.tar", samples(0, 4)))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_gigabytes_is_not_read(kind, tmp_path):
    """The archive is sparse on the disk, so that it holds what the header claims."""
    path = write_shard(tmp_path / "train-0.tar", [])
    entry = tarfile.TarInfo("a/9.png")
    entry.type, entry.size = kind, 8 * 1024**3
    with path.open("r+b") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        file.truncate(entry.size + 2048)
    with pytest.raises(DataError, match=r"train-0\.tar .*claims 8589934592 bytes, more than"):
        load_dataset("webdataset", path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{a,b}" * 40, "more than 100000 shards"),
        ("{0..99999999999}", "more than 100000 shards"),
        ("{0..999}{0..999}", "more than 100000 shards"),
        ("{9..0}", "counts down"),
        ("a" * 300 + "{0..1}", "is missing"),
        ("{" + "," * 5000 + "}", "characters, more than 4096"),
    ],
)
def test_patterns_are_counted_before_they_are_expanded(pattern, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_dataset("webdataset", tmp_path / f"{pattern}.tar")


def test_identifiers_are_classes_named_by_them(tmp_path):
    path = write_shard(tmp_path / "a.tar", samples(0, 8, label=lambda i: (999999999, 7)[i % 2]))
    data = load_dataset("webdataset", path)
    assert data.class_names == ("7", "999999999")
    assert all(
        label == 1 - red % 2
        for red, label in zip(reds(data.train), data.train.labels.tolist(), strict=True)
    )
    assert "taken as names of classes" in data.notes[0]


def test_a_list_of_names_shifts_no_label(tmp_path):
    """A byte-order mark is no part of a name; an empty line is not passed over."""
    root = write_shard(tmp_path / "named" / "train-0.tar", samples(0, 4)).parent
    (root / "classes.txt").write_text("\ufeffant\r\nbee\n\n", encoding="utf-8")
    assert load_dataset("webdataset", root).class_names == ("ant", "bee")
    (root / "classes.txt").write_text("\nant\nbee\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"classes\.txt has a class without a name"):
        load_dataset("webdataset", root)
    (root / "classes.txt").write_bytes(b"caf\xe9\nbee\n")
    with pytest.raises(DataError, match=r"classes\.txt is no text in UTF-8"):
        load_dataset("webdataset", root)


def test_what_is_no_file_is_no_shard(tmp_path):
    os.mkfifo(tmp_path / "train-0.tar")
    for root in (tmp_path, tmp_path / "train-0.tar"):
        with pytest.raises(DataError, match="no regular file"):
            load_dataset("webdataset", root)


def test_damaged_archives(tmp_path, folder):
    packed = write_shard(tmp_path / "b" / "train-0.tar", samples(0, 4), mode="w:gz")
    with pytest.raises(DataError, match="uncompressed tar"):
        load_dataset("webdataset", packed)
    path = folder / "val-000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:600])  # within the first picture
    with pytest.raises(DataError, match=r"val-000\.tar"):
        load_dataset("webdataset", folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.tar files"):
        load_dataset("webdataset", tmp_path / "empty")
    write_shard(tmp_path / "other" / "train-0.tar", [("a.txt", b"")])
    with pytest.raises(DataError, match="no pictures"):
        load_dataset("webdataset", tmp_path / "other")
    write_shard(folder / "val-000.tar", samples(8, 2))
    write_shard(folder / "0.tar", samples(0, 2))
    with pytest.raises(DataError, match=r"0\.tar for training or for testing"):
        load_dataset("webdataset", folder)


def test_a_header_that_is_broken_or_cut_is_not_taken_for_the_end(tmp_path, folder):
    """Each header behind the first one, with a bit flipped and cut in two; and sound archives."""
    shard = folder / "train-000.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        headers = [member.offset for member in archive][1:]
    assert len(headers) == 7
    for offset in headers:
        flipped = whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :]
        for content in (flipped, whole[: offset + 100]):
            shard.write_bytes(content)
            with pytest.raises(DataError, match=rf"train-000\.tar is damaged .* at byte {offset}:"):
                load_dataset("webdataset", folder, cache_dir=tmp_path)
    for end in (0, tarfile.BLOCKSIZE):  # without the zeros that some programs leave out
        shard.write_bytes(whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512 + end))
        assert len(load_dataset("webdataset", folder, cache_dir=tmp_path).train) == 8


def test_a_broken_picture_is_named_by_shard_and_member(tmp_path):
    members = [("a/9.png", encoded(9)[:40]), ("a/9.cls", b"1")]
    path = write_shard(tmp_path / "train-0.tar", samples(0, 4, extra=members))
    with pytest.raises(DataError, match=r"cannot read a/9\.png in .*train-0\.tar"):
        load_dataset("webdataset", path)


def test_a_shard_of_another_library_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "train-000000.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for index in range(4):
            sink.write({"__key__": f"{index:03}", "png": encoded(index), "cls": index % 2})
    data = load_dataset("webdataset", path)
    assert sorted(reds(data.train) + reds(data.test)) == [0, 1, 2, 3]

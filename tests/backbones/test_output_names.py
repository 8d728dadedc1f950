"""Names of a classifier's outputs: ImageNet's, those in a file, and classes that match none."""

import pytest
import torchvision.models

from gvbsm.backbones.output_names import (
    OutputNames,
    imagenet_names,
    match_outputs,
    names_digest,
    names_in_file,
)

IMAGENETTE = (
    "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 "
    "n03888257"
)
WORDS = (
    "tench",
    "English_springer",
    "cassette player",
    "chain-saw",
    "church, church building",
    "French horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "PARACHUTE",
)
OUTPUTS = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


@pytest.mark.parametrize(
    "names", [IMAGENETTE.split(), WORDS, (*WORDS[:4], *IMAGENETTE.split()[4:])]
)
def test_classes_of_imagenet_by_id_or_by_word(names):
    assert match_outputs(names, 1000, imagenet_names(1000), "x") == OUTPUTS
    assert match_outputs(names[::-1], 1000, imagenet_names(1000), "x") == OUTPUTS[::-1]


def test_imagenet_names_are_numbered_as_torchvision_numbers_its_outputs():
    known = imagenet_names(1000)
    categories = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    candidates = known.outputs_of(categories)
    sure = [index for index, outputs in enumerate(candidates) if len(outputs) == 1]
    assert len(sure) > 980
    assert [candidates[index] for index in sure] == [[index] for index in sure]
    assert list(known.names) == sorted(known.names)


def test_imagenet_names__other_numbers_of_classes():
    assert len(imagenet_names(21843).names) == 21843
    assert imagenet_names(7) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("tench", "wombel", "tabby"),
            "of x have 1000 classes, the data set 3; 'wombel' is not among them (WordNet ids or",
        ),
        (("a", "b", "tench"), "the data set 3; 'a' and 1 more are not among them"),
        (("tench", "crane"), "'crane' may be n02012849 or n03126707: name the class so"),
        (("n01440764", "tench"), "'n01440764' and 'tench' are the same of them (n01440764)"),
    ],
)
def test_classes_that_do_not_match_are_told_in_one_line(names, message):
    with pytest.raises(ValueError, match="the pretrained weights of x have 1000 classes") as error:
        match_outputs(names, 1000, imagenet_names(1000), "x")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_of_a_list_match_as_they_are_written():
    known = OutputNames("the lines of x.txt", ("a", "A", "b"))
    assert match_outputs(("A", "a"), 3, known, "x") == [1, 0]
    with pytest.raises(ValueError, match=r"'B' is not among them \(the lines of x.txt\)"):
        match_outputs(("A", "B"), 3, known, "x")
    with pytest.raises(ValueError, match=r"have 3 classes, the data set 1; .* names of theirs"):
        match_outputs(("a",), 3, None, "x")


def test_names_in_file__one_a_line(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffcafe\u0301\r\n b c \r\nd\n\n".encode())
    assert names_in_file(path).names == ("caf\u00e9", "b c", "d")
    copy = tmp_path / "copy.txt"
    copy.write_text("café\nb c\nd", encoding="utf-8")
    assert names_digest(copy) == names_digest(path)
    copy.write_text("café\nd\nb c", encoding="utf-8")
    assert names_digest(copy) != names_digest(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "line 2: a class has no name"),
        (b"a\nb\na\n", "names 'a' twice, in lines 1 and 3"),
        (b"a\n\xff\n", "cannot be read as text"),
        (None, "cannot be read as text"),
    ],
)
def test_names_in_file__faults_name_the_setting_and_the_file(content, message, tmp_path):
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        names_in_file(path)
    assert str(error.value).startswith(f"squeeze.weights_classes: {path}")
    assert "\n" not in str(error.value)

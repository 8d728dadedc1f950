"""Tensors written row by row are the file that `save` writes, and none is held whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.files.streamed_file import Rows, row_file
from gvbsm.files.tensors import load_tensors, save

HEADER = {"kind": "toy", "recipe": {"a": 1}, "name": 'Käse "x" \\ \n\t\x1f €'}
TENSORS = {
    "pixels": torch.arange(5 * 3 * 2, dtype=torch.uint8).view(5, 3, 2),
    "labels": torch.tensor([4, 3, 2, 1, 0]),
    "half": torch.linspace(0, 1, 5).half(),
    "flags": torch.tensor([True, False, True, True, False]),
    "boxes": torch.arange(20, dtype=torch.int16).view(5, 4),
    "order": torch.arange(5, dtype=torch.int32),
    "wide": torch.linspace(0, 1, 10).view(5, 2),
}


def shapes(tensors):
    return {name: Rows(value.dtype, value.shape) for name, value in tensors.items()}


@given(order=st.permutations(range(5)), cuts=st.integers(1, 5))
@settings(max_examples=25)
def test_any_order_of_rows_gives_the_bytes_of_save(tmp_path_factory, order, cuts):
    folder = tmp_path_factory.mktemp("rows")
    save(folder / "saved.safetensors", TENSORS, HEADER)
    with row_file(folder / "rows.safetensors", shapes(TENSORS), HEADER) as file:
        for index in torch.split(torch.tensor(order), cuts):
            for name, value in TENSORS.items():
                file.write(name, index, value[index])
    made = (folder / "rows.safetensors").read_bytes()
    assert made == (folder / "saved.safetensors").read_bytes()


@pytest.mark.parametrize("names", [["pixels"], ["pixels", "labels"], ["flags", "half", "pixels"]])
def test_header_is_padded_as_safetensors_does(names, tmp_path):
    for length in range(9):
        header = {**HEADER, "pad": "x" * length}
        tensors = {name: TENSORS[name] for name in names}
        save(tmp_path / "a.safetensors", tensors, header)
        with row_file(tmp_path / "b.safetensors", shapes(tensors), header) as file:
            for name, value in tensors.items():
                file.write(name, torch.arange(5), value)
        assert (tmp_path / "a.safetensors").read_bytes() == (
            tmp_path / "b.safetensors"
        ).read_bytes()
        found, read = load_tensors(tmp_path / "b.safetensors", "toy")
        assert read["name"] == HEADER["name"]
        assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_rows_of_another_device_order_or_stride_are_taken_as_they_are(tmp_path):
    wide = torch.arange(30, dtype=torch.uint8).view(2, 3, 5).permute(2, 1, 0)  # (5, 3, 2), strided
    with row_file(tmp_path / "x.safetensors", {"x": Rows(torch.uint8, (5, 3, 2))}, HEADER) as file:
        file.write("x", torch.tensor([4, 0, 1]), wide[[4, 0, 1]])
        file.write("x", torch.tensor([2, 3]), wide[2:4])
    assert torch.equal(load_tensors(tmp_path / "x.safetensors", "toy")[0]["x"], wide)


@pytest.mark.parametrize(
    ("index", "values", "match"),
    [
        ([0], torch.zeros(1, 2, dtype=torch.uint8), r"\(1, 3\).*got torch.uint8 \(1, 2\)"),
        ([0], torch.zeros(1, 3), "torch.uint8 .*got torch.float32"),
        ([0, 1], torch.zeros(1, 3, dtype=torch.uint8), r"\(2, 3\)"),
        ([5], torch.zeros(1, 3, dtype=torch.uint8), "rows 0 to 4"),
        ([-1], torch.zeros(1, 3, dtype=torch.uint8), "rows 0 to 4"),
        ([0], torch.zeros(1, 3, dtype=torch.uint8), "not written.*4"),
    ],
)
def test_rows_that_do_not_fit_or_are_missing_leave_no_file(index, values, match, tmp_path):
    path = tmp_path / "x.safetensors"
    shape = {"x": Rows(torch.uint8, (5, 3))}
    with pytest.raises(ValueError, match=match), row_file(path, shape, HEADER) as file:
        file.write("x", torch.tensor(index), values)
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_no_images_is_a_file_too(tmp_path):
    with row_file(tmp_path / "x.safetensors", {"x": Rows(torch.uint8, (0, 3))}, HEADER):
        pass
    save(tmp_path / "y.safetensors", {"x": torch.zeros(0, 3, dtype=torch.uint8)}, HEADER)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()

"""Bit fields come back as they were; what logits lose is bounded, and known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvbsm.store.label_codec import (
    decode_logits,
    encode_logits,
    field,
    pack_rows,
    packed_bytes,
    unpack_rows,
)
from gvbsm.store.label_store import Field


def rows_of(count, classes, seed=0, scale=5.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (shift + scale * torch.randn(count, classes, generator=generator)).half()


# Bit fields


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 0, 0), (3, 3, 0), (0, 1, 1), (-4, 4, 4), (1, 32, 5), (0, 32, 6)]
)
def test_field__bits_that_are_needed(low, high, bits):
    assert field("a", low, high) == Field("a", low, bits)


def test_pack_rows__known_bits():
    fields = (field("a", 0, 7), field("b", -1, 1), field("c", 5, 5), field("d", 0, 511))
    packed = pack_rows(torch.tensor([[5, -1, 5, 257], [0, 1, 5, 0]]), fields)
    # 101 00 100000001, two bits over; 000 10 000000000
    assert packed.tolist() == [[0b10100100, 0b00000100], [0b00010000, 0]]
    assert packed.dtype == torch.uint8
    assert packed_bytes(fields) == 2


@settings(derandomize=True)
@given(
    st.lists(st.tuples(st.integers(-(2**33), 2**33), st.integers(0, 33)), min_size=1, max_size=15),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
def test_pack_rows__and_unpack(ranges, count, random):
    fields = tuple(field("a", low, low + 2**bits - 1) for low, bits in ranges)
    values = [[part.low + random.randrange(2**part.bits) for part in fields] for _ in range(count)]
    table = torch.tensor(values, dtype=torch.int64).view(count, len(fields))
    packed = pack_rows(table, fields)
    assert packed.shape == (count, math.ceil(sum(bits for _, bits in ranges) / 8))
    assert torch.equal(unpack_rows(packed, fields), table)
    for row, numbers in zip(packed.tolist(), values, strict=True):  # as one long number
        text = "".join(
            format(value - part.low, f"0{part.bits}b") if part.bits else ""
            for part, value in zip(fields, numbers, strict=True)
        )
        assert "".join(format(byte, "08b") for byte in row) == text.ljust(8 * len(row), "0")


@pytest.mark.parametrize("value", [-1, 8])
def test_pack_rows__refuses_what_does_not_fit(value):
    with pytest.raises(ValueError, match=r"crop top must be in \[0, 7\]"):
        pack_rows(torch.tensor([[3], [value]]), (field("crop top", 0, 7),))


# Logits


def test_encode_logits__half_precision_is_kept_to_the_bit():
    logits = rows_of(7, 10)
    parts = encode_logits(logits)
    assert list(parts) == ["logits"]
    assert torch.equal(parts["logits"], logits)
    assert torch.equal(decode_logits(parts, 10), logits.float())


def test_encode_logits__top_k_known_answer():
    logits = torch.tensor([[1.0, 9.0, -2.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0, 0.0]]).half()
    parts = encode_logits(logits, top_k=2)
    assert parts["classes"].tolist() == [[1, 3], [0, 1]]  # of equals the first
    assert parts["logits"].tolist() == [[9.0, 4.0], [0.0, 0.0]]
    assert parts["fill"].tolist() == [1.0, 0.0]
    assert decode_logits(parts, 5).tolist() == [[1.0, 9.0, 1.0, 4.0, 1.0], [0.0] * 5]


def test_encode_logits__keeps_what_a_stable_sort_does():
    logits = rows_of(200, 30, seed=4, scale=1.0).mul(4).round().div(4)  # many are equal
    logits[0, :4] = torch.tensor([0.0, -0.0, 65504.0, -65504.0])
    logits[1] = -logits[1].abs()
    values, classes = logits.float().sort(dim=1, descending=True, stable=True)
    parts = encode_logits(logits, top_k=7)
    assert torch.equal(parts["classes"].long(), classes[:, :7])
    assert torch.equal(parts["logits"].float(), values[:, :7])
    mean = values[:, 7:].double().mean(dim=1)
    torch.testing.assert_close(parts["fill"].double(), mean, rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize(
    ("classes", "kind"),
    [(256, torch.uint8), (257, torch.int16), (32_768, torch.int16), (32_769, torch.int32)],
)
def test_encode_logits__narrowest_classes(classes, kind):
    logits = torch.zeros(1, classes).half()
    logits[0, -1] = 1.0
    parts = encode_logits(logits, top_k=1)
    assert parts["classes"].dtype == kind
    assert torch.equal(decode_logits(parts, classes), logits.float())


def test_the_mean_is_the_best_fill_for_the_square():
    logits = rows_of(50, 20, seed=1)
    parts = encode_logits(logits, top_k=4)

    def error(fill):
        found = decode_logits({**parts, "fill": fill.half()}, 20)
        return (found - logits.float()).square().sum(dim=1)

    ours = error(parts["fill"])
    kept = logits.float().sort(dim=1, descending=True).values[:, 4:]
    mass = kept.exp().mean(dim=1).log()  # keeps the probability of what is left out at T = 1
    for other in (mass, kept.amax(dim=1), kept.amin(dim=1), parts["fill"] + 0.05):
        assert bool((ours <= error(other.float()) + 1e-3).all())
        assert ours.sum() < error(other.float()).sum()
    # All that is wrong is what is left out, by its spread.
    torch.testing.assert_close(ours, 16 * kept.var(dim=1, correction=0), rtol=1e-3, atol=1e-3)


@settings(derandomize=True)
@given(
    st.integers(2, 30),
    st.floats(1e-4, 1e4),
    st.floats(-1e4, 1e4),
    st.integers(0, 9),
    st.booleans(),
)
def test_8_bits_are_wrong_by_half_a_level_at_most(classes, scale, shift, seed, cut):
    logits = rows_of(5, classes, seed, scale, shift)
    top_k = classes // 2 if cut else None
    exact = decode_logits(encode_logits(logits, top_k), classes)
    parts = encode_logits(logits, top_k, bits=8)
    found = decode_logits(parts, classes)
    level = parts["scale"].double()
    span = (exact.amax(dim=1) - exact.amin(dim=1)).double()
    tiny = 2.0**-24  # the smallest float16
    assert bool((level <= span / 255 * (1 + 2**-10) + tiny).all())
    error = (found.double() - exact.double()).abs().amax(dim=1)
    rounding = 2.0**-22 * exact.double().abs().amax(dim=1)  # of float32
    assert bool((error <= level / 2 + rounding).all())
    best = exact.argmax(dim=1, keepdim=True)
    assert torch.equal(found.gather(1, best).squeeze(1), found.amax(dim=1))  # it stays the largest


def test_8_bits_known_answer():
    logits = torch.tensor([[-2.0, 0.5, 253.0], [7.0, 7.0, 7.0]]).half()
    parts = encode_logits(logits, bits=8)
    assert parts["low"].tolist() == [-2.0, 7.0]
    assert parts["scale"].tolist() == [1.0, 0.0]
    assert parts["codes"].tolist() == [[0, 2, 255], [0, 0, 0]]
    assert decode_logits(parts, 3).tolist() == [[-2.0, 0.0, 253.0], [7.0, 7.0, 7.0]]
    assert {name: part.dtype for name, part in parts.items()} == {
        "codes": torch.uint8,
        "low": torch.float16,
        "scale": torch.float16,
    }


def test_8_bits_hold_the_whole_range_of_half_precision():
    logits = torch.tensor([[-65504.0, 65504.0, 0.0]]).half()
    found = decode_logits(encode_logits(logits, bits=8), 3)
    assert bool(((found - logits.float()).abs() <= 131_008 / 255 * 0.501).all())


@pytest.mark.parametrize(("top_k", "bits"), [(None, 16), (None, 8), (3, 16), (3, 8)])
def test_a_row_is_stored_alike_whatever_is_beside_it(top_k, bits):
    logits = rows_of(9, 7, seed=3)
    together = encode_logits(logits, top_k, bits)
    for index in range(9):
        alone = encode_logits(logits[index : index + 1], top_k, bits)
        for name, part in together.items():
            assert torch.equal(part[index : index + 1], alone[name])


@pytest.mark.parametrize(
    ("top_k", "bits", "size"),
    [(None, 16, 2000), (None, 8, 1004), (10, 16, 42), (10, 8, 34), (50, 8, 154)],
)
def test_bytes_of_a_view_of_1000_classes(top_k, bits, size):
    parts = encode_logits(rows_of(1, 1000), top_k, bits)
    assert sum(part.nbytes for part in parts.values()) == size

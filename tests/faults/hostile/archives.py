"""Archives of arrays that are bombs, lie, lead outside or are cut; and odd ones that are sound."""

import io
import zipfile

import numpy as np

from faults.hostile import shards, tables
from faults.hostile.arrays import NAMES, expect, toy
from faults.hostile.case import Case, squeeze


def npy_head(shape, dtype="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def bad_npz(kind, place, file):  # noqa: C901 - a branch for each kind
    """Write an archive that must be refused."""
    arrays = toy(place)
    count = len(arrays["train_labels"])
    entries = {}
    match kind:
        case "bomb-zeros":
            entries["train_images"] = npy_head((count, 3000, 3000, 3)) + bytes(count * 3000 * 3000)
        case "bomb-pixels":  # of one pixel each, so that objects in memory outweigh the file
            entries["train_images"] = npy_head((25_000_000, 1, 1)) + bytes(25_000_000)
            entries["train_labels"] = npy_head((25_000_000,)) + bytes(25_000_000)
        case "bomb-names":
            arrays["class_names"] = np.zeros(20_000_000, "U4")
        case "lie-shape":
            entries["train_images"] = npy_head((count, 2**20, 2**20, 3)) + bytes(100)
        case "lie-overflow":
            entries["train_images"] = npy_head((2**62, 2**62, 4)) + bytes(100)
        case "lie-negative":
            entries["train_images"] = npy_head((-1, 8, 8, 3)) + bytes(100)
        case "pickled":
            arrays["train_labels"] = np.array([{}] * count, dtype=object)
        case "structured":
            arrays["train_labels"] = np.zeros(count, dtype=[("a", "i4"), ("b", "i4")])
        case "dates":
            arrays["train_labels"] = np.zeros(count, dtype="datetime64[s]")
        case "complex":
            arrays["train_images"] = arrays["train_images"].astype(np.complex64)
        case "nan":
            arrays["train_images"] = arrays["train_images"].astype(np.float32)
            arrays["test_images"] = arrays["test_images"].astype(np.float32)
            arrays["train_images"][place.chance.randrange(count)] = np.nan
        case "infinite":
            for side in ("train_images", "test_images"):
                arrays[side] = arrays[side].astype(np.float32)
            arrays["train_images"][0, 0, 0, 0] = np.inf
        case "normalized":
            for side in ("train_images", "test_images"):
                arrays[side] = arrays[side].astype(np.float32) / 64 - 1
        case "five-dimensions":
            arrays["train_images"] = arrays["train_images"][:, None]
        case "no-side":
            arrays["train_images"] = arrays["train_images"][:, :0]
        case "labels-2d":
            arrays["train_labels"] = np.eye(4, dtype=np.int64)[arrays["train_labels"]]
        case "labels-float":
            arrays["train_labels"] = arrays["train_labels"].astype(np.float32)
        case "labels-bool":
            arrays["train_labels"] = arrays["train_labels"] > 1
        case "labels-negative":
            arrays["train_labels"] = arrays["train_labels"].astype(np.int64) - 1
        case "test-beyond":
            arrays["test_labels"][0] = 99
        case "names-short":
            arrays["class_names"] = arrays["class_names"][:2]
        case "names-twice":
            arrays["class_names"] = np.array(["a", "a", "c", "d"])
        case "names-latin":
            arrays["class_names"] = np.array([b"caf\xe9", b"b", b"c", b"d"])
        case "names-control":
            arrays["class_names"] = np.array(["a\x1b[31m", "b", "c", "d"])
        case "names-empty":
            arrays["class_names"] = np.array(["", "b", "c", "d"])
        case "npy-version":
            entries["train_images"] = b"\x93NUMPY\x09\x00" + bytes(100)
        case "npy-text":
            entries["train_images"] = b"no array"
        case "header-code":
            text = (
                b"{'descr': __import__('os').system('true'), 'shape': (1,), 'fortran_order': False}"
            )
            entries["train_images"] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        case "header-long":
            text = b"{" + b" " * 60_000 + b"}"
            entries["train_images"] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    packed = {key: value for key, value in arrays.items() if key not in entries}
    np.savez_compressed(file, **packed)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        for key, content in entries.items():
            archive.writestr(f"{key}.npy", content)
    whole = file.read_bytes()
    match kind:
        case "encrypted":
            file.write_bytes(
                whole.replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\x01\0")
            )
        case "cut":
            file.write_bytes(whole[: place.chance.randrange(len(whole))])
        case "flip":
            spot = place.chance.randrange(200, len(whole) // 2)
            file.write_bytes(whole[:spot] + bytes([whole[spot] ^ 64]) + whole[spot + 1 :])
        case "method":
            file.write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x09"))
        case "bytes":
            file.write_bytes(place.chance.randbytes(1000))


BAD_NPZ = (
    "bomb-zeros",
    "bomb-pixels",
    "bomb-names",
    "lie-shape",
    "lie-overflow",
    "lie-negative",
    "pickled",
    "structured",
    "dates",
    "complex",
    "nan",
    "infinite",
    "normalized",
    "five-dimensions",
    "no-side",
    "labels-2d",
    "labels-float",
    "labels-bool",
    "labels-negative",
    "test-beyond",
    "names-short",
    "names-twice",
    "names-latin",
    "names-empty",
    "npy-version",
    "npy-text",
    "header-code",
    "header-long",
    "cut",
    "flip",
    "method",
    "bytes",
)


SOUND_NPZ = (
    "plain",
    "unit-range",
    "float-255",
    "channels-first",
    "fortran",
    "big-endian",
    "names-bytes",
    "no-names",
    "identifiers",
    "more-arrays",
    "column-labels",
)


def bad_npz_case(kind):
    def make(place):
        file = place.folder / "data.npz"
        bad_npz(kind, place, file)
        return squeeze(place, "npz", file, refused=("data.npz",))

    return Case(f"archives/npz.{kind}", make)


def sound_npz_case(kind):  # noqa: C901 - a branch for each kind
    """Arrays that are stored otherwise: the same pictures."""

    def make(place):  # noqa: C901 - a branch for each kind
        arrays, file, names = toy(place), place.folder / "data.npz", NAMES
        stored = dict(arrays)
        sides = ("train_images", "test_images")
        match kind:
            case "unit-range":
                stored |= {side: arrays[side].astype(np.float32) / 255 for side in sides}
            case "float-255":
                stored |= {side: arrays[side].astype(np.float64) for side in sides}
            case "channels-first":
                stored |= {side: arrays[side].transpose(0, 3, 1, 2) for side in sides}
            case "fortran":
                stored |= {side: np.asfortranarray(arrays[side]) for side in sides}
            case "big-endian":
                stored |= {side: arrays[side].astype(">u2") for side in sides}
                stored |= {
                    key: arrays[key].astype(">i8") for key in ("train_labels", "test_labels")
                }
            case "names-bytes":
                stored["class_names"] = np.array([b"\xef\xbb\xbfa", b"b", b"c", b"d"])
            case "no-names":
                del stored["class_names"]
                names = tuple("0123")
            case "identifiers":
                del stored["class_names"]
                lift = place.chance.choice((10**9, 10**18))
                for key in ("train_labels", "test_labels"):
                    stored[key] = arrays[key].astype(np.int64) + lift
                names = tuple(str(lift + number) for number in range(4))
            case "more-arrays":
                stored["val_images"] = np.zeros(3)
                stored["objects"] = np.array([{}], dtype=object)
            case "column-labels":
                stored |= {key: arrays[key][:, None] for key in ("train_labels", "test_labels")}
        (np.savez if kind == "plain" else np.savez_compressed)(file, **stored)
        return squeeze(place, "npz", file, check=expect("npz", file, arrays, names))

    return Case(f"archives/npz.sound-{kind}", make)


def cases():
    """All cases of archives and tables."""
    yield from map(bad_npz_case, BAD_NPZ)
    yield from map(sound_npz_case, SOUND_NPZ)
    yield from shards.cases()
    yield from tables.cases()

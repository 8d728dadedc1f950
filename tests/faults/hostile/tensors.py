"""Safetensors files whose tensors or heads are not what they should be."""

import os
import shutil
from functools import partial

from faults.hostile.case import Case, Command, export, same_pictures
from faults.hostile.samples import copy, edit_header, edit_tensors, read_tensors, write_tensors


def odd(tensor, kind, chance):  # noqa: C901 - a branch for each kind
    """A tensor of another type, rank, shape or range."""
    import torch

    match kind:
        case "float":
            return tensor.float()
        case "half":
            return tensor.half()
        case "bool":
            return tensor.bool()
        case "long":
            return tensor.long() if tensor.dtype != torch.int64 else tensor.int()
        case "flat":
            return tensor.flatten()[: chance.randrange(1, tensor.numel())]
        case "empty":
            return tensor[:0]
        case "deep":
            return tensor[None]
        case "short":
            return tensor[:-1]
        case "long-rows":
            return torch.cat([tensor, tensor])
        case "scalar":
            return tensor.flatten()[0].clone()
        case "last":
            return tensor[..., :-1]
        case "negative":
            return tensor - chance.choice((1, 1000))
        case "beyond":
            return tensor + chance.choice((4, 10**6, 2**40))
    raise ValueError(kind)


KINDS = ("float", "half", "bool", "long", "flat", "empty", "deep", "short", "long-rows", "scalar")


def spoil(name, kind, chance, tensors):
    """Change one of a file's tensors, or remove it."""
    if kind == "gone":
        del tensors[name]
    else:
        tensors[name] = odd(tensors[name], kind, chance)


def single_case(name, kind):
    """A set in a single file with one tensor changed."""

    def make(place):
        file = copy(place.samples / "set.safetensors", place.folder / "set.safetensors")

        edit_tensors(file, partial(spoil, name, kind, place.chance))
        return export(file, refused=("set.safetensors",))

    return Case(f"tensors/file.{name.replace('/', '-')}.{kind}", make)


def images_case(name, kind):
    """A work directory's images with one tensor changed."""

    def make(place):
        file = copy(
            place.samples / "work" / "synthesis" / "images.safetensors",
            place.folder / "images.safetensors",
        )

        edit_tensors(file, partial(spoil, name, kind, place.chance))
        return export(file, refused=("images.safetensors",))

    return Case(f"tensors/images.{name}.{kind}", make)


def teacher_case(kind):
    """A teacher with a tensor that is not its own."""

    def make(place):
        work = copy(place.samples / "work", place.folder / "work")

        def change(tensors):
            import torch

            name = place.chance.choice(sorted(n for n, t in tensors.items() if t.ndim > 1))
            match kind:
                case "nan":
                    tensors[name].flatten()[place.chance.randrange(tensors[name].numel())] = (
                        torch.nan
                    )
                case "infinite":
                    tensors[name].flatten()[0] = torch.inf
                case "gone":
                    del tensors[name]
                case "more":
                    tensors["extra"] = torch.zeros(3)
                case "transposed":
                    tensors[name] = tensors[name].transpose(0, 1)[:, :1]
                case "empty":
                    tensors.clear()

        shutil.rmtree(work / "statistics")  # so that the teacher is read for them
        edit_tensors(work / "squeeze" / "convnet8_d1.safetensors", change)
        arguments = ("statistics", str(place.samples / "toy.yaml"), "--workdir", "work", "--quiet")
        return Command(arguments, refused=("convnet8_d1",))

    return Case(f"tensors/teacher.{kind}", make)


def broken(kind, content, chance):
    """The bytes of a safetensors file that lies, or is none."""
    length = int.from_bytes(content[:8], "little")

    def head(text):
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    def lying(old, new):
        return head(content[8 : 8 + length].replace(old, new, 1))

    return {
        "nothing": lambda: b"",
        "short": lambda: content[: chance.randrange(1, 8)],
        "cut-head": lambda: content[: chance.randrange(9, 8 + length)],
        "cut-body": lambda: content[: -chance.randrange(1, 100)],
        "longer": lambda: content + b"\0" * chance.randrange(1, 100),
        "huge-head": lambda: (2**63).to_bytes(8, "little") + content[8:],
        "head-beyond": lambda: (len(content) * 2).to_bytes(8, "little") + content[8:],
        "no-head": lambda: bytes(8) + content[8:],
        "list-head": lambda: head(b"[]"),
        "deep-head": lambda: head(b'{"a":' * 5000),
        "no-json": lambda: head(b"x" * 64),
        "no-metadata": lambda: head(b"{}"),
        "type": lambda: lying(b'"U8"', b'"F8"'),
        "offsets": lambda: lying(b'"data_offsets":[0,', b'"data_offsets":[9,'),
        "offset-negative": lambda: lying(b'"data_offsets":[0,', b'"data_offsets":[-1,'),
        "shape-huge": lambda: lying(b'"shape":[8,', b'"shape":[4611686018427387904,'),
        "zip": lambda: b"PK\x03\x04" + content[4:],
        "pickle": lambda: b"\x80\x04cos\nsystem\n(Vtrue\ntR.",
        "png": lambda: b"\x89PNG\r\n\x1a\n" + bytes(100),
    }[kind]()


BROKEN = (
    "nothing",
    "short",
    "cut-head",
    "cut-body",
    "longer",
    "huge-head",
    "head-beyond",
    "no-head",
    "list-head",
    "deep-head",
    "no-json",
    "no-metadata",
    "type",
    "offsets",
    "offset-negative",
    "shape-huge",
    "zip",
    "pickle",
    "png",
)


def broken_case(kind):
    def make(place):
        source = place.samples / "set.safetensors"
        file = place.folder / "set.safetensors"
        file.write_bytes(broken(kind, source.read_bytes(), place.chance))
        return export(file, refused=("set.safetensors",))

    return Case(f"tensors/broken.{kind}", make)


def shard_case(kind):
    """A shard of soft labels that is broken or not the set's own: not passed on, not trained on."""

    def make(place):
        source = copy(place.samples / "hub", place.folder / "set")
        shard = source / "soft_labels" / "shard-00000.safetensors"
        content = shard.read_bytes()
        match kind:
            case "gone":
                shard.unlink()
            case "cut" | "flip":
                spot = place.chance.randrange(len(content) - 20, len(content))
                end = content[spot + 1 :] if kind == "flip" else b""
                shard.write_bytes(content[:spot] + bytes([content[spot] ^ 1]) + end)
            case "images":
                copy(place.samples / "set.safetensors", shard)
            case "pipe":
                shard.unlink()
                os.mkfifo(shard)
            case "outside":
                shard.unlink()
                shard.symlink_to(place.samples / "hub" / "soft_labels" / shard.name)
            case "kind":
                edit_header(shard, lambda header: header.update(kind="teacher"))
            case _:
                edit_tensors(
                    shard,
                    lambda tensors: tensors.update(
                        logits=odd(tensors["logits"], kind, place.chance)
                    ),
                )
        arguments = ("export", "set", "--to", "hub", "--out", "out", "--quiet")
        if kind in (*KINDS, "last"):  # which a copy does not look for
            arguments = (
                "train",
                "set",
                "--model",
                "convnet8_d1",
                "--out",
                "w.safetensors",
                "--quiet",
            )
        return Command(arguments, refused=("set",))

    return Case(f"tensors/shard.{kind}", make)


def swap_case(kind):
    """A sound file of another kind in the place of a set."""

    def make(place):
        source = {
            "teacher": "work/squeeze/convnet8_d1.safetensors",
            "statistics": "work/statistics/convnet8_d1.safetensors",
            "labels": "hub/soft_labels/shard-00000.safetensors",
            "weights": "weights.safetensors",
            "film": "work/synthesis/film.safetensors",
        }[kind]
        file = copy(place.samples / source, place.folder / "set.safetensors")
        return export(file, refused=("set.safetensors",))

    return Case(f"tensors/kind.{kind}", make)


def foreign_case(kind):
    """A safetensors file that gvbsm did not write."""

    def make(place):
        import torch
        from safetensors.torch import save_file

        file = place.folder / "set.safetensors"
        metadata = {
            "none": None,
            "text": {"gvbsm": "text"},
            "list": {"gvbsm": "[1]"},
            "format": {"gvbsm": '{"format": "new"}'},
            "other": {"format": "pt"},
            "newer": {"gvbsm": '{"format": 99, "version": "9"}'},
            "deep": {"gvbsm": '{"format": 1, "a": ' + "[" * 10_000},
        }[kind]
        save_file({"images": torch.zeros(2, 3, 8, 8)}, file, metadata=metadata)
        return export(file, refused=("set.safetensors",))

    return Case(f"tensors/foreign.{kind}", make)


def sound_case(kind):
    """Files that are odd and sound."""

    def make(place):
        file = copy(place.samples / "set.safetensors", place.folder / f"{kind} set.safetensors")
        if kind == "extra":
            import torch

            edit_tensors(file, lambda tensors: tensors.update(extra=torch.zeros(3)))
        elif kind == "spaces":
            head, body, header = read_tensors(file)
            header["later"] = " " * 10_000
            write_tensors(file, head, body, header)
        elif kind == "link":
            file.unlink()
            file.symlink_to(place.samples / "set.safetensors")
        return export(file, check=same_pictures(place))

    return Case(f"tensors/sound.{kind}", make)


def cases():  # noqa: C901 - a branch for each kind
    """All cases of tensors."""
    for kind in (*KINDS, "last", "gone"):
        yield single_case("images", kind)
    for kind in ("float", "long", "empty", "deep", "short", "scalar", "negative", "beyond", "gone"):
        yield single_case("labels", kind)
        yield images_case("labels", kind)
    for kind in ("flat", "empty", "short", "scalar", "deep", "last", "gone"):
        yield images_case("images", kind)
    for kind in ("flat", "empty", "short", "scalar", "deep", "last"):
        yield single_case("soft_labels/logits", kind)
    for kind in ("nan", "infinite", "gone", "more", "transposed", "empty"):
        yield teacher_case(kind)
    for kind in BROKEN:
        yield broken_case(kind)
    for kind in (
        "gone",
        "cut",
        "flip",
        "images",
        "pipe",
        "outside",
        "kind",
        "flat",
        "empty",
        "short",
        "last",
        "float",
    ):
        yield shard_case(kind)
    for kind in ("teacher", "statistics", "labels", "weights", "film"):
        yield swap_case(kind)
    for kind in ("none", "text", "list", "format", "other", "newer", "deep"):
        yield foreign_case(kind)
    for kind in ("extra", "spaces", "link", "plain"):
        yield sound_case(kind)

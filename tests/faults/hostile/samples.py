"""Sound inputs that hostile ones are made of: data, a finished run, and its set in each form."""

import contextlib
import io
import json
import shutil
import zlib

from support.workdirs import quick_settings, write_arrays, write_files, write_preset

SMALL = {"backbones": ["convnet8_d1"], "epochs": 1, "tests": 1, "views": {"flip": False}}


def write_samples(folder):
    """Write all into a new folder; about ten seconds.

    `toy.npz` and `files/` are the data, `teacher.yaml` a preset that trains one teacher for one
    epoch, `toy.yaml` that of the run in `work/`; `folder/`, `hub/` and `set.safetensors` are its
    set, and `weights.safetensors` those of a network trained on it.
    """
    from gvbsm.cli import main

    folder.mkdir()
    data = {"name": "npz", "root": str(write_arrays(folder / "toy.npz"))}
    write_files(folder / "files")
    settings = quick_settings(data, squeeze=SMALL, baselines={"methods": []})
    settings |= {"labels": {"epochs": 3}, "evaluation": {"students": ["convnet8_d1"], "seeds": 1}}
    preset = str(write_preset(folder / "toy.yaml", settings))
    write_preset(folder / "teacher.yaml", {"threads": 1, "device": "cpu", "squeeze": SMALL})
    work = str(folder / "work")
    commands = [
        ["run", preset, "--workdir", work],
        ["export", work, "--to", "folder", "--out", str(folder / "folder")],
        ["export", work, "--to", "hub", "--out", str(folder / "hub")],
        ["export", work, "--to", "safetensors", "--out", str(folder / "set.safetensors")],
        ["train", work, "--model", "convnet8_d1", "--out", str(folder / "weights.safetensors")],
    ]
    for command in commands:
        with contextlib.redirect_stdout(io.StringIO()):
            code = main([*command, "--quiet"])
        if code != 0:
            raise RuntimeError(f"{command} ended with {code}")


# Writers of their own, so that an entry can be anything and its checksum right all the same.


class Raw(str):
    """JSON text of a value that Python would not write, such as 1e400."""


def dumps(value):
    """JSON text in which each `Raw` stands as it is."""
    raws = []

    def plain(value):
        if isinstance(value, Raw):
            raws.append(value)
            return f"@{len(raws) - 1}@"
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    text = json.dumps(plain(value))
    for number, raw in enumerate(raws):
        text = text.replace(f'"@{number}@"', raw)
    return text


def checked(content):
    """JSON text of an object with the checksum that gvbsm would give it."""
    content = {key: value for key, value in content.items() if key != "checksum"}
    try:
        parsed = json.loads(dumps(content))
        canonical = json.dumps(parsed, sort_keys=True, separators=(",", ":"))
    except (RecursionError, ValueError):  # cannot be read by anybody
        canonical = ""
    return dumps({**content, "checksum": f"{zlib.crc32(canonical.encode()):08x}"})


def edit_json(path, change):
    """Change the object in a JSON file, and its checksum with it."""
    content = json.loads(path.read_text())
    change(content)
    path.unlink()
    path.write_text(checked(content))


def read_tensors(path):
    """The tensors of a safetensors file as bytes, with types and shapes, and gvbsm's header."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    header = json.loads(head.pop("__metadata__")["gvbsm"])
    return head, body, header


def write_tensors(path, head, body, header):
    """Write them, whatever they say."""
    text = json.dumps({**head, "__metadata__": {"gvbsm": checked(header)}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def edit_header(path, change):
    """Change gvbsm's header of a safetensors file, and its checksum with it."""
    head, body, header = read_tensors(path)
    change(header)
    write_tensors(path, head, body, header)


def edit_tensors(path, change):
    """Change the tensors by name in place, and the digest with them; values are torch tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    from gvbsm.files.tensors import digest

    header = read_tensors(path)[2]
    tensors = load_file(path)
    change(tensors)
    header["digest"] = digest(tensors)
    path.unlink()
    plain = {name: torch.clone(tensor).contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"gvbsm": checked(header)})


def copy(source, target):
    """A copy of a sample, file or folder, to be changed."""
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    return target

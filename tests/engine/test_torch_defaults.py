"""What a caller has set in torch changes nothing here, and is restored."""

from contextlib import contextmanager

import pytest
import torch

import gvbsm
from support.workdirs import digests, quick_settings, write_arrays, write_files


@contextmanager
def unusual_torch():
    """Everything that a caller may have set, at once."""
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(2)
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            yield
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.zeros(1).dtype == torch.float64
            assert torch.zeros(1).device.type == "meta"
            assert torch.get_num_threads() == 2
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_num_threads(1)


def test_what_a_caller_has_set_in_torch_changes_no_run_and_is_restored(tmp_path):
    data = {"name": "npz", "root": str(write_arrays(tmp_path / "data.npz"))}
    settings = quick_settings(data, baselines={"methods": ["herding-soft"]})
    gvbsm.run(settings, tmp_path / "plain", quiet=True)
    with unusual_torch():
        gvbsm.run(settings, tmp_path / "unusual", quiet=True)
        with pytest.raises(gvbsm.ConfigError):
            gvbsm.run("no_such_preset")
    ours, theirs = (digests(tmp_path / name) for name in ("unusual", "plain"))
    assert ours == theirs
    assert len(ours) > 10


def test_what_a_caller_has_set_in_torch_changes_nothing_that_is_loaded(tmp_path):
    files = write_files(tmp_path / "img")
    settings = quick_settings({"name": "folder", "root": str(files)}, baselines={"methods": []})
    gvbsm.run(settings, tmp_path / "run", quiet=True)

    def load(name):
        kept = gvbsm.load_dataset("folder", files, cache_dir=tmp_path / name)
        streamed = gvbsm.load_dataset("folder", files, in_memory=False, cache_dir=tmp_path / name)
        distilled = gvbsm.load(tmp_path / "run")
        plan, labels = distilled.soft_labels.epoch(1)
        logits = labels.logits(torch.arange(8, device="cpu"))
        pictures = [kept.train.images, kept.train.labels, distilled.images]
        return [*pictures, plan.order, logits, *streamed.normalization.mean]

    plain = load("plain")
    with unusual_torch():
        unusual = load("unusual")
    torch.testing.assert_close(unusual, plain, rtol=0, atol=0)

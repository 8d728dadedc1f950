"""The resident memory of a process and its peak, and systems that do not say."""

import sys

import pytest
import torch

from gvbsm.engine.machine import resident

MB = 1024**2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is known on Linux alone")
def test_the_peak_counts_what_was_freed_until_it_is_reset():
    resident.return_freed_memory()
    assert resident.reset_peak()
    before = resident.resident_bytes()
    assert len(torch.ones(64 * MB, dtype=torch.uint8)) == 64 * MB  # freed at once
    assert resident.peak_bytes() - before > 60 * MB
    resident.return_freed_memory()
    assert resident.reset_peak()
    assert resident.peak_bytes() - before < 32 * MB


def test_a_system_that_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(resident, "PROCESS", tmp_path / "none")
    assert resident.resident_bytes() is None
    assert resident.peak_bytes() is None
    assert not resident.reset_peak()


def test_kilobytes_of_the_status(monkeypatch, tmp_path):
    monkeypatch.setattr(resident, "PROCESS", tmp_path)
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    12 kB\nVmRSS:\t     7 kB\n")
    assert (resident.peak_bytes(), resident.resident_bytes()) == (12 * 1024, 7 * 1024)
    (tmp_path / "status").write_text("Name:\tpython\n")  # as of a kernel thread
    assert resident.peak_bytes() is None

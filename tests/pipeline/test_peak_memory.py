"""The memory that work takes: its peak, less what was in use before."""

import sys

import pytest
import torch

from gvbsm.pipeline.planning import peak_memory
from gvbsm.pipeline.planning.peak_memory import PeakMemory

MB = 1024**2
CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is known on Linux alone")
def test_taken__is_the_peak_of_the_work_alone():
    memory = PeakMemory(CPU)
    memory.begin()
    kept = torch.ones(32 * MB, dtype=torch.uint8)
    torch.ones(64 * MB, dtype=torch.uint8)
    first = memory.taken()
    assert 90 * MB < first < 130 * MB
    peak_memory.return_freed_memory()
    memory.begin()
    assert 30 * MB < memory.taken() < 70 * MB  # what is kept counts in each
    assert len(kept) == 32 * MB


def test_taken__is_unknown_where_the_peak_cannot_be_reset(monkeypatch):
    memory = PeakMemory(CPU)
    monkeypatch.setattr(peak_memory, "reset_peak", lambda: False)
    memory.begin()
    assert memory.taken() is None


def test_taken__is_unknown_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(peak_memory, "resident_bytes", lambda: None)
    memory = PeakMemory(CPU)
    memory.begin()
    assert memory.taken() is None

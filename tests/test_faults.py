"""Kills, damaged files, bad inputs: `pytest -m faults`, or faults/stress.py for any number."""

import pytest

from faults.inputs import run_inputs
from faults.kills import run_kills
from faults.mutations import run_mutations

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]


def test_kills_at_random_moments_end_in_the_same_files(tmp_path):
    assert run_kills(tmp_path, count=200) == 200


def test_damaged_files_are_refused_or_do_no_harm(tmp_path):
    assert run_mutations(tmp_path, count=500) == 500


def test_bad_inputs_are_refused_before_anything_is_written(tmp_path):
    assert run_inputs(tmp_path) >= 100

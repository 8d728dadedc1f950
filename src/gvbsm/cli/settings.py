"""The verb `settings`: print the settings of a run as a YAML file."""

from __future__ import annotations

import shlex

from gvbsm.cli.budget import within_budget
from gvbsm.cli.parsing import parse_run, start_log
from gvbsm.config.build import settings_lines


def settings_verb(argv: list[str]) -> int:
    """Print all settings of a run, or with `--changed` those that differ from their defaults."""
    parsed = parse_run("settings", argv)
    if parsed is None:
        return 0
    start_log()
    parsed = within_budget(parsed, keep=False)
    print(f"# Made by: gvbsm settings {shlex.join(argv)}")
    print("# Run it:  gvbsm run FILE.yaml")
    print("\n".join(settings_lines(parsed.config, "--changed" in parsed.flags)))
    return 0

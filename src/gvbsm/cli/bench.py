"""The verb `bench`: measure time and memory on this machine."""

from __future__ import annotations

from gvbsm.cli.parsing import explain, start_log
from gvbsm.config import BenchConfig, ConfigError
from gvbsm.config.paths import user_path


def bench_verb(argv: list[str]) -> int:
    """Measure, print the table, and write the figures to `--json` if it is given."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(prog="gvbsm bench", exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(BenchConfig)
    try:
        config = BenchConfig(**vars(parser.parse_args(argv)))
    except ArgumentError as error:
        raise ConfigError(explain(str(error))) from None
    except SystemExit as leaving:
        return int(leaving.code or 0)
    counts = [config.repeats, *(config.groups or [0]), *config.processes]
    if config.threads is not None:
        counts.append(config.threads)
    if min(counts) < 1:
        raise ConfigError("repeats, groups, processes and threads must be at least 1")
    if not config.settings:
        raise ConfigError("settings must name a preset, as in --settings '[cifar10]'")
    file = None if config.json is None else user_path(config.json)
    if file is not None and (file.is_dir() or not file.name):
        raise ConfigError(f"--json must name a file, {file} is a folder")
    start_log()
    from gvbsm.files.artifacts import write_json

    if config.memory:
        from gvbsm.bench.memory import format_growth, measure_growth

        measurements = measure_growth()
        print(format_growth(measurements))
    else:
        from gvbsm.bench import run_bench
        from gvbsm.bench.predictions import format_bench

        measurements = run_bench(config)
        print(format_bench(measurements))
    if file is not None:
        write_json(file, measurements)
    return 0

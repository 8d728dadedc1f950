"""The verbs that run stages: all of them, or one."""

from __future__ import annotations

from gvbsm.cli.parsing import parse_run, start_log
from gvbsm.engine.launch import read_launch


def stage_verb(verb: str, argv: list[str]) -> int:
    """Run all stages, or one of them, and print the results."""
    parsed = parse_run(verb, argv)
    if parsed is None:
        return 0
    config, workdir, quiet, origin = parsed
    start_log(quiet)
    leads = read_launch().rank == 0
    from gvbsm import api
    from gvbsm.pipeline.tables import format_continual, format_table

    if verb == "continual":
        from gvbsm.pipeline.continual import run_continual

        continual = run_continual(config, workdir, quiet, origin=origin)
        if not leads:
            return 0
        print(format_continual(continual))
        print(f"\npreset:  {origin}")
        print(f"results: {workdir / 'continual.json'}")
        return 0
    if verb != "run":
        options = {"convert_only": True} if "--compress" in argv else {}
        api.run_stage(verb, config, workdir, quiet, origin=origin, **options)
        return 0
    from gvbsm.reporting import report

    results = api.run(config, workdir, quiet, origin=origin)
    if not leads:
        return 0
    print(format_table(results["rows"]))
    print(f"\npreset:        {origin}")
    print(f"results:       {workdir / 'results.json'}")
    print(f"distilled set: {workdir / 'synthesis' / 'images.safetensors'}")
    print(f"picture:       {workdir / 'images.png'}")
    print(f"report:        {report(workdir, quiet)}")
    return 0

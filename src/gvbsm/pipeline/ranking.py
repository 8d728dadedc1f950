"""Rank networks by students of a distilled set, beside training on all pictures (`gvbsm rank`).

Networks are ordered by the mean accuracy of their students on a set. The order is compared with
that of the same networks trained on all real pictures: Spearman's and Kendall's rank correlations.
Beside the distilled set stand as many random real pictures with the same soft labels, and training
on all pictures that stops after as many pictures as a student of the set sees.

`DIR/rank.json` holds:

    models     names of the networks
    rows       one a method and network: method, student, `top1` in percent {"mean", "std",
               "values"}, and seconds of its trainings
    agreement  one a method: `spearman` and `kendall` of the mean accuracies with those of `full`;
               `by_seed`, both for the students of each seed {"mean", "std", "values"}; seconds of
               all its trainings. Of `full` itself each seed is compared with the mean of the
               others, as no cheaper way can agree better than that.
    epochs     epochs of `early` and `full`
    config, origin, versions   as in results.json
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from gvbsm.config import Config, CorruptionsConfig
from gvbsm.config.build import as_config, to_dict
from gvbsm.config.paths import user_path
from gvbsm.config.provenance import Origin, origin_of
from gvbsm.engine.torch_defaults import torch_defaults
from gvbsm.files.artifacts import write_json
from gvbsm.pipeline.checks.ranking import check_ranking
from gvbsm.pipeline.evaluated_sets import read_full
from gvbsm.pipeline.results import spread, sum_seconds, versions
from gvbsm.pipeline.run import Run
from gvbsm.pipeline.training.full_data import train_full
from gvbsm.pipeline.workload import student_views

log = logging.getLogger("gvbsm")

EARLY = "early"  # method and folder of the trainings that stop early

Scores = Mapping[str, Sequence[float]]
"""Accuracies of the students of each network, one a seed."""


def correlation(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Return Spearman's and Kendall's (tau-b) rank correlation; None if all values are equal.

    Args:
        first: A value for each network.
        second: Another one.
    """
    if len(set(first)) == 1 or len(set(second)) == 1:
        return {"spearman": None, "kendall": None}
    from scipy.stats import kendalltau, spearmanr

    return {
        "spearman": float(spearmanr(first, second).statistic),
        "kendall": float(kendalltau(first, second).statistic),
    }


def agreement(scores: Scores, reference: Scores, of_itself: bool = False) -> dict[str, Any]:
    """Compare the order of networks with that of the reference.

    Args:
        scores: Accuracies on a set.
        reference: Accuracies of the same networks on all pictures.
        of_itself: `scores` is the reference: compare each seed with the mean of the others.

    Returns:
        `spearman` and `kendall` of the means (None of the reference itself), and `by_seed` of the
        students of each seed; None without values.
    """
    models = list(reference)
    seeds = min(len(scores[name]) for name in models)
    columns: list[dict[str, float | None]] = []
    for seed in range(seeds if not of_itself or seeds > 1 else 0):
        others = [
            fmean(v for index, v in enumerate(reference[name]) if index != seed or not of_itself)
            for name in models
        ]
        columns.append(correlation([scores[name][seed] for name in models], others))
    by_seed = {}
    for name in ("spearman", "kendall"):
        values = [value for column in columns if (value := column[name]) is not None]
        by_seed[name] = spread(values) if values else None
    means = ([fmean(table[name]) for name in models] for table in (scores, reference))
    of_means = correlation(*means) if not of_itself else {"spearman": None, "kendall": None}
    return {**of_means, "by_seed": by_seed}


@torch_defaults()
def run_ranking(
    config: Config | str | Mapping[str, Any],
    workdir: str | Path,
    quiet: bool = False,
    *,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Rank the networks of `evaluation.students`; return the content of `rank.json`.

    All that is missing is made: teachers, sets, labels and students. A stopped call resumes.

    Args:
        config: Settings, the name of a preset, or a nested mapping of settings. The baselines are
            replaced by those that a ranking needs.
        workdir: The work directory.
        quiet: No progress bars.
        origin: Where the settings came from, kept with the results; None takes a preset's name.

    Raises:
        ConfigError, DataError, ArtifactError, RunError: With one clear line.
    """
    settings = as_config(config)
    check_ranking(settings)
    methods = replace(settings.baselines, methods=("random-soft", "full"), sets={})
    settings = replace(settings, baselines=methods)
    folder = user_path(workdir)
    run = Run(settings, folder, quiet, origin=origin or origin_of(config))
    run.team.check_replaceable(run.workspace.ranking)
    epochs = early_epochs(run.config, run.counts.total, len(run.data.train))
    early = _train_early(run, epochs, quiet)

    def ranking(results: Mapping[str, Any]) -> dict[str, Any]:
        return _ranking(run, [*results["rows"], *early], epochs)

    # Written by the stages, while no other run is at work in the directory.
    return ranking(run.all_stages(lambda made: write_json(run.workspace.ranking, ranking(made))))


def _ranking(run: Run, rows: Sequence[Mapping[str, Any]], epochs: int) -> dict[str, Any]:
    """Return the content of `rank.json`.

    Args:
        run: The run, whose students the networks are.
        rows: Rows of results, with all networks for each method.
        epochs: Epochs of the trainings that stop early.
    """
    return {
        "models": list(run.config.evaluation.students),
        "rows": [{k: row[k] for k in ("method", "student", "top1", "seconds")} for row in rows],
        "agreement": compare(rows),
        "epochs": {EARLY: epochs, "full": run.config.baselines.full_epochs},
        "config": to_dict(run.config),
        "origin": run.origin.as_json(),
        "versions": versions(run.runtime),
    }


def early_epochs(config: Config, images: int, pictures: int) -> int:
    """Epochs on all pictures in which a network sees as many as a student of the set."""
    return max(1, round(student_views(config, images) / pictures))


def early_settings(config: Config, epochs: int) -> Config:
    """Settings of `full` with other epochs, and without tests on corrupted pictures."""
    baselines = replace(config.baselines, full_epochs=epochs)
    evaluation = replace(config.evaluation, corruptions=CorruptionsConfig())
    return replace(config, baselines=baselines, evaluation=evaluation)


def compare(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the order of the networks by each method with that by `full`.

    Args:
        rows: Rows of results, with all networks for each method.
    """
    tables: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        tables.setdefault(row["method"], {})[row["student"]] = row["top1"]["values"]
    reference = tables["full"]
    return [
        {
            "method": method,
            **agreement(table, reference, of_itself=method == "full"),
            "seconds": sum(row["seconds"] for row in rows if row["method"] == method),
        }
        for method, table in tables.items()
    ]


def _train_early(run: Run, epochs: int, quiet: bool) -> list[dict[str, Any]]:
    """Train the networks on all pictures for a few epochs, in a folder of their own."""
    config = early_settings(run.config, epochs)
    early = Run(config, run.workdir / EARLY, quiet, run.data, run.origin, stages=["full"])
    with early.at_work():
        train_full(early.context)
    seconds, seeds = early.workspace.seconds(), range(early.config.evaluation.seeds)
    return [
        {
            "method": EARLY,
            "student": student,
            "top1": spread([history["top1"][-1] for history in histories]),
            "seconds": sum_seconds(seconds, f"full/{student}/", seeds),
        }
        for student, histories in read_full(early.config, early.recipes, early.workspace).items()
    ]

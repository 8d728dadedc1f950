"""Results of a run as tables for papers and notebooks: Markdown, LaTeX, CSV and pandas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gvbsm.pipeline.tables import SIZES, format_corrupted, format_ipc, format_sizes, format_top1

if TYPE_CHECKING:
    import pandas

HEAD = ("method", "student", "images per class", "top-1 (%)", "n")
CORRUPTED = "corrupted (%)"
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


class RunResults(dict[str, Any]):
    """What `gvbsm.run` returns: the content of `results.json`, which also makes tables of itself.

    Accuracies in tables are means and sample deviations over n students after the last epoch; a
    single student has no deviation.
    """

    def to_markdown(self) -> str:
        """Return a Markdown table, a line a row of the results."""
        head, rows = self._cells("±")
        lines = [head, ("---",) * len(head)]
        lines += [tuple(map(_escaped, row)) for row in rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def to_latex(self) -> str:
        r"""Return a LaTeX `tabular`, a line a row of the results; it needs `\usepackage{booktabs}`.

        The characters that LaTeX reads as commands are escaped in names.
        """
        head, lines = self._cells(r"$\pm$")
        rows = [_latex_line([_latex(cell) for cell in line[:3]] + [*line[3:]]) for line in lines]
        columns = _latex_line([cell.replace("%", r"\%") for cell in head])
        body = [r"\toprule", columns, r"\midrule", *rows, r"\bottomrule"]
        alignment = "ll" + "r" * (len(head) - 2)
        return "\n".join([rf"\begin{{tabular}}{{{alignment}}}", *body, r"\end{tabular}", ""])

    def _cells(self, plus_minus: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The heads of the columns, and the cells of each row.

        Bytes, and accuracies on corrupted pictures, are columns only where some are known.
        """
        rows = self["rows"]
        head: tuple[str, ...] = HEAD
        cells = [_cells(row, plus_minus) for row in rows]
        corrupted = [format_corrupted(row).replace("±", plus_minus) for row in rows]
        if any(corrupted):
            head = (*head[:-1], CORRUPTED, head[-1])
            cells = [
                (*line[:-1], cell, line[-1]) for line, cell in zip(cells, corrupted, strict=True)
            ]
        if any(row.get("image_bytes") for row in rows):
            head += SIZES
            cells = [(*line, *format_sizes(row)) for line, row in zip(cells, rows, strict=True)]
        return head, cells

    def to_csv(self) -> str:
        """Return the tidy rows as CSV with a head; an `ipc` of all pictures is empty."""
        rows = self.tidy()
        text = io.StringIO()
        names = ["method", "student", "ipc", "seed", "top1", "top1_best"]
        names += sorted({name for row in rows for name in row} - {*names})
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_frame(self) -> pandas.DataFrame:
        """Return the tidy rows as a `pandas.DataFrame`.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        frame = pandas.DataFrame(self.tidy())
        return frame.astype({"ipc": "Int64"}) if len(frame) else frame

    def tidy(self) -> list[dict[str, Any]]:
        """Return one row a student and seed.

        Returns:
            `method`, `student`, `ipc` (None for all pictures), `ipc_of` as text where classes
            differ, `seed` (number of the student, from 0), `top1` (last epoch) and `top1_best`
            (best test of all epochs) in percent, and the other measures of the last test that the
            row has for all students; `image_bytes` and `label_bytes` of rows of image sets.
        """
        return [
            {
                **{name: row[name] for name in ("method", "student", "ipc")},
                **_of_classes(row),
                **{name: row[name] for name in ("image_bytes", "label_bytes") if name in row},
                "seed": seed,
                "top1": last,
                "top1_best": best,
                **{name: values[seed] for name, values in _measures(row).items()},
            }
            for row in self["rows"]
            for seed, (last, best) in enumerate(
                zip(row["top1"]["values"], row["top1_best"]["values"], strict=True)
            )
        ]

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


FORMATS = {"md": RunResults.to_markdown, "latex": RunResults.to_latex, "csv": RunResults.to_csv}
"""The formats of `gvbsm show DIR --format`, and what makes them."""


def _of_classes(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the entry `ipc_of` as text, `rare=2,common=20`; none where classes do not differ."""
    text = ",".join(f"{name}={count}" for name, count in row.get("ipc_of", {}).items())
    return {"ipc_of": text} if text else {}


def _measures(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """Values of the students by name of the measure (`metrics` of a row)."""
    metrics = row.get("metrics", {})
    return {name: item["values"] for name, item in metrics.items() if isinstance(item, Mapping)}


def _cells(row: Mapping[str, Any], plus_minus: str) -> tuple[str, ...]:
    accuracy = format_top1(row["top1"]).replace("±", plus_minus)
    count = str(len(row["top1"]["values"]))
    return row["method"], row["student"], format_ipc(row), accuracy, count


def _escaped(cell: str) -> str:
    """Escape what Markdown reads as the end of a cell or as emphasis."""
    return re.sub(r"([|\\`*_])", r"\\\1", cell)


def _latex(cell: str) -> str:
    """Escape the characters that LaTeX reads as commands."""
    return re.sub(r"[\\~^&%$#_{}]", lambda match: LATEX.get(match[0], f"\\{match[0]}"), cell)


def _latex_line(cells: list[str]) -> str:
    return rf"{' & '.join(cells)} \\"

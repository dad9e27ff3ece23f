"""What the commands print to stdout."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siftune.experiments.finished import Experiment
    from siftune.export import Exported
    from siftune.pipeline.inspection import Inspection
    from siftune.pipeline.run import Run

LEFT_OUT_SHOWN = 20
"""How many rows that an export leaves out are listed."""


def print_run(run: Run) -> None:
    """The subset in a few lines, and where everything is."""
    from siftune._common.files import read_json

    manifest = read_json(run.folder / "manifest.json")
    method, data, budget = manifest["method"], manifest["data"], manifest["budget"]
    print(f"selected {budget['rows']:,} of {data['usable_rows']:,} usable rows ({budget['tokens']:,} tokens) "
          f"with {method['representation']} + {method['selector']}")
    _print_groups(run)
    print(f"subset:  {run.folder / 'selected.jsonl'}")
    print(f"report:  {run.report}")


def _print_groups(run: Run) -> None:
    import pyarrow.parquet as pq

    scores = pq.read_table(run.folder / "scores.parquet", columns=["group", "selected"]).to_pydict()
    pool = Counter(scores["group"])
    chosen = Counter(g for g, s in zip(scores["group"], scores["selected"], strict=True) if s)
    for group, count in chosen.most_common(8):
        print(f"  {count:5,} of {pool[group]:6,}  {group}")
    if len(chosen) > 8:
        print(f"  ... and {len(chosen) - 8} more groups; {len(pool) - len(chosen)} groups of the pool have none")


def print_comparison(finished: Experiment) -> None:
    """The short table and the verdict; what failed goes to stderr."""
    from siftune.experiments.text import legend, short_table

    print(short_table(finished.results))
    print()
    print(finished.verdict)
    print(f"{legend(finished.results)} Lower loss is better.")
    print(f"subset:  {finished.folder / 'selected.jsonl'}")
    print(f"report:  {finished.report}")
    _print_failures(finished)


def print_study(finished: Experiment) -> None:
    """The tables of a study; what failed goes to stderr."""
    from siftune.experiments.text import tables

    print(tables(finished.results))
    print(f"\nresults: {finished.file}")
    print(f"report:  {finished.report}")
    _print_failures(finished)


def _print_failures(finished: Experiment) -> None:
    import sys

    from siftune.experiments.text import failures

    if finished.failed:
        print(f"{failures(finished.results)}\nhint: run the same command again to try these again", file=sys.stderr)


def print_export(written: Exported) -> None:
    """The files, and what a trainer made of them; how to use them goes to stderr."""
    import sys

    from siftune._common.text import visible

    for path in written.files:
        print(path)
    for warning in written.warnings:
        print(visible(f"warning: {warning}"), file=sys.stderr)
    if written.left_out:
        print(f"warning: {len(written.left_out):,} rows that the model's template cannot render are left out:",
              file=sys.stderr)
        for row in written.left_out[:LEFT_OUT_SHOWN]:
            print(visible(f"  {row.id}: {row.reason} {row.detail}"), file=sys.stderr)
        if len(written.left_out) > LEFT_OUT_SHOWN:
            print(f"  ... and {len(written.left_out) - LEFT_OUT_SHOWN:,} more", file=sys.stderr)
    if written.note:
        print(written.note, file=sys.stderr)
    if written.checked:
        print(written.checked)


def print_inspection(found: Inspection) -> None:
    """What `siftune inspect` shows: counts, then the first rows with what is supervised of them in colour, or in
    brackets where there are no colours, as in a file."""
    from rich.console import Console

    from siftune.data.inspect import mask_preview, visible

    console = Console(highlight=False)
    plain = console.color_system is None
    mark = "[[so]]" if plain else "(green)"
    for line in found.lines():
        console.print(visible(line), markup=False, soft_wrap=True)
    for row, rendered in list(zip(found.examples.rows, found.examples.rendered, strict=True))[: found.show]:
        console.print(f"\n{row.where}  id {row.id}  {len(rendered)} tokens, {rendered.supervised} supervised {mark}",
                      style="bold", markup=False, soft_wrap=True)
        console.print(mask_preview(rendered, found.tokenizer, brackets=plain), soft_wrap=True)

"""What is printed and drawn of perplexities: a table, a sentence for each run, M's figure."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stableft.display import seed_label
from stableft.probe_record import Perplexity
from stableft.record import RunRecord, atomic_write
from stableft.report.drawing import file_bytes
from stableft.report.figures import draw
from stableft.report.panels import Panel
from stableft.report.perplexity_panels import WIDE, perplexity_of, perplexity_panel

NEAR = 1.1  # times the pre-trained model's perplexity: recovered
COLUMNS = 6  # runs side by side in the table


def labels_of(records: Sequence[RunRecord]) -> list[str]:
    """Returns what runs are called: arm and seed, the task where there are several, the id where that is not enough."""
    several = len({record.config.data.task for record in records}) > 1
    names = []
    for record in records:
        task = f" {record.config.data.task}" if several else ""
        names.append(f"{record.arm}{task} {seed_label(record.config)}{' failed' if record.failed else ''}")
    return [
        f"{name} {record.run_id[:6]}" if names.count(name) > 1 else name
        for name, record in zip(names, records, strict=True)
    ]


def perplexity_table(records: Sequence[Perplexity], labels: Sequence[str]) -> str:
    """Returns perplexities, k down and runs across, in several tables where there are many runs."""
    tables = []
    for start in range(0, len(records), COLUMNS):
        few = slice(start, start + COLUMNS)
        columns = [["k", *map(str, records[0].reset), "all", "pre-trained"]]
        for record, label in zip(records[few], labels[few], strict=True):
            losses = (*record.losses, record.all_reset, record.pretrained)
            columns.append([label, *(_number(perplexity_of(loss)) for loss in losses)])
        widths = [max(map(len, column)) for column in columns]
        tables.append("\n".join("  ".join(map(str.rjust, row, widths)) for row in zip(*columns, strict=True)))
    return "\n\n".join(tables)


def recovery(record: Perplexity) -> int | None:
    """Returns the smallest number of reset blocks with a perplexity within 10 % of the pre-trained model's."""
    near = NEAR * perplexity_of(record.pretrained)
    pairs = zip(record.reset, record.losses, strict=True)
    return next((count for count, loss in pairs if perplexity_of(loss) <= near), None)


def recovery_sentence(record: Perplexity, label: str) -> str:
    """Returns how far a run is from the pre-trained model, and how many blocks must be reset to be near it again."""
    first, last, own = (
        _number(perplexity_of(loss)) for loss in (record.losses[0], record.losses[-1], record.pretrained)
    )
    count, blocks = recovery(record), record.reset[-1]
    start = f"{label}: {first} with nothing reset, {own} pre-trained;"
    if count is None:
        return f"{start} with all {blocks} blocks reset it is {last}, still not within 10%"
    if count == 0:
        return f"{start} that is within 10%"
    return f"{start} within 10% once the top {count} of {blocks} blocks are reset"


def draw_perplexities(records: Sequence[Perplexity], labels: Sequence[str], failed: Sequence[bool], path: Path) -> None:
    """Writes the figure: failed and successful runs side by side, as M has them, on one scale."""
    panels = []
    for kind, title in ((True, "failed run"), (False, "successful run")):
        few = [i for i, one in enumerate(failed) if one == kind]
        if few:
            panels.append(
                perplexity_panel([records[i] for i in few], [labels[i] for i in few], title + "s" * (len(few) > 1))
            )
    values = [value for panel in panels for curve in panel.curves for value in curve.y if math.isfinite(value)]
    values += [line.value for panel in panels for line in panel.horizontal]
    ylog = any(panel.ylog for panel in panels) or max(values) > WIDE * min(values)
    room = 1.3 if ylog else 1.05
    bottom, top = (min(values) / room if ylog else 0.0), max(values) * room
    scaled: list[Panel] = [replace(panel, ylog=ylog, bottom=bottom, top=top) for panel in panels]
    first = records[0]
    caption = f"{first.text}: {first.masked:,} masked tokens, masks of seed {first.seed}; {first.checkpoint} weights"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, file_bytes(draw(scaled, caption), "png"))


def _number(perplexity: float) -> str:
    return f"{perplexity:.2e}" if 1e6 <= perplexity < math.inf else f"{perplexity:,.2f}"

"""Reports of made-up records whose numbers can be checked by hand."""

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from support.table_records import make_record

from stableft.records.frame import build_frame
from stableft.records.probe_record import ProbeRecord, ProbeRecordRef, ProbeRecords, SurfaceRecord
from stableft.records.run_record import write_records_file
from stableft.report.forms.document import FOR_READERS
from stableft.report.forms.write import render_report
from stableft.report.mosbach import MOSBACH_ARTIFACTS
from stableft.report.paper_values import PAPERS, find_published_in_table, load_published_values
from stableft.report.runs import group_runs_by_arm_task, load_runs_from_file
from stableft.report.stability_report import build_stability_report
from stableft.report.stability_results import assemble_stability

NAN = math.nan
TABLE1 = MOSBACH_ARTIFACTS["mosbach-table1"]
WIDE = [0.52, 0.80, 0.51, 0.79, 0.52, 0.78, 0.53, 0.80, 0.51, 0.79]
NARROW = [0.70, 0.71, 0.70, 0.72, 0.71, 0.70, 0.71, 0.69, 0.70, 0.71]


def make_runs(arm, scores, *, crashed=0, first_seed=1, **config):
    """Records of one arm, told apart from the other arms' by a learning rate made from its name."""
    lr = 1e-5 + sum(map(ord, arm)) * 1e-8
    scores = [*scores, *[None] * crashed]
    return [
        make_record(
            **{"arm": arm, "recipe": arm, "lr": lr, "seed": seed, **config},
            **({"status": "crashed"} if score is None else {"last": score}),
        )
        for seed, score in enumerate(scores, first_seed)
    ]


def printed_in_table1():
    """What M Table 1 prints for each of its arms and tasks."""
    values, table = load_published_values(), (PAPERS["M"], "Table 1")
    places = {(value.arm, value.task) for value in values if (value.paper, value.location) == table}
    return {place: find_published_in_table(values, *table, *place) for place in places}


def make_report(*runs, artifact=TABLE1, published=None, deviations=None, planned=None):
    records = [record for arm in runs for record in arm]
    published = printed_in_table1() if published is None else published
    planned = planned or {}
    groups = group_runs_by_arm_task(build_frame(records), planned)
    return assemble_stability(groups, artifact, artifact.parts[0], published, deviations or {}, planned)


def render(table, form="md"):
    return render_report(build_stability_report(table), form)


def as_json(table):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(render(table, "json"), parse_constant=refuse)


def find_cell(values, arm, task="rte"):
    """The row of an arm on a task in a report's JSON."""
    return next(row for row in values["cells"] if (row["kind"], row["arm"], row["task"]) == ("arm", arm, task))


def published_rows(values, arm, kind="published", task="rte"):
    return [row for row in values["cells"] if (row["kind"], row["arm"], row["task"]) == (kind, arm, task)]


def find_tests(values, question):
    return [row for row in values["tests"] if row["question"] == question]


def values_of(report):
    """A report's JSON before numbers are rounded."""
    tables = {
        name: [
            {"kind": row.kind} | {key: value.data for key, value in row.values.items()}
            for row in table.rows
            if row.kind != FOR_READERS
        ]
        for name, table in report.data.items()
    }
    return _as_json_reads({"report": report.id, "title": report.title, **tables, **report.facts})


def _as_json_reads(value):
    if isinstance(value, Mapping):
        return {key: _as_json_reads(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json_reads(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


EFFECTS = ("difference_published_welch", "sd_ratio_published", "sd_ratio_published_f")


def mean_cells(values):
    """The cells of a report of means by row and column, with what is published, and the p-values."""
    cells = {(row["row"], row["column"]): dict(row) for row in values["cells"] if row["kind"] == "arm"}
    for row in values["cells"]:
        cell = cells[row["row"], row["column"]]
        if row["kind"] == "published":
            cell["published"] = row
        elif row["kind"] == "difference":
            cell["difference"], cell["p_published"] = row["mean"], row["p_published"]
            cell["effects"] = {key: row.get(key) for key in EFFECTS}
    for test in values["tests"]:
        if test["question"] == "the table's rule":
            cells[test["row"], test["column"]]["p"] = test["p"]
    assert len(cells) == sum(row["kind"] == "arm" for row in values["cells"])
    return cells


def runs_of_records(records):
    """The runs of a report on a file with these records."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.jsonl"
        write_records_file(file, records)
        return load_runs_from_file(file)


def wrap_probe_records(records: Iterable[ProbeRecord]) -> ProbeRecords:
    """Return records that are already in memory."""

    def run_ids(record: ProbeRecord) -> tuple[str, ...]:
        return (record.failed, record.successful) if isinstance(record, SurfaceRecord) else (record.run_id,)

    return ProbeRecords(tuple(ProbeRecordRef(type(record), run_ids(record), lambda r=record: r) for record in records))


def repeated_sentences(text):
    """The clauses of at least six words that a Markdown, LaTeX or text report has more than once, without headings.

    What is before the last colon of a clause, such as names of arms, does not make two clauses different.
    """
    no_prose = re.compile(r"\||#|.*\\\\$| *- .*  |.*: .*checkpoint")  # rows of tables and headings
    prose = "\n".join("@" if no_prose.match(line) else line for line in text.splitlines())
    prose = re.sub(r"\\par\\smallskip\\raggedright\\footnotesize|\\caption\{|\n\n|^- ", "@", prose, flags=re.MULTILINE)
    clauses = (
        " ".join(part.split()).rpartition(": ")[2].strip(" .;:})") for part in re.split(r"[.;]\s|[.;]$|@", prose)
    )
    counts = Counter(clause for clause in clauses if len(clause.split()) >= 6)
    return [clause for clause, n in counts.items() if n > 1]

"""Digests of what a change of structure must not change, and losses of short runs as text.

`python tests/support/unchanged.py` prints which digest differs from tests/golden/digests.json; `--write` replaces the
file, `--losses` also trains the two short runs and writes their losses. A commit that changes an expected value says
why.
"""

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from matplotlib.figure import Figure
from support.artifact_records import load_paper_sweep
from support.artifact_records import report as made_up_report
from support.paths import GLUE, GOLDEN, ROOT

from stableft.config.planned_run import Execution, LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError
from stableft.records.run_record import run_folder
from stableft.report.all_reports import build_all_reports
from stableft.report.build import build_report
from stableft.report.compare_arms import build_comparison_report
from stableft.report.forms.document import Report
from stableft.report.forms.write import render_report
from stableft.report.power import describe_power
from stableft.report.runs import ARTIFACTS, load_runs_from_file

DIGESTS = GOLDEN / "digests.json"
LOSSES = {arm: GOLDEN / f"losses-{arm}.txt" for arm in ("devlin", "mosbach")}
STEPS = 12
PICTURE = re.compile(rb"data:image/[^\"']+|<svg.*?</svg>", re.DOTALL)  # differs with the version of matplotlib


def write_no_picture(figure, out, **options) -> None:
    """Stands for Figure.savefig: pictures are no part of any digest."""
    out.write(b'<svg viewBox="0 0 1 1"></svg>')


def lay_out_nothing(report: Report, name: str | None = None, width: float | None = None) -> Figure:
    """Stands for Report.draw: test_shipped.py and test_artifacts.py lay every figure out."""
    return Figure()


def digest(data: bytes) -> str:
    """Returns the first 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def planned_runs() -> dict[str, str]:
    """Returns, for all shipped sweeps together, how many runs they plan, and a digest of their ids and configs."""
    lines = [
        f"{name} {run.arm} {run.run_id} {run.report} {run.config.model_dump_json()}"
        for name in sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
        if "/recipes/" not in name and "/pretrain/" not in name
        for run in load_paper_sweep(name.removeprefix("configs/")).runs
    ]
    return {"planned runs": str(len(lines)), "planned runs' ids and configs": digest("\n".join(lines).encode())}


@mock.patch("matplotlib.figure.Figure.savefig", write_no_picture)
def reports() -> dict[str, str]:
    """Returns digests of what the committed records give: reports, comparisons, power; of HTML without its pictures."""
    found: dict[str, str] = {}
    for path in sorted(Path("results/records").glob("*.jsonl")):
        report = build_report(load_runs_from_file(path))
        report.svg_cache.update(
            dict.fromkeys(report.figures, b'<svg viewBox="0 0 1 1"></svg>')
        )  # test_shipped.py lays them out
        for form in ("md", "csv", "latex", "json", "html"):
            found[f"{path.stem} {form}"] = digest(PICTURE.sub(b"", render_report(report, form).encode()))
    demo = Path("results/records/demo.jsonl")
    for arms in (("devlin", "mosbach"), ("zhang-reinit", "devlin-corrected")):
        compared = build_comparison_report(*arms, Path("nowhere"), [demo])
        for form in ("md", "csv", "latex", "json"):
            found[f"compare {' '.join(arms)} {form}"] = digest(render_report(compared, form).encode())
    found["power of values"] = digest(describe_power(2.0, 3.0, [], "", None, 0.05, 0.8, "median", 0).encode())
    found["power of runs"] = digest(
        describe_power(None, None, [demo], "devlin,mosbach", None, 0.05, 0.8, "median", 0).encode()
    )
    return found


@mock.patch("matplotlib.figure.Figure.savefig", write_no_picture)
@mock.patch("stableft.report.forms.document.Report.draw", lay_out_nothing)
def artefacts() -> dict[str, str]:
    """Returns digests of every text file that `report all` writes from the committed records and the test's GLUE."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        with mock.patch("stableft.report.all_reports.load_sweep", lambda path, *_: load_paper_sweep(path)):
            lines = list(build_all_reports(Path("results"), [], GLUE, "recipe", out))
        texts = [path for path in sorted(out.rglob("*")) if path.suffix in (".md", ".csv", ".tex", ".json", ".html")]
        found = {
            f"all {path.relative_to(out)}": digest(PICTURE.sub(b"", path.read_bytes()))
            for path in texts
            if path.parent.name not in {file.stem for file in Path("results/records").glob("*.jsonl")}
        }
        return {**found, "all, lines printed": digest("\n".join(lines).replace(name, "OUT").encode())}


def papers() -> dict[str, str]:
    """Returns digests of every artefact of the papers, made of made-up records of all settings; one an artefact."""
    names = [name for name in ARTIFACTS if name not in ("mosbach-table2", "zhang-table3")]  # those need the data sets
    texts = {
        name: "".join(render_report(made_up_report(name), form) for form in ("md", "csv", "latex", "json"))
        for name in names
    }
    return {f"paper {name}": digest(text.encode()) for name, text in texts.items()}


def losses(arm: str) -> Iterator[str]:
    """Yields the evaluations of a run of the demo cut to 12 steps, one line each, on one thread of the CPU.

    On padded rows, as the authors' code computes them, and with the settings that the demo had when they were compared.
    """
    from stableft.training.run import train

    sets = [f"schedule.length={{steps: {STEPS}}}", "execution=padded", "data.train_rows=400", "optimizer.lr=1.13e-3"]
    sets.append("evaluation.every.times=5")
    sweep = load_sweep("configs/demo.yaml", LocalPaths(), sets, [arm], "26")
    out = Path(tempfile.mkdtemp())
    try:
        record = train(sweep.runs[0], out, sweep.sources, Execution(threads=1))
        yield record.run_id
        yield from (run_folder(out, record.run_id) / "history.jsonl").read_text().splitlines()
    finally:
        shutil.rmtree(out)


def all_digests() -> dict[str, str]:
    """Returns every digest under the name of what it is of; the working folder must be the project's root."""
    return {**planned_runs(), **reports(), **artefacts(), **papers()}


def main() -> None:
    """Prints what differs from the expected digests.

    --write makes the present digests the expected ones, and --losses this machine's losses; tests compare those.
    """
    found = all_digests()
    expected = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            print(f"{name}: {expected.get(name)} -> {found.get(name)}")
    print(f"{len(found)} digests, {sum(expected.get(name) == value for name, value in found.items())} as expected")
    if "--write" in sys.argv:
        DIGESTS.write_text(json.dumps(found, indent=1) + "\n")
    if "--losses" in sys.argv:
        for arm, path in LOSSES.items():
            path.write_text("\n".join(losses(arm)) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))

"""The command line: what is printed, the exit code, and that a mistake leaves nothing behind."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import make_scored_record
from support.paths import GLUE
from support.sweep_records import make_run, save_record
from typer.main import get_command

from stableft.cli.app import app
from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.records.run_record import read_records_file

pytestmark = pytest.mark.usefixtures("workplace", "warm_workers")
COMMAND = [sys.executable, "-W", "error", "-c", "from stableft.cli.app import main; main()"]


@pytest.fixture
def sweep_file(workplace, tiny_model_folder) -> Path:
    text = f"model: {tiny_model_folder}\ntask: rte\nseeds: 1-2\nset: {{data.max_length: 32}}\n"
    path = workplace / "s.yaml"
    path.write_text(text + "arms: [{recipe: devlin}, {recipe: mosbach}]\n")
    return path


def one_sentence(text: str) -> str:
    assert text.startswith("stableft: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text.removeprefix("stableft: ").rstrip("\n")


# --- what works ---


def test_help_names_every_command(stableft):
    code, out, _ = stableft("--help")
    assert code == 0
    assert {"sweep", "train", "status", "show", "list", "export", "report", "data"} <= set(re.findall(r"\w+", out))


def find_commands(command, names=()):
    """Yield the words of every command and group."""
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from find_commands(inner, (*names, name))


def test_no_help_text_is_cut_short(stableft, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    commands = list(find_commands(get_command(app)))
    assert ("probe", "surface") in commands
    for names in commands:
        code, out, _ = stableft(*names, "--help")
        assert code == 0
        lines = [line for line in out.splitlines() if not line.startswith("Usage:")]
        assert [line for line in lines if len(line) > 80 or re.search(r"\w…|\w\.\.\.$", line)] == []
        listed = out.partition("Commands:\n")[2].splitlines()
        assert [line for line in listed if not line.endswith(".")] == []


@pytest.mark.parametrize("what", ["tasks", "backbones", "recipes", "sweeps", "artifacts"])
def test_list(papers_sweeps, stableft, what):
    code, out, err = stableft("list", what)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 1


def test_show_and_its_choices(stableft):
    assert stableft("show", "rte")[1].splitlines()[-1] == "50 runs"
    assert stableft("show", "rte", "--seeds", "1-3", "--arms", "mosbach")[1].splitlines()[-1] == "3 runs"
    code, out, _ = stableft("show", "rte", "--seeds", "1", "--set", "task=cola", "--format", "json")
    assert code == 0
    assert out.count('"task": "cola"') == 2


def test_status_writes_nothing(stableft, sweep_file, workplace):
    code, out, _ = stableft("status", sweep_file)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["devlin", "rte"], ["mosbach", "rte"]]
    assert list(workplace.iterdir()) == [sweep_file]


def test_status_and_show_print_no_character_that_acts_on_a_terminal(stableft, sweep_file, tiny_model_folder, workplace):
    (run, *_) = load_sweep(sweep_file, LocalPaths()).runs
    record = make_scored_record(run, 0.7)
    save_record(Path("results"), record.model_copy(update={"arm": "theirs\x1b[31m\u202e"}))
    folder = workplace / "tiny\x1b[31m\u202e"
    shutil.copytree(tiny_model_folder, folder)
    for arguments, name in (
        (("status",), "theirs[31m"),
        (("show", sweep_file, "--set", f"model={json.dumps(str(folder))}"), "tiny[31m"),
    ):
        code, out, err = stableft(*arguments)
        assert (code, err) == (0, "")
        assert name in out
        assert not {"\x1b", "\u202e"} & set(out)


def test_a_finished_sweep_ends_in_its_table(stableft, sweep_file, monkeypatch):
    runs = load_sweep(sweep_file, LocalPaths()).runs
    monkeypatch.setattr("stableft.sweep.preflight.rows_fingerprint", lambda parts: "f" * 64)
    for run, score in zip(runs, (0.5, 0.6, 0.7, 0.71), strict=True):
        save_record(Path("results"), make_scored_record(run, score))
    code, out, err = stableft("sweep", sweep_file, "--data-dir", GLUE, "--devices", "cpu")
    assert (code, err) == (0, "")
    assert re.search("Ended: 4 of 4 runs done, 1 .*failed", out)
    assert re.search(r"^RTE: .*; against devlin$", out, re.MULTILINE)
    assert re.search(r"^devlin +1/2 .* reference$", out, re.MULTILINE)
    assert re.search(r"^mosbach +0/2 ", out, re.MULTILINE)
    assert "In words: 1 of 2 runs of devlin fails, none of mosbach" in " ".join(out.split())
    drawn = ", ".join(f"results/sweeps/s/{name}.png" for name in ("scores", "best-of-n", "effects"))
    assert out.splitlines()[-1].startswith(f"figures: {drawn}, no training-loss.png: no record has")
    assert "f" * 64 not in out
    written = {path.name: path.read_text() for path in Path("results/sweeps/s").glob("report.*")}
    assert sorted(written) == ["report.csv", "report.html", "report.json", "report.md", "report.tex"]
    assert "## Tests" in written["report.md"]


def test_other_data_than_that_of_finished_runs_is_refused(stableft, sweep_file):
    run = load_sweep(sweep_file, LocalPaths()).runs[0]
    save_record(Path("results"), make_scored_record(run))
    code, _, err = stableft("sweep", sweep_file, "--data-dir", GLUE, "--devices", "cpu")
    assert code == 2
    told = one_sentence(err)
    assert re.match(rf"run {run.run_id} .*'rte' .*other data.* f{{64}},.* [0-9a-f]{{64}}\b", told)


def test_a_crashed_run_is_kept_and_gives_exit_code_1(stableft, sweep_file):
    for run in load_sweep(sweep_file, LocalPaths(), arms=["devlin"]).runs:
        save_record(Path("results"), make_scored_record(run, status="crashed"))
    code, out, _ = stableft("sweep", sweep_file, "--arms", "devlin", "--data-dir", GLUE, "--devices", "cpu")
    assert code == 1
    assert re.search("2 crashed; --retry-crashed", out)
    assert not Path("results/sweeps").exists()


def test_export_converts_a_file_of_records(stableft, workplace):
    save_record(Path("results"), make_scored_record(make_run(1)))
    (line,) = Path("results/runs").glob("*/record.json")
    Path("all.jsonl").write_bytes(line.read_bytes())
    assert stableft("export", "all.jsonl", "--out", "new.jsonl")[:2] == (0, "wrote 1 records to new.jsonl\n")
    assert Path("new.jsonl").read_bytes() == line.read_bytes()
    code, _, said = stableft("export", "all.jsonl", "--out", "new.jsonl", "--arms", "a")
    assert (code, "all.jsonl is a file of records" in said) == (2, True)
    line.write_text(line.read_text().replace('"schema":2', '"schema":3'))
    code, _, said = stableft("status", "--results", "results")
    assert (code, "has schema 3, but this version" in said) == (2, True)


def test_export_and_report_from_the_file(stableft, sweep_file, workplace):
    for run in load_sweep(sweep_file, LocalPaths()).runs:
        save_record(Path("results"), make_scored_record(run, 0.6 + run.config.seeds.init / 100))
    code, out, _ = stableft("export", sweep_file, "--out", "all.jsonl")
    assert (code, out) == (0, "wrote 4 records of 4 runs to all.jsonl\n")
    assert len(list(read_records_file(workplace / "all.jsonl"))) == 4
    for form in ("md", "csv", "latex", "json"):
        printed = stableft("report", sweep_file, "--records", "all.jsonl", "--format", form)
        written = stableft("report", sweep_file, "--records", "all.jsonl", "--format", form, "--out", "out")
        assert printed[0] == written[0] == 0
        assert (workplace / "out").read_text() == printed[1].rstrip("\n") + "\n"


# --- mistakes: one sentence, exit code 2, nothing written ---


def test_a_sweep_that_is_too_large_is_refused_at_once_and_without_torch(workplace):
    (workplace / "s.yaml").write_text(
        "{recipe: zhang, task: rte, seeds: 0-9999, grid: {"
        + ", ".join(f"optimizer.{key}: [{', '.join(f'{i}e-9' for i in range(1, 1001))}]" for key in ("lr", "eps"))
        + "}}"
    )
    program = (
        "import sys; from stableft.cli.app import main\n"
        "try: main()\n"  # VmHWM, because ru_maxrss counts the memory of the process that started this one
        "finally: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "sweep", "s.yaml"], capture_output=True, text=True, timeout=30
    )
    kilobytes, torch_is_loaded = done.stdout.split()
    assert (done.returncode, torch_is_loaded) == (2, "False")
    assert "1,000,000 grid points" in one_sentence(done.stderr)
    assert int(kilobytes) < 300_000


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["sweep", "nofile.yaml"], r"nofile\.yaml: there is no such sweep file$"),
        (["sweep", "mrcp.yaml"], r"mrcp\.yaml: .*no such sweep file.*'configs/mrpc\.yaml'"),
        (["sweep", "mrcp"], r"mrcp: .*no such sweep file.*'mrpc'"),
        (["show", "configs/rt.yaml"], r"configs/rt\.yaml: .*no such sweep file.*'configs/rte\.yaml'"),
        (["show", "rte", "--set", "lr=1.0"], r"--set: key 'lr' .*not known.*'optimizer\.lr'"),
        (["show", "rte", "--set", "optimizer.lr=.nan"], r"--set optimizer\.lr:1: \.nan is ambiguous"),
        (["show", "rte", "--arms", "mosbch"], "no arm 'mosbch'.*'mosbach'"),
        (["show", "rte", "--seeds", "2-1"], "--seeds: seeds: '2-1' runs backwards"),
        (["status"], "--results results: .*folder contains no runs"),
        (["status", "rte", "--results", "/dev/null"], "--results /dev/null: /dev/null .*file, not .*folder"),
        (["sweep", "rte", "--results", "/dev/null/x"], "--results /dev/null/x: /dev/null .*file, not .*folder"),
        (["report", "mosbach-tabel1"], "unknown artifact 'mosbach-tabel1'.*'mosbach-table1'"),
        (["report", "rte", "--records", "nope.jsonl"], r"nope\.jsonl: .*no such records file"),
        (["report", "rte", "--out", "nope/x.md"], r"--out nope/x\.md: .*no folder nope"),
        (
            ["report", "rte", "--out", "report"],
            r"--out report: .*ending .*one .*\.md, \.csv, \.tex, \.json,",
        ),
        (["report", "rte", "--figure", "scores"], "--figure scores .*--out .*file"),
        (["report", "rte", "--format", "md", "--out", "x.png"], r"--format md .*form .*table; --out x\.png"),
        (["report", "rte", "--format", "md", "--out", "x/"], "--format md .*file; --out x/ .*folder"),
        (["report", "rte", "--out", "x.png"], "no run .*score"),
        (["export", "rte", "--out", "x.jsonl"], "results .*no records .* 50 runs"),
        (["data", "fetch", "rtee"], "task 'rtee' .*not known.*'rte'"),
        (["data", "stats", "--data-dir", "nope"], "--data-dir nope"),
        (["show", ""], "^CONFIG is empty: give a value$"),
        (["show", "rte", "--arms", ""], "^--arms is empty: give a value or leave it out$"),
        (["show", "rte", "--arms", " "], "^--arms is empty"),
        (["show", "rte", "--arms", ","], "^--arms ,: a name is empty"),
        (["show", "rte", "--arms", "devlin,"], "^--arms devlin,: a name is empty"),
        (["show", "rte", "--seeds", ""], "^--seeds is empty"),
        (["show", "rte", "--set", ""], "^--set is empty"),
        (["sweep", "rte", "--results", ""], "^--results is empty"),
        (["sweep", "rte", "--data-dir", " "], "^--data-dir is empty"),
        (["sweep", "rte", "--devices", ""], "^--devices is empty"),
        (["report", "rte", "--records", "x", "--records", ""], "^--records is empty"),
        (["report", "rte", "--out", ""], "^--out is empty"),
        (["compare", "a", ""], r"^\[ARM_B\] is empty"),
        (["data", "fetch", "rte", ""], r"^\[TASK\.\.\.\] is empty"),
        (
            ["import", "csv", "x", "--task", "", "--arm", "a", "--seed", "s", "--score", "d", "--out", "o"],
            "^--task is em",
        ),
        (["probe", "points", "--csv", ""], "^--csv is empty"),
        (["train", "mosbch", "--task", "rte", "--seed", "1"], "recipe 'mosbch' .*not known.*'mosbach'"),
        (["train", "mosbach", "--task", "rtee", "--seed", "1"], "task 'rtee' .*not known.*'rte'"),
    ],
)
def test_mistakes(stableft, workplace, arguments, facts):
    code, out, err = stableft(*arguments)
    assert (code, out) == (2, "")
    assert re.search(facts, one_sentence(err))
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["sweep"],
        ["list", "task"],
        ["show", "rte", "--format", "xml"],
        ["train", "mosbach", "--task", "rte", "--seed", "-1"],
        ["train", "mosbach", "--task", "rte"],
        ["sweep", "rte", "--checkpoint-every", "0"],
        ["sweep", "rte", "--save", "everything"],
    ],
)
def test_options_that_are_none(stableft, workplace, arguments):
    code, _, err = stableft(*arguments)
    assert code == 2
    assert "Error: " in err
    assert "Traceback" not in err
    assert list(workplace.iterdir()) == []


OWN = "first,second,y\n" + "".join(f"a{i},b{i},{'no' if i % 2 else 'yes'}\n" for i in range(8))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", r"/train\.csv: .*file .*empty"),
        ("first,second,y\n", r"/train\.csv: .*header and no rows"),
        (
            OWN.replace("second", "secnd"),
            r"/train\.csv:1: .*no column 'second' .*header.*'secnd'",
        ),
        (OWN + "a,b\n", r"/train\.csv:10 has 2 fields .* 3 columns"),
        (OWN + "a,b,yess\n", r"/train\.csv:10: label 'yess' .*not one .*no, yes.*'yes'"),
        (OWN + '"a,b,yes\n', r"/train\.csv:10 cannot .* as a row: "),
        (OWN + "a,b\xff,yes\n", r"/train\.csv:10: .*not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["train", "dry run"])
def test_data_that_cannot_be_used(stableft, workplace, tiny_model_folder, text, facts, dry):
    (workplace / "train.csv").write_bytes(text.encode("latin-1"))
    (workplace / "dev.csv").write_text(OWN)
    task = (
        "{name: mine, train: train.csv, validation: dev.csv, text: [first, second], label: y, labels: ['no', 'yes'], "
    )
    head = f"model: {tiny_model_folder}\nrecipe: devlin\nset: {{data.max_length: 32}}\nseeds: 1\n"
    (workplace / "s.yaml").write_text(head + f"task: {task}metric: accuracy}}\n")
    code, out, err = stableft("sweep", "s.yaml", "--devices", "cpu", *dry)
    assert code == 2
    assert re.fullmatch("checking the inputs, then measuring .*\n" if dry else "", out)
    assert re.match(re.escape(str(workplace)) + facts, one_sentence(err))
    assert sorted(path.name for path in workplace.iterdir()) == ["dev.csv", "s.yaml", "train.csv"]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--data-dir", "nope"], "--data-dir nope: .*no such folder"),
        (["--data-dir", "."], r"train file .*RTE .*missing: .*no RTE/train\.tsv"),
        (["--set", "model=nobody/nothing"], "hub cannot .*reached .*no cached copy"),
        (["--set", "model=./nope"], r"--set: model: '\./nope' .*not .*folder"),
        (["--set", "data.max_length=128"], r"data\.max_length: 128 .*more .* 64 positions .*model"),
        (["--set", "reinit.blocks=9"], r"reinit\.blocks: 9 .*more .* 2 blocks .*BERT model"),
        (["--devices", "gpu"], "--devices 'gpu' .*auto, cpu.*GPU numbers .* 0,1"),
    ],
)
def test_a_sweep_that_cannot_run(stableft, workplace, sweep_file, arguments, facts):
    code, out, err = stableft("sweep", sweep_file, "--data-dir", GLUE, "--devices", "cpu", *arguments)
    assert (code, out) == (2, "")
    assert re.search(facts, one_sentence(err))
    assert list(workplace.iterdir()) == [sweep_file]


def test_a_gpu_that_is_not_there(stableft, workplace, sweep_file, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = stableft("sweep", sweep_file, "--data-dir", GLUE, "--devices", "0")
    assert code == 2
    assert re.match("--devices '0' .*GPU 0.*machine .*none .*torch", one_sentence(err))
    assert list(workplace.iterdir()) == [sweep_file]


# --- real processes ---


def test_a_mistake_in_a_real_process(workplace):
    (workplace / "s.yaml").write_text("task: rte\nseeds: 1\nrecipe: mosbach\nset:\n  optimizer.lr: 0x10\n")
    done = subprocess.run([*COMMAND, "sweep", "s.yaml"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(r"s\.yaml:5: .*0x10.* 16", one_sentence(done.stderr))
    assert [path.name for path in workplace.iterdir()] == ["s.yaml"]


@pytest.mark.parametrize("arguments", [["--help"], ["show", "rte"], ["report", "rte"], ["status", "rte"]])
def test_neither_torch_nor_transformers_is_imported(arguments):
    code = (
        "import atexit, sys\n"
        "heavy = lambda: [name for name in ('torch', 'transformers', 'datasets') if name in sys.modules]\n"
        "atexit.register(lambda: print('imported:', heavy()))\n"
        f"sys.argv = ['stableft', *{arguments!r}]\n"
        "from stableft.cli.app import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"'{sys.executable}' -c 'from stableft.cli.app import main; main()' show mosbach/table1 | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # a worker process loads them
def test_weights_that_do_not_fit_leave_nothing(stableft, workplace, tmp_path, tiny_model_folder):
    """Only loading finds this mistake, in a worker; still nothing is written."""
    model = tmp_path / "odd"
    shutil.copytree(tiny_model_folder, model)
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 3}))
    code, _, err = stableft("sweep", "smoke", "--set", f"model={model}", "--devices", "cpu")
    assert code == 2
    assert "its weights lack" in one_sentence(err)
    assert list(workplace.iterdir()) == []

"""Every command that a README shows runs as it is shown, where a reader would run it."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer
from support.local_hub import make_glue_repository, serve_hub
from support.paths import FILES, GLUE, ROOT
from support.pretraining import write_wikipedia

from stableft.cli.app import app

READMES = ("README.md", "configs/README.md", "results/README.md", "src/stableft/README.md")
SECTION = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| (`stableft .*?) \| ", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)\)")

PLACEHOLDERS = {  # of the tables' commands; the longer names first
    "choose CONFIG": "choose configs/demo-probes.yaml",
    "copy RECIPE FILE": "copy devlin mine.yaml",
    "clean CONFIG": "clean configs/smoke.yaml",
    "track CONFIG --to mlflow": "track configs/rte.yaml --to tensorboard",  # the extra test has no mlflow
    "decide ARM_A ARM_B": "decide devlin mosbach",
    "--records FILE": "--records results/records/demo.jsonl",
    "CONFIG": "configs/rte.yaml",
    "RECIPE": "devlin",
    "--task T": "--task rte",
    "--seed N": "--seed 1",
    "WHAT": "backbones",
    "--out FILE.jsonl": "--out rte.jsonl",
    "--from FILE": "--from results/records/demo.jsonl",
    "A,B": "devlin,mosbach",
}
ADDED = {  # start of a line -> options without which it would take minutes or hours, need a GPU or other files
    "stableft pretrain": "--set schedule.length='{steps: 2}' --set schedule.batch_size=4 --set precision=fp32",
    "stableft probe surface": "--points 5",
    "stableft sweep configs/rte.yaml": "--seeds 1-2",
    "stableft choose": "--records results/records/demo-probes.jsonl",
    "stableft data stats": "--data-dir glue",
    "stableft decide devlin mosbach --plan": "--rule about=failures --rule looks=any --failed 40,0",
    "stableft decide": "--rule about=failures --rule looks=any",
    "scripts/test": "--collect-only -q tests/test_seeds.py",
}
RECORDS = ("results/records/demo.jsonl", "results/records/demo-probes.jsonl")  # those that a shown line names or needs


def shown_lines(text: str) -> list[str]:
    """Return the lines of the bash blocks of a text, continued ones joined, without comments."""
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [line for raw in lines if (line := re.sub(r"(^|\s)#.*", "", raw).strip())]


def table_commands(text: str) -> list[str]:
    """Return the commands that the rows of a text's tables begin with, one for each of several words: `a|b`."""
    commands = []
    for row in ROW.findall(text):
        first, *more = re.findall(r"`([^`]+)`", row.replace("\\|", "|"))
        start = " ".join(first.split()[:2])
        for command in (first, *(f"{start if span.startswith('-') else 'stableft'} {span}" for span in more)):
            choice = next((word for word in command.split() if "|" in word), "")
            commands += [command.replace(choice, word) for word in choice.split("|")] if choice else [command]
    return commands


TEXTS = {name: (ROOT / name).read_text() for name in READMES}
IN_BLOCKS = [line for text in TEXTS.values() for line in shown_lines(text)]


def is_in_a_block(command: str) -> bool:
    """Whether a bash block shows the command of a table, with whatever stands for its placeholders."""
    words = command.split()
    literal = next((i for i, word in enumerate(words) if not re.match("-*[a-z]", word)), len(words))
    return any(line.split()[:literal] == words[:literal] for line in IN_BLOCKS)


def fill_in(command: str) -> str:
    command = command.replace("[", "").replace("]", "")
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    return command


def sections() -> list:
    """Return what each section of a README shows: the lines of its blocks, then what only its tables name."""
    found = []
    for name, text in TEXTS.items():
        for title, section in SECTION.findall(text):
            lines = shown_lines(section)
            lines += [fill_in(command) for command in table_commands(section) if not is_in_a_block(command)]
            long = any(re.search(r"scripts/demo|sweep configs/(demo-probes|rte)", line) for line in lines)
            if lines:
                found.append(pytest.param(lines, id=f"{name}: {title}", marks=[pytest.mark.nightly] if long else []))
    return found


@pytest.fixture
def reader(tmp_path, tiny_family) -> Callable[[str], str]:
    """Return a function that runs a line in a copy of the project with what a reader has, and returns what it prints.

    `data fetch` finds a hub on this machine, with a tiny BERT and made-up rows. All else is without a network.
    """
    home, hub = tmp_path / "project", tmp_path / "hub"
    for name in ("configs", "scripts"):
        shutil.copytree(ROOT / name, home / name)
    (home / "results/records").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", *RECORDS):
        shutil.copy(ROOT / name, home / name)
    (home / "tests").symlink_to(ROOT / "tests")
    make_environment(home)
    shutil.copytree(tiny_family("bert", max_position_embeddings=128), hub / "models" / "bert-large-uncased")
    make_glue_repository(hub / "datasets")
    words = sorted(set((write_wikipedia(home / "FOLDER") / "wiki_00").read_text().split()))
    (home / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    for arm, named in (("debiased", "standard_debiased"), ("plain", "not_debiased")):
        shutil.copytree(FILES / "per-seed" / "zhang-logs" / arm, home / "bert_output" / named)
    shutil.copytree(GLUE / "RTE", home / "glue" / "RTE")
    header, *rows = (FILES / "per-seed" / "results.csv").read_text().splitlines()
    scores = [row for row in rows if ",test_last_log," in row and ",RTE," in row]
    (home / "results.csv").write_text("\n".join([header, *scores]) + "\n")
    shutil.copytree(FILES / "hf-trainer" / "minilm", home / "runs" / "bert")
    runs = [{"seed": seed, "method": arm, "acc": 0.6 + seed / 100} for arm in "ab" for seed in range(3)]
    (home / "runs.jsonl").write_text("".join(f"{json.dumps(run)}\n" for run in runs))
    exported = [f"{run['method']}-seed{run['seed']},finished,{run['acc']}" for run in runs]
    (home / "wandb.csv").write_text("\n".join(["Name,State,eval/accuracy", *exported]) + "\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "PATH": f"{home / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "STABLEFT_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "huggingface"),
    }

    def run(line: str) -> str:
        with serve_hub(hub) if "data fetch" in line else nullcontext() as address:
            network = {"HF_ENDPOINT": address} if address else {"HF_HUB_OFFLINE": "1"}
            done = subprocess.run(
                ["bash", "-c", with_run_ids(line, home)],
                cwd=home,
                env={**environment, **network},
                capture_output=True,
                text=True,
            )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def make_environment(home: Path) -> None:
    """Make a virtual environment that scripts/setup.sh takes for its own, and whose programs are those of the test."""
    programs = home / ".venv" / "bin"
    programs.mkdir(parents=True)
    main = " -c 'from stableft.cli.app import main; main()'"
    for name, arguments in (("python", ""), ("stableft", main), ("pip", " -m pip")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        (programs / name).chmod(0o755)
    made_from = (home / "pyproject.toml").read_bytes() + (home / "constraints.txt").read_bytes()
    for extra in ("base", "test"):
        (home / ".venv" / f"installed-{extra}-{hashlib.sha256(made_from).hexdigest()[:16]}").touch()


def with_run_ids(line: str, home: Path) -> str:
    """Put ids for RUN_ID, any run, and RUN, a failed one where --failed asks for it, else a successful one."""
    if " RUN" not in line:
        return line
    records = [json.loads(path.read_text()) for path in sorted(home.glob("results/runs/*/record.json"))]
    if "RUN_ID" in line:
        return line.replace("RUN_ID", records[0]["run_id"])
    failed = next(record["run_id"] for record in records if record["failed"])
    successful = (record["run_id"] for record in records if not record["failed"])
    line = line.replace("--failed RUN", f"--failed {failed}").replace("RUN ...", "RUN")
    return re.sub(r"\bRUN\b", lambda _: next(successful), line)


@pytest.mark.parametrize("line", [line for line in IN_BLOCKS if line.startswith("stableft ")])
def test_a_shown_command_is_taken(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    context = typer.main.get_command(app).make_context("stableft", words, resilient_parsing=False)
    while hasattr(context.command, "commands"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert command, f"{line}: there is no {name}"
        context = command.make_context(name, rest, parent=context)
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).exists(), word


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lines", sections())
def test_what_a_section_shows_runs(lines, reader):
    for line in lines:
        if line.startswith("pip install"):  # has a test of its own
            continue
        added = next((options for start, options in ADDED.items() if line.startswith(start)), "")
        assert reader(f"{line} {added}".strip()), line


@pytest.mark.slow
def test_the_shown_installation_installs(tmp_path):
    """Without the registry: into a folder, without dependencies, built by what the test extra installs."""
    (line,) = {line for line in IN_BLOCKS if line.startswith("pip install")}
    home, out = tmp_path / "project", tmp_path / "installed"
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", out]
    subprocess.run([sys.executable, "-m", *shlex.split(line), *offline], cwd=home, check=True)
    environment = {**os.environ, "PYTHONPATH": str(out)}

    def output(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert output(sys.executable, "-c", "import stableft; print(stableft.__file__)") == str(
        out / "stableft/__init__.py"
    )
    assert "mosbach/table1" in output(out / "bin" / "stableft", "list", "sweeps")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("lines", [block for text in TEXTS.values() for block in PYTHON.findall(text)])
def test_shown_lines_of_python_run(lines, reader, tmp_path):
    (tmp_path / "project" / "shown.py").write_text(lines)
    reader("python -W error shown.py")
    for name in re.findall(r'savefig\("(.*?)"\)', lines):
        assert (tmp_path / "project" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_shown_command_is_run(reader, tmp_path, tiny_family):
    """With a script of transformers' Trainer that knows no stableft, a BERT of MiniLM's shape and made-up rows."""
    (block,) = (block for block in YAML.findall(TEXTS["configs/README.md"]) if "command:" in block)
    home = tmp_path / "project"
    (home / "theirs.yaml").write_text(block.replace("bert-large-uncased", "tiny"))
    shutil.copy(FILES / "commands" / "run_glue.py", home)
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    shutil.copytree(tiny_family("bert", max_position_embeddings=128, **shape), home / "tiny")
    assert "Ended: 1 of 1 runs done" in reader("stableft sweep theirs.yaml --devices cpu --seeds 1")
    (path,) = home.glob("results/runs/*/record.json")
    record = json.loads(path.read_text())
    score = json.loads((path.parent / "out" / "eval_results.json").read_text())["eval_accuracy"]
    assert record["last"]["val"] == {"accuracy": score}
    assert record["failed"] == (round(score, 3) <= 0.527)
    assert record["config"]["data"]["inputs"].keys() == {"glue/RTE", "run_glue.py"}
    assert "eval_accuracy" in (path.parent / "output.log").read_text()


def test_every_line_of_python_is_shown_as_python():
    blocks = [block for text in TEXTS.values() for block in PYTHON.findall(text)]
    assert sum("savefig" in block for block in blocks) >= 1
    for text in TEXTS.values():
        assert all(block.startswith("```python") for block in FENCED.findall(text) if "import stableft" in block)


def test_every_shown_command_is_in_a_block_of_a_section():
    assert sum(len(param.values[0]) for param in sections()) >= len(IN_BLOCKS) > 10
    for text in TEXTS.values():
        for block in FENCED.findall(text):
            assert block.startswith("```bash") or not re.search(r"^(\$ )?(stableft|scripts/|pip) ", block, re.MULTILINE)


@pytest.mark.parametrize("name", READMES)
def test_links_and_paths_lead_somewhere(name):
    text = (ROOT / name).read_text()
    for link in LINK.findall(text):
        assert ((ROOT / name).parent / link).exists(), link
    for path in re.findall(r"`((?:configs|results|scripts|src|tests)/[\w./-]+)`", text):
        if not re.match(r"results/(runs|sweeps|pretrain|probes)/|configs/README", path):
            assert (ROOT / path).exists(), path


def test_paths_of_the_tour_are_there():
    package = ROOT / "src" / "stableft"
    text = (package / "README.md").read_text()
    paths = re.findall(r"\b((?:[a-z_]+/)+[a-z_]+\.(?:py|yaml))", text)
    assert len(paths) > 10
    for path in paths:
        assert (package / path).exists() or (ROOT / path).exists(), path


def test_names_of_the_tour_are_in_their_files():
    package = ROOT / "src" / "stableft"
    places = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py): ([A-Za-z_, ]+)`", (package / "README.md").read_text())
    assert len(places) > 8
    for path, names in places:
        for name in names.split(", "):
            assert re.search(rf"^(def |class )?{name}\b", (package / path).read_text(), re.MULTILINE), (path, name)


def test_commands_of_tables_and_prose_are_known():
    text = "\n".join((ROOT / name).read_text() for name in READMES)
    named = {words.split("|")[0] for words in re.findall(r"`stableft ([a-z]+)", text)}
    known = typer.main.get_command(app).make_context("stableft", [], resilient_parsing=True).command.commands
    assert len(named) > 10
    assert named <= set(known)


def test_scripts_of_the_readme_are_there():
    scripts = {line.split()[0] for line in IN_BLOCKS if line.startswith("scripts/")}
    assert scripts >= {"scripts/demo", "scripts/test"}
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o100


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120

"""Every command that a README shows is one that the command line takes, and the quick ones run."""

import re
import shlex

import pytest
import typer
from support.paths import ROOT

from stableft.cli.app import app

READMES = ("README.md", "configs/README.md", "results/README.md", "src/stableft/README.md")
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def shown_commands() -> list[str]:
    """Returns the lines of all bash blocks, continued ones joined, without comments."""
    text = "\n".join((ROOT / name).read_text() for name in READMES)
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [line for raw in lines if (line := " ".join(shlex.split(raw, comments=True)))]


COMMANDS = [line for line in shown_commands() if line.startswith("stableft ")]


def test_commands_are_found():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("line", COMMANDS)
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
    scripts = {line.split()[0] for line in shown_commands() if line.startswith("scripts/")}
    assert scripts >= {"scripts/demo", "scripts/test"}
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o100


def test_the_quick_commands_run(papers_sweeps, stableft, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in (
        "list artifacts",
        "list backbones",
        "show configs/rte.yaml --format json",
        "status configs/rte.yaml",
        "report results/records/demo.jsonl",
        "report mosbach-table1 --format latex",
        "compare devlin mosbach --records results/records/demo.jsonl",
        "power --sd 2 --ratio 1.5",
    ):
        code, out, err = stableft(*words.split())
        assert (code, bool(out)) == (0, True), err


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120

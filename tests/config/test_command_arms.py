"""Arms of a sweep file that are commands: their runs and ids, and the sentences about mistakes."""

import hashlib
from pathlib import Path

import pytest

from stableft.config.command_arms import check_inputs_unchanged, named_folders
from stableft.config.command_config import CommandConfig, CommandScore, fill_placeholders
from stableft.config.planned_run import LocalPaths
from stableft.config.run_config import canonical_json
from stableft.config.sweep_file import Sweep, load_sweep
from stableft.errors import UserError

ARM = """\
task: rte
seeds: 1-2
arms:
  - name: theirs
    command: python run.py --seed {seed} --output_dir {out} --file=data.csv
    score: {file: "{out}/eval_results.json", key: eval_accuracy}
    baseline: 0.527
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text("pass\n")
    Path("data.csv").write_text("a,b\n")
    Path("folder/inner").mkdir(parents=True)
    Path("folder/one.txt").write_text("1")
    Path("folder/inner/two.txt").write_text("2")


def load(text: str, **options) -> Sweep:
    Path("s.yaml").write_text(text)
    return load_sweep("s.yaml", LocalPaths(), **options)


def config_of(text: str) -> CommandConfig:
    config = load(text).runs[0].config
    assert isinstance(config, CommandConfig)
    return config


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_command_has_a_run_a_seed_and_hashes_the_files_that_it_names():
    sweep = load(ARM)
    assert [(run.arm, run.recipe, run.report, run.config.seeds.label) for run in sweep.runs] == [
        ("theirs", "theirs", "last", "1"),
        ("theirs", "theirs", "last", "2"),
    ]
    assert len({run.run_id for run in sweep.runs}) == 2
    assert len({run.config.setting_id() for run in sweep.runs}) == 1
    config = config_of(ARM)
    assert config.data.inputs == {"run.py": sha("pass\n"), "data.csv": sha("a,b\n")}
    assert (config.task.name, config.task.metric, config.chance_score) == ("rte", "accuracy", 0.527)
    assert sweep.sources.folder == Path.cwd()


def test_the_id_is_of_what_changes_the_score():
    id_ = config_of(ARM).run_id
    for old, new in (
        ("0.527", "0.5"),
        ("theirs", "ours"),
        ("task: rte", "task: mine"),
        ("key: eval_accuracy", "key: eval_accuracy, better: lower, range: [0.1, 0.9], metric: f1"),
        ("    baseline: 0.527\n", "    timeout: 60\n"),
        ("python run.py", "python  'run.py'"),
    ):
        assert old in ARM
        assert config_of(ARM.replace(old, new)).run_id == id_
    for old, new in (
        ("python", "python3"),
        ("key: eval_accuracy", "key: eval_f1"),
        ("    baseline: 0.527", "    inputs: [folder]"),
        ("0.527", "52.7\n    score: {pattern: '(x)', scale: 100}"),
    ):
        text = ARM.replace(old, new)
        text = (
            text
            if text.count("score:") == 1
            else text.replace('    score: {file: "{out}/eval_results.json", key: eval_accuracy}\n', "")
        )
        assert config_of(text).run_id != id_
    Path("run.py").write_text("pass  # other\n")
    assert config_of(ARM).run_id != id_


def test_inputs_may_be_files_patterns_and_folders():
    config = config_of(ARM + "    inputs: [data.csv, '*.csv', folder, folder/**/*.txt]\n")
    one, two = sha("1"), sha("2")
    of_folder = sha("".join(sorted([f"{one}  one.txt\n", f"{two}  inner/two.txt\n"])))
    assert config.data.inputs == {
        "data.csv": sha("a,b\n"),
        "*.csv": sha(f"{sha('a,b' + chr(10))}  data.csv\n"),
        "folder": of_folder,
        "folder/**/*.txt": sha("".join(sorted([f"{one}  folder/one.txt\n", f"{two}  folder/inner/two.txt\n"]))),
        "run.py": sha("pass\n"),
    }
    Path("folder/inner/two.txt").rename("folder/inner/three.txt")
    assert config_of(ARM + "    inputs: [folder]\n").data.inputs["folder"] != of_folder


SEED_FILES = ARM.replace("--file=data.csv", "--file=data.csv --rows rows_{seed}.csv --more=more_{seed}.csv")


def configs_of(text: str) -> list[CommandConfig]:
    return [run.config for run in load(text).runs if isinstance(run.config, CommandConfig)]


def test_a_file_named_by_the_seed_is_part_of_its_run_alone():
    before = configs_of(SEED_FILES)
    assert [config.data.seed_inputs for config in before] == [{}, {}]
    Path("rows_2.csv").write_text("2")
    Path("more_2.csv").write_text("more")
    Path("1").write_text("no file, but the seed")
    one, two = configs_of(SEED_FILES)
    assert one == before[0]
    assert two.data.seed_inputs == {"rows_2.csv": sha("2"), "more_2.csv": sha("more")}
    assert two.data.inputs == one.data.inputs == {"run.py": sha("pass\n"), "data.csv": sha("a,b\n")}
    assert two.run_id != before[1].run_id
    assert two.setting_id() == one.setting_id()  # they differ in their seed alone
    check_inputs_unchanged(two, Path.cwd())
    Path("rows_2.csv").write_text("other")
    assert configs_of(SEED_FILES)[1].run_id not in (two.run_id, before[1].run_id)
    with pytest.raises(UserError, match=r"rows_2\.csv has changed since the sweep began"):
        check_inputs_unchanged(two, Path.cwd())


def test_ids_without_files_of_a_seed_are_as_they_were():
    written = canonical_json({**configs_of(SEED_FILES)[0].setting(), "seed": 1})
    assert configs_of(SEED_FILES)[0].run_id == hashlib.sha256(written.encode()).hexdigest()[:16]


def test_arms_that_share_a_command_may_begin_with_other_seeds():
    for seed in (1, 2, 3):
        Path(f"rows_{seed}.csv").write_text(str(seed))
    arms = SEED_FILES.partition("arms:\n")[2]
    twin = arms.replace("theirs", "twin") + "    seeds: 2-3\n"
    ids = [run.run_id for run in load(SEED_FILES + twin).runs]
    assert ids[1] == ids[2]
    assert len(set(ids)) == 3


def test_folders_named_by_the_seed_are_told(tmp_path):
    Path("fold_1").mkdir()
    Path("{x}").mkdir()
    (config,) = configs_of(ARM.replace("--file=data.csv", "--fold=fold_{seed} '{{x}}' folder").replace("1-2", "1"))
    assert list(named_folders(config, Path.cwd())) == ["fold_1", "{x}", "folder"]


@pytest.mark.parametrize(
    ("program", "content", "hashed"),
    [
        ("./train.sh", b"#!/bin/sh\n", True),
        ("{here}/train.sh", b"#!/bin/sh\n", True),
        ("{here}/train", b"\x7fELF", True),  # compiled from the project's own code
        ("{here}/../train.sh", b"#!/bin/sh\n", True),
        ("{here}/../python", b"\x7fELF", False),
        ("{here}/train_{{seed}}.sh", b"#!/bin/sh\n", True),
    ],
)
def test_a_program_is_hashed_unless_it_is_an_interpreter(tmp_path, monkeypatch, program, content, hashed):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    program = program.format(here=tmp_path / "project")
    named = program.replace("{seed}", "1")
    Path(named).write_bytes(content)
    config = config_of(f"task: mine\nseeds: 1\ncommand: {program} {{seed}}\nscore: {{pattern: '(x)'}}\n")
    digest = hashlib.sha256(content).hexdigest()
    assert {**config.data.inputs, **config.data.seed_inputs} == ({named: digest} if hashed else {})
    if Path(named).name == "python":
        Path("link").symlink_to(named)  # as an interpreter in a virtual environment of the project is
        config = config_of(f"task: mine\nseeds: 1\ncommand: {Path.cwd()}/link {{seed}}\nscore: {{pattern: '(x)'}}\n")
        assert config.data.inputs == {}


def test_keys_at_the_top_and_a_sweep_of_one_command():
    text = "task: mine\nseeds: 3\ncommand: python run.py {seed}\nscore: {pattern: 'acc (.+)', metric: f1}\n"
    (run,) = load(text).runs
    assert (run.arm, run.config.data.task, run.config.task.metric) == ("command", "mine", "f1")
    assert config_of(text.replace(", metric: f1", "")).task.metric == "score"
    mixed = load(
        "task: rte\nmodel: bert-base-uncased\nset: {precision: fp32}\nseeds: 1-2\nscore: {pattern: 'acc (.+)'}\narms:\n"
        "  - recipe: devlin\n  - {name: theirs, command: 'python run.py {seed}'}\n"
    )
    assert [(point.label, len(point.runs)) for point in mixed.points] == [("devlin", 2), ("theirs", 2)]
    assert {run.config.data.task for run in mixed.runs} == {"rte"}
    own = "task: {name: mine, train: data.csv, validation: data.csv, text: a, label: b, labels: [x, y], metric: f1}\n"
    assert config_of(own + ARM.removeprefix("task: rte\n")).data.task == "mine"


def test_set_reaches_the_recipes_alone():
    mixed = ARM + "  - recipe: devlin\n    model: bert-base-uncased\n"
    sweep = load(mixed, sets=["optimizer.lr=1e-5", "model=bert-large-uncased"], seeds="7")
    assert [(run.arm, run.config.seeds.label) for run in sweep.runs] == [("theirs", "7"), ("devlin", "7")]
    assert sweep.runs[0].config.setting_id() == config_of(ARM).setting_id()
    assert sweep.runs[1].run_config.optimizer.lr == 1e-5
    for option in ("optimizer.lr=1e-5", "model=bert-base-uncased", "probes=null"):
        with pytest.raises(UserError, match="every arm here has a command, which --set does not reach"):
            load(ARM, sets=[option])
    with pytest.raises(UserError, match="--set task: arm 'theirs' has a command, whose task is in its file"):
        load(mixed, sets=["task=mrpc"])


def test_placeholders():
    assert fill_placeholders("a{seed}b{{x}}{out}", {"seed": 3, "out": "/o"}) == "a3b{x}/o"
    assert config_of(ARM.replace("--file", "'{{\"lr\":1}}' --file")).command[6] == '{{"lr":1}}'


def test_score_bounds():
    assert CommandScore(scale=100).bounds == (0, 1)
    assert CommandScore(range=[-1, 1]).bounds == (-1, 1)
    assert CommandScore(scale=100, range=[-50, 50]).bounds == (-0.5, 0.5)


def replaced(old: str, new: str) -> str:
    assert old in ARM
    return ARM.replace(old, new)


COMMAND = "python run.py --seed {seed} --output_dir {out} --file=data.csv"
SCORE = '{file: "{out}/eval_results.json", key: eval_accuracy}'
DECIDE = "{about: [mean, failures], looks: [8], margin: {mean: 1.5, failures: 10}}"
OTHER = "  - {name: ours, command: 'python run.py 2 {seed}', score: {pattern: '(x)', scale: 100}, baseline: 50}\n"
KNOWN = "there are {seed}, {out}, {device}, and {{ and }} for braces"
BAD = [
    (
        replaced("--seed {seed} ", ""),
        "s.yaml:5: command: 'python run.py --output_dir {out} --file=data.csv' has no {seed}, so "
        "all its runs would be the same",
    ),
    (
        replaced("{out} --file", "{output} --file"),
        "s.yaml:5: command: '{output}' is no placeholder; did you mean 'out'?; " + KNOWN,
    ),
    (
        replaced("{seed} --out", "{seed:02d} --out"),
        "s.yaml:5: command: '{seed:02d}' is no placeholder; did you mean 'seed'?; " + KNOWN,
    ),
    (replaced("{seed} --out", "{} --out"), "s.yaml:5: command: '{}' is no placeholder; " + KNOWN),
    (
        replaced("{seed} --out", "{seed --out"),
        "s.yaml:5: command: '{seed' has a single brace; write {{ and }} for braces",
    ),
    (
        replaced("python run.py", "cd x && python run.py"),
        "s.yaml:5: command: no shell runs it, so '&&' would be an argument; put it into a script",
    ),
    (
        replaced("run.py", "'run.py"),
        's.yaml:5: command: "python \'run.py --seed {seed} --output_dir {out} --file=data.csv" '
        "cannot be split into arguments: No closing quotation",
    ),
    (replaced(COMMAND, "''"), "s.yaml:5: command: '' names no program"),
    (
        replaced(COMMAND, "[python, run.py]"),
        "s.yaml:5: command: ['python', 'run.py'] must be text, such as python train.py --seed "
        "{seed} --output_dir {out}",
    ),
    (replaced(f"    score: {SCORE}\n", ""), "s.yaml:4: key 'score' is missing"),
    (
        replaced(SCORE, "{scale: 100}"),
        "s.yaml:6: score: must say where the score is, such as {file: '{out}/eval_results.json', "
        "key: eval_accuracy} or {pattern: 'accuracy: ([0-9.]+)'}",
    ),
    (
        replaced(SCORE, "0.5"),
        "s.yaml:6: score: 0.5 must be a mapping such as {file: '{out}/eval_results.json', key: "
        "eval_accuracy} or {pattern: 'accuracy: ([0-9.]+)'}",
    ),
    (replaced(SCORE, "{fil: x}"), "s.yaml:6: key 'score.fil' is not known; did you mean 'file'?"),
    (
        replaced("{out}/eval_results.json", "eval_results.json"),
        "s.yaml:6: score: file 'eval_results.json' must be below {out}, the folder of its run alone",
    ),
    (
        replaced("{out}/eval_results.json", "{device}/{out}.json"),
        "s.yaml:6: score: file '{device}' is no placeholder; there are {seed}, {out}, and {{ and }} for braces",
    ),
    (
        replaced("results.json", "results.txt"),
        "s.yaml:6: score: file '{out}/eval_results.txt' must end in one of .json, .jsonl, .csv, .tsv",
    ),
    (
        replaced(", key: eval_accuracy", ""),
        "s.yaml:6: score: key is missing, which names the score in '{out}/eval_results.json'",
    ),
    (
        replaced("key:", "column:"),
        "s.yaml:6: score: key is missing, which names the score in '{out}/eval_results.json'",
    ),
    (
        replaced("results.json", "results.csv"),
        "s.yaml:6: score: key 'eval_accuracy' does not go with file '{out}/eval_results.csv'",
    ),
    (replaced("key:", "pattern: '(x)', key:"), "s.yaml:6: score: pattern is for stdout; leave out file, or pattern"),
    (
        replaced(SCORE, "{pattern: 'x'}"),
        "s.yaml:6: score: pattern 'x' must have one group, around the number, and it has 0; (?:...) is none",
    ),
    (
        replaced(SCORE, "{pattern: '(x)(y)'}"),
        "s.yaml:6: score: pattern '(x)(y)' must have one group, around the number, and it has 2; (?:...) is none",
    ),
    (
        replaced(SCORE, "{pattern: '(x'}"),
        "s.yaml:6: score: pattern '(x' is no regular expression: missing ), unterminated subpattern at position 0",
    ),
    (replaced(SCORE, "{pattern: '(x)', key: acc}"), "s.yaml:6: score: key 'acc' does not go with a pattern"),
    (replaced("eval_accuracy}", "a, scale: 10}"), "s.yaml:6: score.scale: 10 must be 1 or 100"),
    (
        replaced("eval_accuracy}", "a, better: bigger}"),
        "s.yaml:6: score.better: 'bigger' must be 'higher' or 'lower'; did you mean 'higher'?",
    ),
    (
        replaced("eval_accuracy}", "a, range: [0, 100]}"),
        "s.yaml:6: score: range [0, 100] must be within -1 and 1, because scale is 1; divide larger scores, such as a "
        "perplexity, by a fixed number in the command",
    ),
    (
        replaced("eval_accuracy}", "a, range: [1, 0]}"),
        "s.yaml:6: score: range [1, 0] must rise: it is the lowest possible score and the highest",
    ),
    (replaced("0.527", "52.7"), "s.yaml:7: baseline 52.7 must be on the score's scale, from 0 to 1; score.scale is 1"),
    (replaced("0.527", "high"), "s.yaml:7: baseline: 'high' must be a number"),
    (
        replaced("{out} --file", "x --file"),
        "s.yaml:5: command has no {out}, so it cannot know of score.file '{out}/eval_results.json'",
    ),
    (
        replaced("seeds: 1-2", "seeds: {init: 1-2, data: 0-1}"),
        "s.yaml:2: seeds: a command has one {seed}, so init and data must be the same",
    ),
    (replaced("seeds: 1-2\n", ""), "s.yaml:1: key 'seeds' is missing"),
    (replaced("task: rte\n", ""), "s.yaml:1: key 'task' is missing; a command's is the name of a column of tables"),
    (
        replaced("task: rte", "task: [rte, mrpc]"),
        "s.yaml:1: task: ['rte', 'mrpc'] must be one name, because a command has one task",
    ),
    (ARM + "    timeout: 0\n", "s.yaml:8: timeout: 0 must be a number of seconds above 0"),
    (ARM + "    inputs: [nothing.csv]\n", "s.yaml:8: inputs: 'nothing.csv' names no file in {here}"),
    (ARM + "    inputs: data.csv\n", "s.yaml:8: inputs: 'data.csv' must be a list"),
    (ARM + "    recipe: devlin\n", "s.yaml:4: command: an arm has a recipe or a command, not both"),
    (
        ARM + "    model: bert-base-uncased\n",
        "s.yaml:4: model: arm 'theirs' has a command, which says itself what it trains, so it takes no model",
    ),
    (
        ARM + "    set: {optimizer.lr: 1e-5}\n",
        "s.yaml:4: set: arm 'theirs' has a command, which says itself what it trains, so it takes no set",
    ),
    (
        ARM + "    grid: {optimizer.lr: [1e-5]}\n",
        "s.yaml:4: grid: arm 'theirs' has a command, which says itself what it trains, so it takes no grid",
    ),
    (
        ARM + "  - {recipe: devlin, baseline: 0.5}\n",
        "s.yaml:8: baseline: arm 'devlin' has no command, so it takes no baseline",
    ),
    (
        ARM + "  - {recipe: devlin, score: {pattern: '(x)'}}\n",
        "s.yaml:8: score: arm 'devlin' has no command, whose score would be read from there",
    ),
    (
        ARM + "  - {recipe: devlin, score: {better: lower}}\n",
        "s.yaml:8: score: {'better': 'lower'} has no effect, because arm 'devlin' has no command; what scores mean to "
        "a claim is said in decide.score",
    ),
    (
        "score: {better: lower}\n" + ARM,
        "s.yaml:1: score: {'better': 'lower'} has no effect, because no arm has a command without a score of its own; "
        "what scores mean to a claim is said in decide.score",
    ),
    (
        "task: rte\nrecipe: devlin\nseeds: 1-2\nscore: {better: lower}\n",
        "s.yaml:4: score: {'better': 'lower'} has no effect, because no arm has a command without a score of its own; "
        "what scores mean to a claim is said in decide.score",
    ),
    (
        "task: rte\nseeds: 1-2\nscore: {pattern: '(x)'}\narms:\n  - recipe: devlin\n  - recipe: mosbach\n",
        "s.yaml:3: score: {'pattern': '(x)'} has no effect, because no arm has a command without a score of its own; "
        "what scores mean to a claim is said in decide.score",
    ),
    (
        f"decide: {DECIDE}\n{ARM}{OTHER}",
        "s.yaml:7: score.scale is missing, and decide.margin.mean is in points, its hundredths: write whether the "
        "scores of arm 'theirs' are fractions (scale: 1) or percent (scale: 100)",
    ),
    (
        ARM + f"  - name: twin\n    command: {COMMAND}\n    score: {SCORE}\n",
        "s.yaml:8: arms 'theirs' and 'twin' are one command, but differ in baseline; give both the same",
    ),
]


def test_a_margin_goes_with_scores_of_a_stated_scale():
    arm = ARM.replace("seeds: 1-2", "seeds: 1-8")
    assert load(f"decide: {DECIDE}\n{arm.replace('eval_accuracy}', 'eval_accuracy, scale: 1}')}{OTHER}").decide
    only_failures = DECIDE.replace("mean: 1.5, ", "")
    assert load(f"decide: {only_failures}\n{arm}{OTHER}").decide
    third = OTHER.replace("ours", "third").replace("py 2", "py 3")
    between = DECIDE.replace("{about", "{between: [ours, third], about")
    assert load(f"decide: {between}\n{arm}{OTHER}{third}").decide  # an arm outside the claim needs none


@pytest.mark.parametrize(("text", "sentence"), BAD)
def test_a_mistake_is_told_in_one_sentence(text, sentence):
    with pytest.raises(UserError) as caught:
        load(text)
    assert str(caught.value) == sentence.replace("{here}", str(Path.cwd()))

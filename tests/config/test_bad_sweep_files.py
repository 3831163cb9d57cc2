"""Bad sweep files and options, and the whole sentence that each of them gets: place, key, value, rule, nearest name."""

from pathlib import Path

import pytest

from stableft.config.planned_run import LocalPaths
from stableft.config.sweep_file import load_sweep
from stableft.errors import UserError

BASE = "task: rte\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: zhang\n"
KEYS = "recipe, task, model, set, grid, seeds, stop_hopeless, probes, command, score, baseline, timeout, inputs"
PRINTED = "must be visible text, with single blanks only between words"
START_FORMS = "{recipe: zhang, task: mnli, seed: 0} or {run: ID, checkpoint: best}"
# Value of a key in line 5 -> the sentence after the place
STOP_HOPELESS = [
    ("0.5", "stop_hopeless: 0.5 must be a mapping such as {after: 0.3, lowest: 0.5}"),
    ("true", "stop_hopeless: True must be a mapping such as {after: 0.3, lowest: 0.5}"),
    ("[0.3, 0.5]", "stop_hopeless: [0.3, 0.5] must be a mapping such as {after: 0.3, lowest: 0.5}"),
    ("{after: 0.3}", "key 'stop_hopeless.lowest' is missing; an example is {after: 0.3, lowest: 0.5}"),
    ("{after: 0.3, lowest: 1}", "stop_hopeless.lowest: 1 must be a share between 0 and 1"),
    ("{after: 0, lowest: 0.5}", "stop_hopeless.after: 0 must be a share between 0 and 1"),
    ("{after: true, lowest: 0.5}", "stop_hopeless.after: True must be a share between 0 and 1"),
    ("{after: 0.3, lowest: 2}", "stop_hopeless.lowest: 2 must be a share between 0 and 1"),
    ("{after: 0.3, lowest: 0.5, x: 1}", "key 'stop_hopeless.x' is not known; known keys: after, lowest"),
    ("{after: 0.3, lowst: 0.5}", "key 'stop_hopeless.lowst' is not known; did you mean 'lowest'?"),
    ("{after: '0.3', lowest: 0.5}", "stop_hopeless.after: '0.3' is text; without the quotes it is a number"),
    ("{after: '3e-1', lowest: 0.5}", "stop_hopeless.after: '3e-1' is text; without the quotes it is a number"),
    ("{after: 3e+1, lowest: 0.5}", "stop_hopeless.after: 30.0 must be a share between 0 and 1"),
    ("{after: .nan, lowest: 0.5}", "stop_hopeless.after: .nan is ambiguous: write '.nan' for text"),
    ("{after: null, lowest: 0.5}", "stop_hopeless.after: None must be a share between 0 and 1"),
    ("{}", "key 'stop_hopeless.after' is missing; an example is {after: 0.3, lowest: 0.5}"),
    ("{after: 0.3, lowest: [0.5]}", "stop_hopeless.lowest: [0.5] must be a share between 0 and 1"),
    ("half", "stop_hopeless: 'half' must be a mapping such as {after: 0.3, lowest: 0.5}"),
]
PROBES = [
    ("3", "probes: 3 must be a mapping such as {grad_norms: {every: 10}, drift: {every: 10}}"),
    ("true", "probes: True must be a mapping such as {grad_norms: {every: 10}, drift: {every: 10}}"),
    ("{zzz: {every: 1}}", "key 'probes.zzz' is not known; known keys: grad_norms, drift"),
    ("{drift: {every: 2.5}}", "probes.drift.every: 2.5 must be a whole number of steps from 1"),
    ("{drift: {every: 2.0}}", "probes.drift.every: 2.0 must be a whole number of steps from 1"),
    ("{drift: {every: null}}", "probes.drift.every: None must be a whole number of steps from 1"),
    ("{drift: {}}", "key 'probes.drift.every' is missing; an example is {every: 10}, in optimizer steps"),
    ("{drift: {every: 1, each: 2}}", "key 'probes.drift.each' is not known; known keys: every"),
    ("{drift: {every: '10'}}", "probes.drift.every: '10' is text; without the quotes it is a number"),
    ("{drift: {every: -1}}", "probes.drift.every: -1 must be a whole number of steps from 1"),
    ("{drift: [1]}", "probes.drift: [1] must be a mapping such as {every: 10}, in optimizer steps"),
    ("{drift: true}", "probes.drift: True must be a mapping such as {every: 10}, in optimizer steps"),
    ("{grad_norms: {every: 10}, drift: {every: x}}", "probes.drift.every: 'x' must be a whole number of steps from 1"),
]
SET = [
    ("[1]", "set: [1] must be a mapping of settings to values"),
    ("text", "set: 'text' must be a mapping of settings to values"),
    ("true", "set: True must be a mapping of settings to values"),
    ("{seeds.init: 1}", "seeds.init cannot be set here; use the sweep key 'seeds'"),
    ("{lr: 1.0}", "key 'lr' is not known; did you mean 'optimizer.lr'?"),
    ("{optimizer.lrs: 1.0}", "key 'optimizer.lrs' is not known; did you mean 'optimizer.lr'?"),
    ("{optimizer: 3}", "optimizer is a section and needs keys, not 3"),
    ("{optimizer: null}", "optimizer is a section and needs keys, not None"),
    ("{optimizer.lr: '1e-5'}", "optimizer.lr: '1e-5' is text; without the quotes it is a number"),
    ("{optimizer.lr: null}", "optimizer.lr: None must be a number"),
    ("{optimizer.lr: -1.0}", "optimizer.lr: -1.0 must be greater than 0"),
    ("{optimizer: {lr: 1.0}, optimizer.lr: 2.0}", "optimizer.lr is set a second time"),
    ("{schedule.length: 3}", "schedule.length: 3 must be a mapping such as {epochs: 3} or {steps: 800}"),
    ("{schedule.length: {epoch: 3}}", "key 'schedule.length.epoch' is not known; did you mean 'epochs'?"),
    ("{model.structure: {blocks: 3}}", "model.structure.blocks: 3 must be a list"),
    ("{data.own: {name: x}}", "data.own cannot be set here; use the sweep key 'task'"),
    ("{precision: fp61}", "precision: 'fp61' must be 'fp32', 'fp16' or 'bf16'; did you mean 'fp16'?"),
    ("{evaluation.every: {times: 1, per_epoch: 1}}", "evaluation.every: give exactly one of times and per_epoch"),
    ("{optimizer.eps_placement: null}", "optimizer.eps_placement must be set when optimizer.bias_correction is true"),
    ("", "set: None must be a mapping of settings to values"),
]
GRID = [
    ("3", "grid: 3 must be a mapping of settings to lists of values"),
    ("text", "grid: 'text' must be a mapping of settings to lists of values"),
    ("{optimizer.lr: []}", "grid.optimizer.lr: [] has too few items"),
    ("{optimizer.lr: null}", "grid.optimizer.lr: None must be a list"),
    ("{optimizer.lr: {a: 1}}", "grid.optimizer.lr: {'a': 1} must be a list"),
    ("{optimizer.lrs: [1.0]}", "key 'optimizer.lrs' is not known; did you mean 'optimizer.lr'?"),
    ("{optimizer.lr: [null]}", "optimizer.lr: None must be a number"),
    ("{model.name: [x]}", "model.name cannot be set here; use the sweep key 'model'"),
    ("{optimizer: [3]}", "optimizer is a section and needs keys, not 3"),
    ("{optimizer: [{lrr: 1}]}", "key 'optimizer.lrr' is not known; did you mean 'optimizer.lr'?"),
    ("{schedule.length: [3]}", "schedule.length: 3 must be a mapping such as {epochs: 3} or {steps: 800}"),
    ("{task: [rte]}", "key 'task' is not known; did you mean 'data.task'?"),
    ("{lr: [1.0]}", "key 'lr' is not known; did you mean 'optimizer.lr'?"),
    ("{optimizer: [{lr: 1.0}], optimizer.lr: [2.0]}", "optimizer.lr is set a second time"),
    ("{schedule: [{length: {epochs: 3}}], schedule.length: [{epochs: 5}]}", "schedule.length is set a second time"),
]
ARMS = [
    ("", "arms: None must be a list of at least one arm"),
    ("{}", "arms: {} must be a list of at least one arm"),
    ("zhang", "arms: 'zhang' must be a list of at least one arm"),
    ("[zhang]", "arms.0: 'zhang' must be a mapping such as {recipe: devlin}"),
    ("[3]", "arms.0: 3 must be a mapping such as {recipe: devlin}"),
    ("[null]", "arms.0: None must be a mapping such as {recipe: devlin}"),
    ("[[]]", "arms.0: [] must be a mapping such as {recipe: devlin}"),
    ("[{name: true}]", "name: True must be text; quotes make it so"),
    ("[{name: ''}]", f"name: '' {PRINTED}"),
    ("[{name: ' '}]", f"name: ' ' {PRINTED}"),
    ("[{name: ' a'}]", f"name: ' a' {PRINTED}"),
    ("[{name: 'a '}]", f"name: 'a ' {PRINTED}"),
    ("[{name: a  b}]", f"name: 'a  b' {PRINTED}"),
    ('[{name: "a\\tb"}]', f"name: 'a\\tb' {PRINTED}"),
    ('[{name: "a\\u200b"}]', f"name: 'a\\u200b' {PRINTED}"),
    ("[{name: ab}, {name: a b}]", "arms 'ab' and 'a b' differ only in blanks; rename one of them"),
    ("[{name: (start)}]", "name: '(start)' is the name of runs that others start from; use another one"),
    ("[{name: [a]}]", "name: ['a'] must be text; quotes make it so"),
    ("[{arms: []}]", f"key 'arms' is not known; known keys: {KEYS}, name"),
    ("[{sed: 1}]", "key 'sed' is not known; did you mean 'seeds'?"),
    ("3", "arms: 3 must be a list of at least one arm"),
]
START_FROM = [
    ("[mnli]", "start_from: ['mnli'] must be a mapping such as " + START_FORMS),
    ("3", "start_from: 3 must be a mapping such as " + START_FORMS),
    (
        "{recipe: zhang, task: mnli}",
        "key 'start_from.seed' is missing; an example is {recipe: zhang, task: mnli, seed: 0}",
    ),
    (
        "{recipe: zhang, seed: 1}",
        "key 'start_from.task' is missing; an example is {recipe: zhang, task: mnli, seed: 0}",
    ),
    ("{task: mnli, seed: 1}", "key 'start_from.recipe' is missing; an example is {recipe: zhang, task: mnli, seed: 0}"),
    ("{}", "key 'start_from.recipe' is missing; an example is {recipe: zhang, task: mnli, seed: 0}"),
    ("{recipe: zhang, task: mnli, seed: 1-5}", "start_from.seed: '1-5' must be one whole number from 0"),
    ("{recipe: zhang, task: mnli, seed: -1}", "start_from.seed: -1 must be one whole number from 0"),
    ("{recipe: zhang, task: mnli, seed: true}", "start_from.seed: True must be one whole number from 0"),
    ("{recipe: zhang, task: mnli, seed: null}", "start_from.seed: None must be one whole number from 0"),
    ("{recipe: zhang, task: mnli, seed: [1]}", "start_from.seed: [1] must be one whole number from 0"),
    ("{recipe: zhang, task: mnli, seed: 1.0}", "start_from.seed: 1.0 must be one whole number from 0"),
    ("{recipe: zhang, task: mnli, seed: 1, sets: {}}", "key 'start_from.sets' is not known; did you mean 'set'?"),
    ("{recipe: zhang, task: mnli, seed: 1, set: 3}", "start_from.set: 3 must be a mapping of settings to values"),
    ("{recipe: zang, task: mnli, seed: 1}", "recipe 'zang' is not known; did you mean 'zhang'?"),
    ("{recipe: 3, task: mnli, seed: 1}", "start_from.recipe: 3 must be the name of one recipe"),
    ("{recipe: null, task: mnli, seed: 1}", "start_from.recipe: None must be the name of one recipe"),
    ("{recipe: [zhang], task: mnli, seed: 1}", "start_from.recipe: ['zhang'] must be the name of one recipe"),
    ("{recipe: zhang, task: mnl, seed: 1}", "task 'mnl' is not known; did you mean 'mnli'?"),
    ("{recipe: zhang, task: 3, seed: 1}", "task '3' is not known; `stableft list tasks` names them all"),
    ("{recipe: zhang, task: null, seed: 1}", "task 'None' is not known; `stableft list tasks` names them all"),
    ("{recipe: zhang, task: [mnli], seed: 1}", "task \"['mnli']\" is not known; did you mean 'mnli'?"),
    ("{recipe: zhang, task: mnli, seed: 1, set: {lr: 1}}", "key 'lr' is not known; did you mean 'optimizer.lr'?"),
    (
        "{recipe: zhang, task: mnli, seed: 1, set: {model.name: x}}",
        "model.name cannot be set here; use the sweep key 'model'",
    ),
    ("{recipe: zhang, task: mnli, seed: 1, set: {optimizer.lr: -1.0}}", "optimizer.lr: -1.0 must be greater than 0"),
    (
        "{recipe: zhang, task: mnli, seed: 1, set: {optimizer.lr: '1'}}",
        "optimizer.lr: '1' is text; without the quotes it is a number",
    ),
    (
        "{run: abc, checkpoint: best}",
        "start_from.run: 'abc' must be a hash in hexadecimal digits, 16 of a run or 64 of a file",
    ),
    ("{run: 0123456789abcdef}", "key 'start_from.checkpoint' is missing; an example is " + START_FORMS),
    (
        "{run: 0123456789abcdef, checkpoint: bst}",
        "start_from.checkpoint: 'bst' must be 'best' or 'last'; did you mean 'best'?",
    ),
    (
        "{run: 0123456789abcdef, checkpoint: best, seed: 1}",
        "key 'start_from.seed' is not known; known keys: run, checkpoint",
    ),
    (
        "{run: 0123456789abcdef, recipe: zhang, task: mnli, seed: 1}",
        "key 'start_from.recipe' is not known; known keys: run, checkpoint",
    ),
    (
        "{recipe: zhang, task: mnli, seed: 1, checkpoint: best}",
        "key 'start_from.checkpoint' is not known; known keys: recipe, task, seed, set",
    ),
    ("{recipe: '', task: mnli, seed: 1}", "recipe '' is not known"),
    ("{recipe: zhang, task: {name: mine}, seed: 1}", "task: key 'train' is missing"),
    (
        "{recipe: zhang, task: mnli, seed: 99999999999999999999}",
        "seeds.init: 99999999999999999999 must be less than 9223372036854775808",
    ),
    ("{recipe: zhang, task: mnli, sed: 1}", "key 'start_from.sed' is not known; did you mean 'seed'?"),
]
# Value of `seeds` in line 3 -> the sentence after the place
SEEDS = [
    ("{init: 1, data: 1, crossed: null}", "seeds.crossed: None must be true or false"),
    ("{init: one, data: 1}", "seeds.init: 'one' must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("{init: 1, data: 3-1}", "seeds.data: '3-1' runs backwards"),
    ("{init: null, data: 1}", "seeds.init: None must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("{}", "key 'seeds.init' is missing; an example is {init: 0-9, data: 0-9, crossed: true}"),
    ("[1, null]", "seeds: [1, None] must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("[1, true]", "seeds: [1, True] must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("[1, 1.5]", "seeds: [1, 1.5] must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("[-1]", "seeds: [-1] must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("99999999999999999999", "seeds: 99999999999999999999 is too large: a seed must be less than 2**63"),
    ("1:30", "seeds: 1:30 is ambiguous: write 1-30 for a range, or '1:30' for text"),
    ("010", "seeds: 010 is ambiguous: write 10 for a number, or '010' for text"),
    ("{init: 1_0, data: 0x10}", "seeds.init: 1_0 is ambiguous: write 10 for a number, or '1_0' for text"),
    ("!!timestamp 3", "!!timestamp is a tag, which configs do not have; write the value alone"),
    ("2001-02-03", "seeds: 2001-02-03 is ambiguous: write '2001-02-03' for text"),
    ("{init: 1, data: {init: 1}}", "seeds.data: {'init': 1} must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("{init: [1, 1], data: 1-2}", "seeds.init: 1 is listed twice in [1, 1]"),
    ("{init: 1, data: 1, crossed: 1}", "seeds.crossed: 1 must be true or false"),
]
# Files with keys on lines of their own -> the whole sentence
FILES = [
    (BASE + "zzzzzz: 1\n", f"s.yaml:5: key 'zzzzzz' is not known; known keys: {KEYS}, decide, arms"),
    (BASE + "Seeds: 1\n", "s.yaml:5: key 'Seeds' is not known; did you mean 'seeds'?"),
    ("task: rte\nseeds: 1\nrecipe:\n", "s.yaml:3: key 'recipe' is missing"),
    ("task: rte\nseeds:\nrecipe: zhang\n", "s.yaml:2: key 'seeds' is missing"),
    ("task:\nseeds: 1\nrecipe: zhang\n", "s.yaml:1: key 'task' is missing"),
    (
        "task: rte\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: [zhang]\n",
        "s.yaml:4: recipe: ['zhang'] must be the name of one recipe",
    ),
    (
        "task: rte\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: ''\n",
        "s.yaml:4: recipe: '' must be the name of one recipe",
    ),
    (
        "task: rte\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: ./zang.yaml\n",
        "s.yaml:4: recipe './zang.yaml' is not known",
    ),
    ("task: rte\nmodel: 3\nseeds: 1-3\nrecipe: zhang\n", "s.yaml:2: model: 3 must be a folder or a hub name"),
    ("task: rte\nmodel: [a, 3]\nseeds: 1-3\nrecipe: zhang\n", "s.yaml:2: model: 3 must be a folder or a hub name"),
    ("task: rte\nmodel: [a, a]\nseeds: 1-3\nrecipe: zhang\n", "s.yaml:2: model: a is listed twice"),
    ("task: rte\nmodel: []\nseeds: 1-3\nrecipe: zhang\n", "s.yaml:2: model: the list is empty"),
    (
        "task: 3\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: zhang\n",
        "s.yaml:1: task '3' is not known; `stableft list tasks` names them all",
    ),
    ("task: {}\nmodel: bert-base-uncased\nseeds: 1-3\nrecipe: zhang\n", "s.yaml:1: task: key 'name' is missing"),
    (
        "seeds: 1\nrecipe: zhang\ntask:\n  - rte\n  - coola\n",
        "s.yaml:5: task 'coola' is not known; did you mean 'cola'?",
    ),
    (
        "seeds: 1\nrecipe: zhang\narms:\n  - task:\n      name: mine\n      trian: x\n",
        "s.yaml:6: task: key 'trian' is not known; did you mean 'train'?",
    ),
    (
        "seeds: 1\nrecipe: zhang\ntask:\n  - rte\n  - name: mine\n    trian: x\n",
        "s.yaml:6: task: key 'trian' is not known; did you mean 'train'?",
    ),
    ("seeds: 1\nrecipe: zhang\ntask:\n  name: mine\n  train: x\n", "s.yaml:3: task: key 'validation' is missing"),
    (
        "recipe: zhang\ntask: rte\nseeds:\n  init: 1\n  data: one\n",
        "s.yaml:5: seeds.data: 'one' must be like 5, 1-25 or 1,2,7, of whole numbers from 0",
    ),
    (
        "recipe: zhang\ntask: rte\nseeds:\n  init: 1\n  data: 1\n  crossed: maybe\n",
        "s.yaml:6: seeds.crossed: 'maybe' must be true or false",
    ),
    (
        "recipe: zhang\ntask: rte\nseeds:\n  init: 1\n  data: 1\n  crosed: true\n",
        "s.yaml:6: key 'seeds.crosed' is not known; did you mean 'crossed'?",
    ),
    (BASE + "arms:\n  - name: a\n    seeds: 3-1\n", "s.yaml:7: seeds: '3-1' runs backwards"),
    (
        BASE + "arms:\n  - name: a\n  - name: b\n    grdi: {}\n",
        "s.yaml:8: key 'grdi' is not known; did you mean 'grid'?",
    ),
    (BASE + "arms:\n- {}\n- {seeds: 2}\n", "s.yaml:7: arm 'zhang' is listed twice for task 'rte'; rename one of them"),
    ("task: rte\nseeds: 1\narms:\n  - name: a\n", "s.yaml:4: key 'recipe' is missing"),
    (
        "task: rte\nseeds: 1\nrecipe: zhang\narms:\n  - name: b\n  - name: a\n    recipe:\n",
        "s.yaml:7: key 'recipe' is missing",
    ),
    ("recipe: zhang\nseeds: 1\narms:\n  - name: a\n", "s.yaml:1: key 'task' is missing"),
    ("recipe: zhang\ntask: rte\narms:\n  - name: a\n", "s.yaml:1: key 'seeds' is missing"),
    (BASE + "arms:\n  - name: a\n    recipe: 3\n", "s.yaml:7: recipe: 3 must be the name of one recipe"),
    (BASE + "arms:\n  - name: a\n    recipe: zang\n", "s.yaml:7: recipe 'zang' is not known; did you mean 'zhang'?"),
    (BASE + "arms:\n  - name: a\n    model: 3\n", "s.yaml:7: model: 3 must be a folder or a hub name"),
    (
        BASE + "stop_hopeless:\n  after: 0.3\n  lowest: 2\n",
        "s.yaml:7: stop_hopeless.lowest: 2 must be a share between 0 and 1",
    ),
    (
        BASE + "arms:\n  - name: a\n    stop_hopeless:\n      after: 0.3\n      lowest: 2\n",
        "s.yaml:9: stop_hopeless.lowest: 2 must be a share between 0 and 1",
    ),
    (
        BASE + "probes:\n  grad_norms:\n    every: 10\n  drift:\n    every: 0\n",
        "s.yaml:9: probes.drift.every: 0 must be a whole number of steps from 1",
    ),
    (
        BASE + "probes:\n  grad_norms:\n    every: 10\n  drfit:\n    every: 1\n",
        "s.yaml:8: key 'probes.drfit' is not known; did you mean 'drift'?",
    ),
    (
        BASE + "arms:\n  - name: a\n  - name: b\n    probes:\n      drift:\n        every: 0\n",
        "s.yaml:10: probes.drift.every: 0 must be a whole number of steps from 1",
    ),
    (
        BASE + "arms:\n  - name: a\n  - name: b\n    probes:\n      drift:\n        evry: 1\n",
        "s.yaml:10: key 'probes.drift.evry' is not known; did you mean 'every'?",
    ),
    (BASE + "set:\n  optimizer:\n    lr: -1.0\n", "s.yaml:7: optimizer.lr: -1.0 must be greater than 0"),
    (
        BASE + "set:\n  schedule:\n    length:\n      epochs: 3\n      stpes: 3\n",
        "s.yaml:9: key 'schedule.length.stpes' is not known; did you mean 'steps'?",
    ),
    (BASE + "arms:\n  - name: a\n    set: 3\n", "s.yaml:7: set: 3 must be a mapping of settings to values"),
    (
        BASE + "arms:\n  - name: a\n    set:\n      optimizer:\n        lrr: 3\n",
        "s.yaml:9: key 'optimizer.lrr' is not known; did you mean 'optimizer.lr'?",
    ),
    (BASE + "arms:\n  - name: a\n    set:\n", "s.yaml:7: set: None must be a mapping of settings to values"),
    (
        BASE + "grid:\n  optimizer.eps: [1.0]\n  optimizer.lr:\n    - 1.0\n    - -1.0\n",
        "s.yaml:9: optimizer.lr: -1.0 must be greater than 0",
    ),
    (
        BASE + "arms:\n  - grid:\n      optimizer.eps: [1.0]\n      optimizer.lr: 3.0\n",
        "s.yaml:8: grid.optimizer.lr: 3.0 must be a list",
    ),
    (
        BASE + "set:\n  start_from:\n    recipe: zhang\n    task: mnli\n    seed: x\n",
        "s.yaml:9: start_from.seed: 'x' must be one whole number from 0",
    ),
    (
        BASE + "set:\n  start_from:\n    recipe: zhang\n    task: mnli\n    seed: 1\n    set:\n      lr: 1\n",
        "s.yaml:11: key 'lr' is not known; did you mean 'optimizer.lr'?",
    ),
    (
        BASE + "set:\n  start_from:\n    recipe: zhang\n    task: mnli\n    seed: 1\n    sett: {}\n",
        "s.yaml:10: key 'start_from.sett' is not known; did you mean 'set'?",
    ),
    (
        BASE + "set:\n  start_from:\n    recipe: zhang\n    seed: 1\n    task:\n      name: mine\n      trian: x\n",
        "s.yaml:11: task: key 'trian' is not known; did you mean 'train'?",
    ),
    (
        BASE + "grid:\n  start_from:\n    - null\n    - {recipe: zhang, task: mnli, seed: x}\n",
        "s.yaml:8: start_from.seed: 'x' must be one whole number from 0",
    ),
    (
        BASE + "arms:\n  - set:\n      start_from: {recipe: zhang, task: mnli}\n",
        "s.yaml:7: key 'start_from.seed' is missing; an example is {recipe: zhang, task: mnli, seed: 0}",
    ),
]
SET_PROBES = "--set 'probes={grad_norms: {every: 10}, drift: {every: 10}}'"
SET_OPTIONS = [
    ("optimizer.lr=010", "--set optimizer.lr:1: 010 is ambiguous: write 10 for a number, or '010' for text"),
    ("probes=", "--set probes=: a value is missing; write null if no value is meant"),
    ("model.dropout= ", "--set model.dropout=: a value is missing; write null if no value is meant"),
    ("data.pad_to_max=yes", "--set: data.pad_to_max: 'yes' must be true or false; write true"),
    (
        "schedule.length={steps: 10000001}",
        "--set: schedule.length.steps: 10000001 must be less than or equal to 10000000",
    ),
    ("schedule.batch_size=1e3", "--set: schedule.batch_size: 1000.0 must be a whole number"),
    ("schedule.batch_size=1000001", "--set: schedule.batch_size: 1000001 must be less than or equal to 1000000"),
    ("evaluation.every.times=100001", "--set: evaluation.every.times: 100001 must be less than or equal to 100000"),
    ("task=", "--set task=: a value is missing; write null if no value is meant"),
    ("task=rtee", "--set: task 'rtee' is not known; did you mean 'rte'?"),
    ("task=3", "--set: task '3' is not known; `stableft list tasks` names them all"),
    ("task=[]", "--set: task: the list is empty"),
    ("task=[rte, rte]", "--set: task: rte is listed twice"),
    ("model=3", "--set: model: 3 must be a folder or a hub name"),
    ("model=[a, a]", "--set: model: a is listed twice"),
    ("model=[]", "--set: model: the list is empty"),
    ("model={a: 1}", "--set: model: {'a': 1} must be a folder or a hub name"),
    ("data.task=x", "--set: data.task cannot be set here; use the sweep key 'task'"),
    ("arms=a", "--set arms: a sweep's arms cannot be set here; use a setting such as optimizer.lr"),
    ("recipe=zhang", "--set recipe: a sweep's recipe cannot be set here; use a setting such as optimizer.lr"),
    ("name=a", "--set: key 'name' is not known; did you mean 'model.name'?"),
    ("=3", "--set: settings are keys with values, not 3"),
    ("optimizer.lr=[1", "--set optimizer.lr:1: this is not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ("task={name: mine}", "--set: task: key 'train' is missing"),
    ("task={name: mine, trian: 1}", "--set: task: key 'trian' is not known; did you mean 'train'?"),
    ("seeds.init=x", "--set: seeds.init: 'x' must be a whole number"),
    ("seeds.init=-1", "--set: seeds.init: -1 must be greater than or equal to 0"),
    ("precision=fp61", "--set: precision: 'fp61' must be 'fp32', 'fp16' or 'bf16'; did you mean 'fp16'?"),
    ("x.y.z=1", "--set: key 'x.y.z' is not known"),
    ("task=''", "--set: task '' is not known; `stableft list tasks` names them all"),
    (
        "stop_hopeless=0.3",
        "--set: stop_hopeless: 0.3 must be a mapping such as --set 'stop_hopeless={after: 0.3, lowest: 0.5}'",
    ),
    ("stop_hopeless={after: 0.3, lowest: 2}", "--set: stop_hopeless.lowest: 2 must be a share between 0 and 1"),
    (
        "stop_hopeless.after=0.3",
        "--set: stop_hopeless.after: stop_hopeless is set as a whole, such as "
        "--set 'stop_hopeless={after: 0.3, lowest: 0.5}'",
    ),
    ("stop_hopless=null", "--set: key 'stop_hopless' is not known"),
    ("probes=drift", f"--set: probes: 'drift' must be a mapping such as {SET_PROBES}"),
    ("probes={drift: {every: 0}}", "--set: probes.drift.every: 0 must be a whole number of steps from 1"),
    ("probes.drift={every: 1}", f"--set: probes.drift: probes is set as a whole, such as {SET_PROBES}"),
    (
        "start_from=mnli",
        "--set: start_from: 'mnli' must be a mapping such as --set 'start_from={recipe: zhang, task: mnli, seed: 0}'",
    ),
    ("start_from={recipe: zhang, task: mnli, seed: x}", "--set: start_from.seed: 'x' must be one whole number from 0"),
    ("start_from={recipe: zhang, task: mnl, seed: 1}", "--set: task 'mnl' is not known; did you mean 'mnli'?"),
    (
        "start_from={recipe: zhang, task: mnli, seed: 1, set: {lr: 1}}",
        "--set: key 'lr' is not known; did you mean 'optimizer.lr'?",
    ),
]
SEEDS_OPTION = [
    ("", "--seeds: seeds: '' must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("3-1", "--seeds: seeds: '3-1' runs backwards"),
    ("one", "--seeds: seeds: 'one' must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("1,1", "--seeds: seeds: 1 is listed twice in '1,1'"),
    ("{init: 1}", "--seeds: seeds: '{init: 1}' must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("-1", "--seeds: seeds: '-1' must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("0-99999", "--seeds: seeds: '0-99999' is more than 10000 seeds"),
    ("[1]", "--seeds: seeds: '[1]' must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
    ("1.5", "--seeds: seeds: '1.5' must be like 5, 1-25 or 1,2,7, of whole numbers from 0"),
]

BY_KEY = {"stop_hopeless": STOP_HOPELESS, "probes": PROBES, "set": SET, "grid": GRID, "arms": ARMS}
LINES = [
    *(
        (BASE + f"{key}: {value}\n", f"s.yaml:5: {sentence}")
        for key, rows in BY_KEY.items()
        for value, sentence in rows
    ),
    *((BASE + f"set: {{start_from: {value}}}\n", f"s.yaml:5: {sentence}") for value, sentence in START_FROM),
    *((BASE.replace("1-3", value), f"s.yaml:3: {sentence}") for value, sentence in SEEDS),
]


TEN = ", ".join(f"0.0{i}" for i in range(1, 10)) + ", 0.1"
FIVE = ("optimizer.eps", "optimizer.weight_decay", "optimizer.clip_norm", "schedule.warmup", "model.dropout")
MORE = [
    (BASE.replace("1-3", "{init: 0-200, data: 0-200, crossed: true}"), "s.yaml:3: seeds: 201 init and 201 data seeds"),
    (BASE.replace("task: rte", "task: [null, rte]"), "s.yaml:1: task: the list has an empty item"),
    (BASE.replace("model: bert-base-uncased", "model: [null]"), "s.yaml:2: model: the list has an empty item"),
    (BASE + "set: {optimizer.lr: 1e400}\n", "s.yaml:5: set.optimizer.lr: 1e400 is too large for a number"),
    (BASE + "x: &a {lr: 1}\nset: {<<: *a}\n", "s.yaml:6: merge keys (<<) are not supported"),
    (BASE + f"x: {list(range(1000))}\n", "s.yaml:5: key 'x' is not known"),
    (BASE + f"set: {list(range(1000))}\n", f"s.yaml:5: set: {str(list(range(1000)))[:197]}... must be a mapping"),
    (BASE.replace("1-3", "1-" + "9" * 5000), f"s.yaml:3: seeds: 1-{'9' * 195}... is too large"),
    (BASE + "arms:\n" + "  - {name: a}\n" * 1001, "s.yaml:5: arms: has 1,001 items, and 1,000 are the most"),
    (
        BASE + "grid: {" + ", ".join(f"{key}: [{TEN}]" for key in ("optimizer.lr", *FIVE)) + "}\n",
        "s.yaml:1: arm 'zhang' has 3 seeds x 1,000,000 grid points; with it the sweep has "
        "1,000,000 settings apart from seeds, and 10,000 are the most",
    ),
    (
        BASE.replace("1-3", "1-9999") + "arms:\n" + "".join(f"  - {{name: a{i}}}\n" for i in range(11)),
        "s.yaml:16: arm 'a10' has 9,999 seeds; with it the sweep has 109,989 runs, and 100,000 are the most",
    ),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("a,b\nx,0\n")


def sentence_about(text: str, **options) -> str:
    Path("s.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_sweep("s.yaml", LocalPaths(), **options)
    return str(caught.value)


@pytest.mark.parametrize(("text", "sentence"), LINES + FILES)
def test_a_bad_sweep_file(text, sentence):
    assert sentence_about(text) == sentence


@pytest.mark.parametrize(("text", "beginning"), MORE)
def test_what_was_accepted_or_misleading(text, beginning):
    assert sentence_about(text).startswith(beginning)


@pytest.mark.parametrize(("option", "sentence"), SET_OPTIONS)
def test_a_bad_set_option(option, sentence):
    assert sentence_about(BASE, sets=[option]) == sentence


@pytest.mark.parametrize(
    "sets",
    [
        ["optimizer.lr=1e-5", "optimizer.lr=2e-5"],
        ["optimizer={lr: 1e-5}", "optimizer.lr=2e-5"],
        ["optimizer.lr=1e-5", "optimizer.lr =2e-5"],
    ],
)
def test_a_key_set_twice(sets):
    assert sentence_about(BASE, sets=sets) == "--set: optimizer.lr is set a second time"


def test_task_set_twice():
    assert sentence_about(BASE, sets=["task=rte", "task=cola"]) == "--set: task is set a second time"


@pytest.mark.parametrize(("seeds", "sentence"), SEEDS_OPTION)
def test_a_bad_seeds_option(seeds, sentence):
    assert sentence_about(BASE, seeds=seeds) == sentence

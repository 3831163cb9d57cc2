"""Sweep files and --set options with slips of the pen, and worse."""

import random

SWEEP = """\
task: rte
model: bert-base-uncased
seeds: 1-3
recipe: zhang
set: {optimizer.lr: 1e-5, schedule.length: {epochs: 3}}
grid: {optimizer.eps: [1e-6, 1e-8], reinit.blocks: [0, 2]}
stop_hopeless: {after: 0.3, lowest: 0.5}
probes: {drift: {every: 10}}
arms:
  - {name: a, set: &a {mixout: {p: 0.9, target: pretrained, granularity: column, scope: linear}}}
  - {name: b, set: *a, recipe: devlin, seeds: {init: 0-9, data: 0-9, crossed: true}}
"""
OWN_DATA = """\
task: {name: mine, train: d.csv, validation: d.csv, text: [a], label: b, labels: ['0', '1'], metrics: [accuracy]}
model: organization/model@v2
seeds: {init: 0-4, data: 0-4}
recipe: mosbach
set:
  start_from: {recipe: zhang, task: mnli, seed: 0, set: {optimizer.lr: 1e-4}}
"""
WORDS = (
    *(
        "1:30",
        "010",
        "0x10",
        "1_0",
        "-1",
        "1.5",
        "1e400",
        "9" * 5000,
        "0-9999",
        "0-99999999999999",
        "९-१९",
        ".nan",
        "~",
    ),
    *("null", "yes", "true", "2020-01-01", "!!timestamp x", "!!int 3", "!x", "!!python/name:os.system", "<<: *a", "*a"),
    *("&b", "[", "]", "{", "}", "'", '"', "|", "? ", "- ", ": ", ",", "#", "\t", "\x00", "\ufeff", "\u2028", "\n  "),
    *("[" * 3000, "{" * 60, "x" * 100_000, "{a: 1, a: 2}", "[null]", "[]", "{}", "", "---", "rte", "~root", "\x1b[31m"),
)
KEYS = (
    "optimizer.lr",
    "optimizer",
    "schedule.length",
    "task",
    "model",
    "seeds",
    "stop_hopeless",
    "start_from",
    "",
    "x.y",
)
SETTINGS = (
    "optimizer.lr=1e-5",
    "schedule.length={epochs: 3}",
    "optimizer.betas=[0.9, 0.98]",
    "data.train_rows=100",
    "mixout={p: 0.9, target: pretrained, granularity: column, scope: linear}",
)


def mutate(rng: random.Random, text: str) -> str:
    for _ in range(rng.choice([1, 1, 1, 3])):
        i = rng.randrange(len(text) + 1)
        end = rng.choice([i, i + 1, i + rng.randint(1, 12), text.find("\n", i) + 1 or len(text)])
        text = text[:i] + rng.choice([*WORDS, *"123456789" * 5, *"\n " * 10]) + text[end:]
    return text


def mutate_sweep(rng: random.Random) -> tuple[str, list[str]]:
    """Returns the text of a sweep file and settings, of which one or both are mutated."""
    text = rng.choice([SWEEP, OWN_DATA])
    sets = mutate_settings(rng) if rng.random() < 0.4 else []
    return mutate(rng, text) if not sets or rng.random() < 0.4 else text, sets


def mutate_settings(rng: random.Random) -> list[str]:
    if rng.random() < 0.5:
        return [mutate(rng, rng.choice(SETTINGS))]
    return [f"{rng.choice(KEYS)}={mutate(rng, rng.choice(WORDS))}"]

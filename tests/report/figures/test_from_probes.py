"""The figures of probes from made-up records: what their panels draw, of which runs, and what is said if missing."""

import math
import re

import numpy as np
import pytest
from support.artifact_probes import LAYERS, LOST, MODELS, OURS, drift, grad_norms, of_kind, perplexity, surface
from support.artifact_records import M, Z, planned, pool, probe_pool, report, where
from support.reports import values_of, wrap_probe_records
from support.table_records import make_record

from stableft.config.planned_run import PlannedRun
from stableft.errors import UserError
from stableft.records.probe_record import (
    PROBES_FILE,
    DriftRecord,
    GradNormsRecord,
    PerplexityRecord,
    SurfaceRecord,
    find_probes_in_files,
    find_probes_in_results,
    write_probe_records,
)
from stableft.records.run_record import run_folder, write_records_file
from stableft.report.artifact import make_sweep_artifact
from stableft.report.build import build_report
from stableft.report.figures.from_probes import MAX_GRADIENT_POINTS
from stableft.report.forms.write import ReportTarget, render_report, write_report
from stableft.report.runs import collect_runs, load_runs_from_file

MATRICES = ("query", "key", "value", "attention output", "intermediate", "output")
INSIDE = dict(
    zip(
        MATRICES,
        (
            *("attention.self.query", "attention.self.key", "attention.self.value"),
            *("attention.output.dense", "intermediate.dense", "output.dense"),
        ),
        strict=True,
    )
)
OF_ALBERT = dict(
    zip(MATRICES, (*(f"attention.{w}" for w in ("query", "key", "value", "dense")), "ffn", "ffn_output"), strict=True)
)


def the(kind, run_id):
    (record,) = [record for record in probe_pool() if isinstance(record, kind) and record.run_id == run_id]
    return record


def panels(name):
    return values_of(report(name))["panels"]


def words(text):
    return " ".join(text.split())


def shown(values):
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def by_hand(record, wanted):
    """Step -> the root of the sum of the squares of the norms of those parameters; NaN where one is not finite."""
    places = [i for i, name in enumerate(record.names) if wanted(name)]
    rows = [math.sqrt(sum(row[i] ** 2 for i in places)) for row in record.norms]
    return dict(zip(record.steps, [v if math.isfinite(v) else math.nan for v in rows], strict=True))


def check(curve, record, wanted):
    expected = by_hand(record, wanted)
    assert shown(curve["y"]) == pytest.approx([expected[step] for step in curve["x"]], rel=1e-9, nan_ok=True)


# --- gradient norms


@pytest.mark.slow
def test_mosbach_figure4_has_every_layer_of_the_first_failed_and_the_first_successful_run():
    runs = of_kind(M, True)[0], of_kind(OURS, False)[0]
    for panel, run, kind in zip(panels("mosbach-figure4"), runs, ("failed", "successful"), strict=True):
        record = the(GradNormsRecord, run.run_id)
        assert panel["title"] == f"{kind} run\n{run.arm}, seed {run.config.seeds.init}"
        labels = [f"block {i}" for i in range(1, LAYERS + 1)]
        assert [curve["label"] for curve in panel["curves"]] == [*labels, "pooler", "classifier"]
        for i, curve in enumerate(panel["curves"][:LAYERS]):
            check(curve, record, lambda name, i=i: name.startswith(f"bert.encoder.layer.{i}."))
        check(panel["curves"][-2], record, lambda name: name.startswith("bert.pooler."))
        check(panel["curves"][-1], record, lambda name: name.startswith("classifier."))
        assert panel["curves"][0]["x"] == list(record.steps)
        assert panel["ylog"]
        assert panel["sequential"]
    text = words(render_report(report("mosbach-figure4")))
    assert (
        f"devlin, seed {runs[0].config.seeds.init} (run {runs[0].run_id}), the run with the lowest seed among the"
        in text
    )
    assert f"(run {runs[1].run_id})" in text
    assert "Blocks are numbered from 1, the lowest, as in Zhang et al. 2021; Mosbach et al. 2021 count from 0." in text


def test_both_panels_have_one_scale_that_holds_every_norm():
    first, second = panels("mosbach-figure4")
    values = shown([y for panel in (first, second) for curve in panel["curves"] for y in curve["y"]])
    assert (first["bottom"], first["top"]) == (second["bottom"], second["top"])
    assert first["bottom"] < np.nanmin(values) < np.nanmax(values) < first["top"]


def test_a_norm_that_is_not_finite_breaks_the_lines_and_is_said():
    failed, fine = panels("mosbach-figure4")
    assert [[i for i, y in enumerate(curve["y"]) if y is None] for curve in failed["curves"]] == [[LOST]] * 26
    assert any(re.search("Failed run: .*1 of 25 .*not finite", note) for note in failed["notes"])
    assert not any("not finite" in note for note in fine["notes"])


@pytest.mark.parametrize(("number", "family"), [(10, "bert"), (11, "roberta"), (12, "albert")])
def test_mosbach_figures_10_to_12_have_a_pair_of_panels_for_each_weight_matrix(number, family):
    more = MODELS[family]
    ours = OURS if family == "bert" else M | more | {"correction": True}
    runs = of_kind(M | more, True)[family == "roberta"], of_kind(ours, False)[0]
    found = panels(f"mosbach-figure{number}")
    assert [panel["title"] for panel in found] == [
        f"{what}, {kind}" for what in MATRICES for kind in ("failed", "successful")
    ]
    for i, panel in enumerate(found):
        what, record = MATRICES[i // 2], the(GradNormsRecord, runs[i % 2].run_id)
        inside = (OF_ALBERT if family == "albert" else INSIDE)[what]
        ends = ["classifier"] if family == "roberta" else ["pooler", "classifier"]
        layers, others = panel["curves"][: -len(ends)], panel["curves"][-len(ends) :]
        assert len(layers) == len(record.parts.blocks) == (1 if family == "albert" else LAYERS)
        assert [curve["label"] for curve in others] == ends  # M sec. 7.5
        for curve in others:
            modules = record.parts.pooler if curve["label"] == "pooler" else record.parts.head
            check(curve, record, lambda name, modules=modules: name.rpartition(".")[0].startswith(modules))
        for layer, curve in enumerate(layers):
            assert curve["label"] == f"block {layer + 1}"
            check(curve, record, f"{record.parts.blocks[layer]}.{inside}.weight".__eq__)
        assert len(panel["curves"][0]["x"]) <= MAX_GRADIENT_POINTS["matrices"] + 1
        assert (panel["curves"][0]["x"][0], panel["curves"][0]["x"][-1]) == (1, record.steps[-1])
    if family == "roberta":
        assert re.search("1 without recorded gradient norms", words(render_report(report("mosbach-figure11"))))


def test_parameters_without_any_gradient_are_left_out_of_a_norm():
    runs = of_kind(M, True)[:1]
    record = grad_norms(runs[0].run_id, "bert", True, [1, 2, 3], layers=2)
    place = record.names.index("bert.encoder.layer.1.output.dense.bias")
    rows = tuple((*row[:place], math.nan, *row[place + 1 :]) for row in record.norms)
    made = made_of("mosbach-figure4", runs, [record.model_copy(update={"norms": rows})])
    panel = values_of(made)["panels"][0]
    check(panel["curves"][1], record, lambda name: ".layer.1." in name and name != record.names[place])
    assert not any("not finite" in note for note in panel["notes"])


def made_of(name, records, probes):
    artifact, runs = planned(name)
    return build_report(collect_runs(artifact, runs, records, find_probes=lambda: wrap_probe_records(probes)))


# --- drift


@pytest.mark.parametrize(("name", "task", "blocks"), [("zhang-figure7", "rte", (6, 12, 18, 24))])
def test_zhang_figure7_has_four_blocks_with_the_mean_and_range_over_seeds_of_every_arm(name, task, blocks):
    arms = {"Standard": Z} | {f"Re-init {n}": Z | {"pooler": True, "blocks": n} for n in (1, 3, 6, 10)}
    found = panels(name)
    assert [panel["title"] for panel in found] == [f"Block {block}" for block in blocks]
    for panel, block in zip(found, blocks, strict=True):
        assert [curve["label"] for curve in panel["curves"]] == list(arms)
        for curve in panel["curves"]:
            runs = where(arms[curve["label"]], task=task, seeds=range(5))
            records = [the(DriftRecord, run.run_id) for run in runs]
            values = np.array([[row[r.names.index(str(block))] for row in r.distances] for r in records])
            assert curve["x"] == list(records[0].steps)
            assert curve["n"] == len(runs) == 5
            for key, function in (("y", np.mean), ("low", np.min), ("high", np.max)):
                assert curve[key] == pytest.approx(function(values, axis=0))


def test_zhang_figure16_has_every_block_and_says_which_runs_have_no_record():
    found = panels("zhang-figure16")
    assert [panel["title"] for panel in found] == [f"Block {block}" for block in range(1, 25)]
    assert {curve["n"] for curve in found[0]["curves"]} == {4, 5}
    assert re.match("Re-init 3: 1 of 5 .*no recorded drift", found[0]["notes"][0])
    assert "`stableft sweep configs/zhang/drift.yaml --complete`" in found[0]["notes"][1]


def test_a_model_with_fewer_blocks_shows_those_it_has():
    runs = where(Z, task="rte", seeds=range(2))
    made = made_of("zhang-figure7", runs, [drift(run.run_id, 0, [0, 1, 2], blocks=12) for run in runs])
    assert [panel["title"] for panel in values_of(made)["panels"]] == ["Block 6", "Block 12"]
    assert "The model has 12 blocks; there is no block 18, 24." in values_of(made)["panels"][0]["notes"]


# --- perplexity and surfaces


def test_mosbach_figure2_has_the_first_three_failed_and_the_first_three_successful_runs():
    for panel, failed in zip(panels("mosbach-figure2")[:2], (True, False), strict=True):
        runs = of_kind(M, failed)[:3]
        assert [curve["label"] for curve in panel["curves"]] == [f"devlin, seed {r.config.seeds.init}" for r in runs]
        for curve, run in zip(panel["curves"], runs, strict=True):
            assert curve["y"] == pytest.approx(np.exp(the(PerplexityRecord, run.run_id).losses))


def test_where_too_few_of_devlins_runs_succeed_those_of_mosbach_stand_in():
    runs = [*of_kind(M, True)[:4], *of_kind(M, False)[:1], *of_kind(OURS, False)[:4]]
    made = made_of("mosbach-figure2", runs, [perplexity(run.run_id, bool(run.failed)) for run in runs])
    labels = [curve["label"] for curve in values_of(made)["panels"][1]["curves"]]
    assert [label.partition(",")[0] for label in labels] == ["devlin", "mosbach", "mosbach"]


def test_perplexities_of_another_text_are_left_out():
    runs = of_kind(M, True)[:3]
    texts = ("wikitext-2", "toy", "wikitext-2")
    records = [perplexity(run.run_id, True, text=text) for run, text in zip(runs, texts, strict=True)]
    panel = values_of(made_of("mosbach-figure2", runs, records))["panels"][0]
    assert len(panel["curves"]) == 2
    assert re.match("2 failed runs.* 3", panel["notes"][0])
    assert any(re.search("1 runs .*left out", note) for note in panel["notes"])


def test_mosbach_figures_7_and_13_are_between_a_failed_and_a_successful_run():
    for name, of in (("mosbach-figure7", "losses"), ("mosbach-figure13", "grad_norms")):
        panel = panels(name)[0]
        failed, fine = of_kind(M, True)[0], of_kind(OURS, False)[0]
        (record,) = [r for r in probe_pool() if isinstance(r, SurfaceRecord) and r.task == "rte"]
        assert (record.failed, record.successful) == (failed.run_id, fine.run_id)
        assert panel["z"] == [list(row) for row in getattr(record, of)]
        assert f"(run {failed.run_id}); successful: mosbach" in panel["notes"][0]
        seeds = failed.config.seeds.init, fine.config.seeds.init
        assert panel["title"] == "RTE\ndevlin, seed {} / mosbach, seed {}".format(*seeds)


# --- what is missing


def test_without_records_the_command_that_makes_them_is_named():
    runs = [*of_kind(M, True), *of_kind(OURS, False)]
    failed, fine = of_kind(M, True), of_kind(OURS, False)
    text = words(render_report(made_of("mosbach-figure4", runs, [])))
    for run in (failed[0], fine[0]):
        seed = run.config.seeds.init
        command = f"`stableft sweep configs/mosbach/gradients.yaml --arms {run.arm} --seeds {seed} --complete`"
        assert command in text
    assert words(render_report(made_of("mosbach-figure10", runs, []))).count("no gradient norms are recorded") == 2
    text = words(render_report(made_of("mosbach-figure7", runs, [])))
    assert f"`stableft probe surface --failed {failed[0].run_id} --successful {fine[0].run_id}`" in text
    assert "`stableft sweep configs/mosbach/surfaces.yaml --save last --complete`" in text
    assert "no loss surface between" in text
    assert "no gradient-norm surface between" in words(render_report(made_of("mosbach-figure13", runs, [])))
    text = words(render_report(made_of("mosbach-figure2", runs, [])))
    assert f"`stableft probe perplexity {' '.join(run.run_id for run in failed[:3])}`" in text
    text = words(render_report(made_of("zhang-figure7", where(Z, task="rte", seeds=range(2)), [])))
    assert re.search(r"zhang .*recorded drift; `stableft sweep configs/zhang/drift\.yaml --complete`", text)


def test_without_a_failed_run_that_is_said():
    made = made_of("mosbach-figure4", of_kind(OURS, False), [])
    assert values_of(made)["panels"][0]["missing"] == "no run is finished"
    fine = [*of_kind(M, False), *of_kind(OURS, False)]
    assert values_of(made_of("mosbach-figure7", fine, []))["panels"][0]["missing"] == "no run of devlin has failed"


# --- a sweep of one's own


def own_sweep():
    records = [
        make_record(arm=arm, seed=seed, last=score, lr=lr)
        for arm, lr, scores in (("devlin", 2e-5, (0.7, 0.4, 0.45)), ("mosbach", 1e-5, (0.8, 0.9)))
        for seed, score in enumerate(scores, 1)
    ]
    probes = [grad_norms(r.run_id, "bert", bool(r.failed), [1, 2, 3], layers=2) for r in records]
    probes += [drift(r.run_id, 0, [0, 1, 2], blocks=2) for r in records]
    probes += [perplexity(r.run_id, bool(r.failed), blocks=2) for r in records[:2]]
    probes += [surface(records[1].run_id, records[3].run_id, "rte", 3, norms=False)]
    return records, probes


def test_a_sweep_has_a_figure_for_each_kind_of_record_that_its_runs_have():
    records, probes = own_sweep()
    runs = [("s.yaml", PlannedRun(record.arm, record.recipe, record.config, record.report)) for record in records]

    def figures(left):
        return list(
            build_report(
                collect_runs(
                    make_sweep_artifact("s", "s.yaml"), runs, records, find_probes=lambda: wrap_probe_records(left)
                )
            ).figures
        )

    of_every_sweep = ["scores", "training-loss", "training-curves", "best-of-n"]
    of_tests = ["effects"]  # nothing published is of these settings
    assert figures([]) == [*of_every_sweep, *of_tests]
    norms = ["gradient-norms", "gradient-norms-matrices"]
    assert figures(probes) == [*of_every_sweep, *norms, "drift", "perplexity", "loss-surface", *of_tests]
    with_norms = surface(records[1].run_id, records[3].run_id, "rte", 3)
    assert figures([with_norms]) == [*of_every_sweep, "loss-surface", "gradient-norm-surface", *of_tests]
    assert figures([drift("0" * 16, 0, [0, 1], 2)]) == [*of_every_sweep, *of_tests]  # of a run that is not the sweep's


def test_the_figures_of_a_sweep_are_drawn(tmp_path):
    records, probes = own_sweep()
    write_records_file(tmp_path / "mine.jsonl", [*records, *probes])
    made = build_report(load_runs_from_file(tmp_path / "mine.jsonl"))
    drawn = {name: draw() for name, draw in made.figures.items()}
    titles = [axes.get_title() for axes in drawn["gradient-norms"].axes]
    assert titles == ["failed run\ndevlin, seed 2/102", "successful run\ndevlin, seed 1/101"]
    assert "Failed run: devlin, seed 2/102." in drawn["gradient-norms-matrices"].get_supxlabel().replace("\n", " ")
    assert len(drawn["gradient-norms-matrices"].axes) == 12
    assert [axes.get_title() for axes in drawn["drift"].axes] == ["Block 1", "Block 2"]
    assert [axes.get_title() for axes in drawn["perplexity"].axes] == ["failed runs", "successful runs"]
    titles = [axes.get_title() for axes in drawn["training-curves"].axes]
    assert titles == ["devlin\n2/3 failed", "mosbach\n0/2 failed"] * 2  # losses above scores


# --- where records are found


def test_records_are_read_when_they_are_asked_for_and_damage_is_named(tmp_path, caplog):
    records, probes = own_sweep()
    path = tmp_path / "mine.jsonl"
    write_probe_records(path, probes)
    found = find_probes_in_files([path])
    assert [ref.kind for ref in found.refs] == [type(record) for record in probes]
    ids = [record.run_id for record in records]
    assert found.of(GradNormsRecord, ids[:2]) == [p for p in probes if isinstance(p, GradNormsRecord)][:2]
    assert found.of(SurfaceRecord, ids) == [p for p in probes if isinstance(p, SurfaceRecord)]
    assert found.of(SurfaceRecord, ids[:2]) == []  # the successful run is not among them
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], re.sub('"total":', '"totals":', lines[1]), *lines[2:]]))
    damaged = find_probes_in_files([path])
    assert len(damaged.of(GradNormsRecord, ids[:1])) == 1
    with pytest.raises(UserError, match=r"mine\.jsonl:2 does not match its checksum"):
        damaged.of(GradNormsRecord, ids[1:2])
    folder = run_folder(tmp_path, ids[0])
    write_probe_records(folder / PROBES_FILE, probes[:1])
    assert len(find_probes_in_results(tmp_path, ids).refs) == 1
    for cut in (40, len(lines[0]) - 30):
        (folder / PROBES_FILE).write_text(lines[0][:cut])
        caplog.clear()
        assert find_probes_in_results(tmp_path, ids).refs == ()
        assert caplog.messages == [f"{folder / PROBES_FILE}:1 is not a complete record: left out"]
    (folder / PROBES_FILE).write_text(lines[0].replace("0.", "1.", 1))
    assert find_probes_in_results(tmp_path, ids).refs == ()
    assert "does not match its checksum" in caplog.messages[-1]


def test_a_record_that_is_there_twice_is_shown_once(tmp_path):
    _, probes = own_sweep()
    twice = wrap_probe_records([*probes, *probes])
    for kind in (GradNormsRecord, DriftRecord, PerplexityRecord, SurfaceRecord):
        wanted = [record for record in probes if isinstance(record, kind)]
        ids = {run for ref in twice.refs for run in ref.run_ids}
        assert twice.of(kind, ids) == wanted


def test_the_pool_has_what_these_tests_need():
    assert any(record.failed for record in pool())
    assert len(of_kind(M, False)) >= 3


def test_a_figure_of_probes_that_a_sweep_has_not_is_refused_with_the_reason(tmp_path):
    records, _ = own_sweep()
    write_records_file(tmp_path / "mine.jsonl", records)
    made = build_report(load_runs_from_file(tmp_path / "mine.jsonl"))
    with pytest.raises(UserError, match="cannot draw drift: its runs have no probe records"):
        write_report(made, ReportTarget(tmp_path / "x.png", is_figure=True, figure="drift"))

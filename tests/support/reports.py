"""Reports of made-up records whose numbers can be checked by hand."""

import json
import math

from support.table_records import make_record

from stableft.records.frame import build_frame
from stableft.report.forms.write import render_report
from stableft.report.mosbach import MOSBACH_ARTIFACTS
from stableft.report.paper_values import PAPERS, find_published_in_table, load_published_values
from stableft.report.stability_table import build_table_from_frame

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
    return build_table_from_frame(build_frame(records), artifact, published, deviations, planned)


def as_json(table):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(render_report(table, "json"), parse_constant=refuse)

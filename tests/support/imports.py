"""What the tests of imports share."""

from stableft.records.import_mapping import TableMapping

PLAIN = TableMapping(task="=RTE", arm="arm", seed="seed", score="acc")


def scores(records) -> list[float]:
    return [record.score(record.report, record.split, record.metric) for record in records]

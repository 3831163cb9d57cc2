"""Tables and figures of Mosbach et al. 2021, as rows."""

from stableft.report.artifact import Artifact

ARTIFACTS = {
    artifact.id: artifact
    for artifact in (
        Artifact(
            id="mosbach-table1",
            title="Mosbach et al. 2021, Table 1: standard deviation, mean and maximum performance over seeds",
            sweeps=("mosbach/table1.yaml",),
            statistics=("std", "mean", "max"),
        ),
    )
}

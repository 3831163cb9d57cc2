"""The version of this package."""

import tomllib
from importlib import metadata
from pathlib import Path


def find_version() -> str:
    """Return the version of the package, which may run from a checkout without having been installed."""
    try:
        return metadata.version("stableft")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
        return project["project"]["version"]

"""Where the project, the tests' data files and the expected values lie."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "files"
GLUE = FILES / "glue"
GOLDEN = ROOT / "tests" / "golden"

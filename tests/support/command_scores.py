"""Read a score from a file that a test writes."""

from pathlib import Path

from stableft.config.command_config import CommandScore
from stableft.config.yaml_file import parse_yaml
from stableft.records.command_score import ReadScore, read_command_score


def read_score(out: Path, name: str, where: str, text: str | None) -> ReadScore:
    """Return the score in the file `name` in the folder `out`, of which `where` has the other keys of `score`."""
    if text is not None:
        (out / name).write_bytes(text.encode())
    score = CommandScore.model_validate(parse_yaml(f'{{file: "{{out}}/{name}", {where}}}', "score").value)
    return read_command_score(score, {"out": out}, None)

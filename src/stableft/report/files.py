"""A report as files: the table in every form, and the figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stableft.errors import UserError
from stableft.record import atomic_write
from stableft.report.gather import Material
from stableft.report.render import Format, render

FORMS: dict[str, Format] = {".md": "md", ".csv": "csv", ".tex": "latex", ".json": "json"}
IMAGES = (".png", ".svg", ".pdf")
FigureName = Literal["scores", "training-loss"]
FIGURES: tuple[FigureName, ...] = ("scores", "training-loss")


@dataclass(frozen=True)
class Output:
    """Where a report goes: printed (no path), one file of a form or of a figure, or else a folder of everything."""

    path: Path | None
    form: Format | None = None
    figure: FigureName | None = None


def output_of(out: str | None, form: Format | None, figure: FigureName | None) -> Output:
    """Returns what `--out`, `--format` and `--figure` ask for together.

    Raises:
        UserError: they contradict each other, or nothing can be written there.
    """
    path = Path(out) if out else None
    folder = path is not None and (str(out).endswith("/") or path.is_dir())
    image = path is not None and not folder and path.suffix in IMAGES
    if figure and not image:
        raise UserError(f"--figure {figure} needs --out with the name of a file that ends in {', '.join(IMAGES)}")
    if path is None:
        return Output(None, form or "md")
    if folder:
        if form:
            raise UserError(f"--format {form} goes with a file; --out {out} is a folder, which takes every form")
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {out}: {path} is a file, not a folder")
        return Output(path)
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    if image and form:
        raise UserError(f"--format {form} is a form of the table; --out {out} is a figure")
    if image:
        return Output(path, figure=figure or "scores")
    if form is None and path.suffix not in FORMS:
        endings = ", ".join([*FORMS, *IMAGES])
        raise UserError(f"--out {out}: the ending must be one of {endings}, or --format given, or a folder end in /")
    return Output(path, form or FORMS[path.suffix])


def deliver(material: Material, output: Output) -> str:
    """Writes the report where it goes, and returns what is to be printed, which may be nothing.

    Raises:
        UserError: there is nothing to draw in the figure asked for.
    """
    if output.path is None:
        return render(material.table, output.form or "md").rstrip("\n")
    if output.figure:
        content = _drawn(material, output.figure, output.path.suffix)
        if content is None:
            raise UserError(_nothing_to_draw(output.figure))
        atomic_write(output.path, content)
        return ""
    if output.form:
        atomic_write(output.path, _text(material, output.form))
        return ""
    return "\n".join(write_folder(material, output.path))


def write_folder(material: Material, folder: Path) -> list[str]:
    """Writes every form and figure to a folder, made if missing; returns their paths, and why a figure is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for ending, form in FORMS.items():
        atomic_write(folder / f"report{ending}", _text(material, form))
        lines.append(str(folder / f"report{ending}"))
    for figure in FIGURES:
        content = _drawn(material, figure, ".png")
        if content is None:
            lines.append(f"no {figure}.png: {_nothing_to_draw(figure)}")
        else:
            atomic_write(folder / f"{figure}.png", content)
            lines.append(str(folder / f"{figure}.png"))
    return lines


def keep_report(material: Material, folder: Path) -> str | None:
    """Writes the report of a sweep to its folder; returns a line that names the figures, or says what went wrong.

    Returns None, and writes nothing, where no run has finished. What cannot be written costs no result: the report
    has been printed, and the records are there.
    """
    if not any(record.status == "finished" for record in material.records):
        return None
    try:
        lines = write_folder(material, folder)
    except OSError as error:  # a full disk, a folder of someone else's; matplotlib's cache folder likewise
        return f"the report's files could not be written: {error.filename or folder}: {error.strerror or error}"
    return f"figures: {', '.join(line for line in lines if 'png' in line)}; the report beside them in four forms"


def _text(material: Material, form: Format) -> bytes:
    return (render(material.table, form).rstrip("\n") + "\n").encode()


def _drawn(material: Material, name: FigureName, ending: str) -> bytes | None:
    """Returns the figure as a file of that ending, or None if there is nothing to draw."""
    from stableft.report import drawing, figures

    if name == "scores":
        figure = figures.box_plot(material.table, material.frame)
    else:
        figure = figures.training_loss_curves(material.table, material.frame, material.records)
    return drawing.file_bytes(figure, ending.removeprefix(".")) if figure else None


def _nothing_to_draw(name: FigureName) -> str:
    if name == "scores":
        return "no run has a score yet"
    return "no record has evaluations with a training loss (imported results have none)"

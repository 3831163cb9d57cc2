"""The tables of a `Report` as LaTeX with booktabs; nothing but that package is needed."""

import re
from collections.abc import Iterable, Iterator

from stableft.report.forms.document import PART, Entry, Grid, Report, ReportRow, code_parts, label

ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "|": r"\textbar{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "*": r"$\star$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": r"$-$",
    "ε": r"$\epsilon$",
    "β": r"$\beta$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "’": "'",
    "\n": " ",
}
MARKS = {"*": r"\star", "†": r"\dagger", "‡": r"\ddagger"}


def latex(report: Report) -> str:
    """Returns a table environment for each of the report's tables, or a comment where it has none."""
    if not report.tables:
        return f"% {' '.join(report.title.splitlines())}: there is no table of it.\n"
    return "\n".join(_environment(grid, grid.caption or report.title) for grid in report.tables)


def escape(text: str) -> str:
    """Returns the text with every character that LaTeX would act on, or does not know, made printable."""
    return re.sub("-(?=-)", "-{}", "".join(ESCAPES.get(character, character) for character in text))


def prose(text: str) -> str:
    """Returns the escaped text, what stands between backticks as typed letters."""
    return "".join(rf"\texttt{{{escape(part)}}}" if code else escape(part) for part, code in code_parts(text))


def _environment(grid: Grid, caption: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{prose(caption)}}}",
        rf"\label{{tab:{label(grid.name)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
        r"\toprule",
        *_groups(grid.groups),
        _line(grid.header),
        r"\midrule",
        *(_line(row) for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\footnotesize {prose(note)}" for note in grid.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _groups(groups: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yields the headings over groups of columns and the rules below them; a group without a name has neither."""
    texts, rules, first = [], [], 2
    for name, n in groups:
        texts.append(rf"\multicolumn{{{n}}}{{c}}{{{escape(name)}}}")
        rules += [rf"\cmidrule(lr){{{first}-{first + n - 1}}}"] if name else []
        first += n
    if texts:
        yield rf" & {' & '.join(texts)} \\"
        yield "".join(rules)


def _line(row: ReportRow) -> str:
    name, *rest = map(_place, row)
    if name.startswith(PART):
        name = rf"\quad {name.removeprefix(PART)}"
    if name.startswith("["):  # which the end of the line before would take as its argument
        name = f"{{}}{name}"
    return rf"{' & '.join([name, *rest])} \\"


def _place(place: str | Entry) -> str:
    if isinstance(place, str):
        return escape(place)
    text = rf"\textbf{{{escape(place.text)}}}" if place.bold else escape(place.text)
    return text + _mark(place.mark)


def _mark(mark: str) -> str:
    if all(sign in MARKS for sign in mark):
        return f"$^{{{''.join(MARKS[sign] for sign in mark)}}}$" if mark else ""
    return rf"\textsuperscript{{{escape(mark)}}}"

"""The tables of a report as LaTeX. The only package needed is booktabs."""

import re
from collections.abc import Iterable, Iterator

from stableft.report.forms.document import Report, ReportRow, ReportTable, Value, make_label, split_code_spans

LATEX_ESCAPES = {
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
    "√": r"$\surd$",
    "−": r"$-$",
    "ε": r"$\epsilon$",
    "β": r"$\beta$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "’": "'",
    "\n": " ",
}
LATEX_MARKS = {"*": r"\star", "†": r"\dagger", "‡": r"\ddagger"}


def report_to_latex(report: Report) -> str:
    """Return a table environment for each of the report's tables, or a comment if there are none."""
    if not report.tables:
        return f"% {' '.join(report.title.splitlines())}: there is no table of it.\n"
    return "\n".join(_table_environment(table, table.caption or report.title) for table in report.tables)


def escape_latex(text: str) -> str:
    """Return the text with special and non-ASCII characters replaced by LaTeX commands."""
    # "--" would become a dash: braces keep the hyphens apart.
    return re.sub("-(?=-)", "-{}", "".join(LATEX_ESCAPES.get(character, character) for character in text))


def latex_prose(text: str) -> str:
    """Return the escaped text, with text in backticks in typewriter type."""
    return "".join(
        rf"\texttt{{{escape_latex(part)}}}" if code else escape_latex(part) for part, code in split_code_spans(text)
    )


def _table_environment(table: ReportTable, caption: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_prose(caption)}}}",
        rf"\label{{tab:{make_label(table.name)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        *_group_headings(table.groups),
        _table_line(table.header),
        r"\midrule",
        *(_table_line(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\footnotesize {latex_prose(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _group_headings(groups: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yield the line of group headings and that of the rules below them. A group without a name has no rule."""
    texts, rules, first = [], [], 2
    for name, n in groups:
        texts.append(rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(name)}}}")
        rules += [rf"\cmidrule(lr){{{first}-{first + n - 1}}}"] if name else []
        first += n
    if texts:
        yield rf" & {' & '.join(texts)} \\"
        yield "".join(rules)


def _table_line(row: ReportRow) -> str:
    name, *rest = map(_format_cell, row)
    if isinstance(row[0], Value) and row[0].under:
        name = rf"\quad {name}"
    if name.startswith("["):  # the preceding \\ would take it as its optional argument
        name = f"{{}}{name}"
    return rf"{' & '.join([name, *rest])} \\"


def _format_cell(cell: str | Value) -> str:
    value = cell if isinstance(cell, Value) else Value(cell)
    text = escape_latex(value.text)
    return (rf"\textbf{{{text}}}" if value.bold else text) + _superscript(value.mark)


def _superscript(mark: str) -> str:
    if all(sign in LATEX_MARKS for sign in mark):
        return f"$^{{{''.join(LATEX_MARKS[sign] for sign in mark)}}}$" if mark else ""
    return rf"\textsuperscript{{{escape_latex(mark)}}}"

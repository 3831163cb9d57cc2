"""The tables of a report as LaTeX, each no wider than a page. The only package needed is booktabs."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import NamedTuple

from stableft.report.forms.document import Report, ReportRow, ReportTable, Value, make_label, split_code_spans
from stableft.text import ColumnsPart, fit_columns

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
MINUS = re.compile(r"(?<![\w\-\]])-(?=\.?\d)|(?<=\de)-(?=\d)")  # before a number, also in 1e-05
RANGE = re.compile(r"(?<=\d)-(?=\d)")

PREAMBLE = """\
% Needs \\usepackage{booktabs}. No table is wider than 5.5 in, the \\textwidth of ICLR, or than the page in two columns;
% one that fits a column of these is a table, the others are table*, which is the same in a single column.
"""
PAGE_WIDTH, COLUMN_WIDTH, PAGE_HEIGHT = 397.0, 214.0, 540.0  # points; the height leaves room for spaces around floats


class TypeSize(NamedTuple):
    """A size of type with its space between columns, both in points. `scale` is that of letters against 10 points."""

    command: str
    scale: float
    line: float
    column_space: float


NORMAL = TypeSize("", 1.0, 12, 12)
SMALL, FOOTNOTE = TypeSize(r"\small", 0.93, 11, 10), TypeSize(r"\footnotesize", 0.86, 9.5, 7)
SCRIPT = TypeSize(r"\scriptsize", 0.81, 8, 5)
# Width of letters in Computer Modern Roman at 10 points, no less than in Times. Other letters: 5.4.
LETTER_WIDTHS = {
    **dict.fromkeys("il.,:;'!|j’", 2.9),
    **dict.fromkeys("()[]ftrIs/- \u00a0", 3.9),
    **dict.fromkeys("cez", 4.5),
    **dict.fromkeys("0123456789†*", 5.02),
    **dict.fromkeys("wABCDEFGHKLNOPQRTUVXYZ±−×≤≥<>=+&√", 7.6),
    **dict.fromkeys("m%MW—", 9.0),
}
BOLD_SCALE = 1.16


def report_to_latex(report: Report) -> str:
    """Return a table environment for each of the report's tables, or a comment if there are none."""
    if not report.tables:
        return f"% {' '.join(report.title.splitlines())}: there is no table of it.\n"
    floats = (lines for table in report.tables for lines in _floats(table, table.caption or report.title))
    return PREAMBLE + "\n" + "\n".join("\n".join(lines) + "\n" for lines in floats)


def escape_latex(text: str) -> str:
    """Return the text with special and non-ASCII characters replaced by LaTeX commands."""
    # "--" would become a dash: braces keep the hyphens apart.
    return re.sub("-(?=-)", "-{}", "".join(LATEX_ESCAPES.get(character, character) for character in text))


def latex_words(text: str) -> str:
    """Return the escaped text with minus signs before numbers and dashes in ranges of numbers."""
    text = MINUS.sub("−", text)
    return escape_latex(RANGE.sub("–", text) if re.fullmatch(r"\d+-\d+", text) else text)


def latex_prose(text: str) -> str:
    """Return the escaped text, with text in backticks in typewriter type. Long words may be broken after marks."""
    return "".join(
        rf"\texttt{{{_breakable(part, escape_latex)}}}" if code else _breakable(part, latex_words)
        for part, code in split_code_spans(text)
    )


def _breakable(text: str, escape: Callable[[str], str]) -> str:
    words = text.split(" ")
    pieces = (re.findall(r"[^-_/=,.]*[-_/=,.]+|[^-_/=,.]+", word) if len(word) > 20 else [word] for word in words)
    return " ".join(r"\allowbreak{}".join(map(escape, parts)) for parts in pieces)


def _measure(text: str) -> float:
    """Return the width of a text at 10 points. `**` encloses bold type."""
    bold, text = text.startswith("**"), MINUS.sub("−", text)
    # Not by `sum`, which rounds otherwise from Python 3.12 on: that would break ties between layouts another way.
    letters = reduce(add, (LETTER_WIDTHS.get(letter, 5.4) for letter in text.replace("**", "")), 0.0)
    letters *= BOLD_SCALE if bold else 1
    return letters + {"- ": 2.5, "  ": 7.5}.get(text[:2], 0.0)  # set as a quad, and as a quad and a half


def _choose_size(rows: Sequence[Sequence[str]], table: ReportTable) -> tuple[TypeSize, list[ColumnsPart]]:
    """Return the largest type in which the table fits the page, and its parts.

    Small type is better than wrapped cells, and those are better than several parts.
    """

    def fit(size: TypeSize) -> list[ColumnsPart]:
        width, gap = (PAGE_WIDTH - size.column_space) / size.scale, size.column_space / size.scale
        return fit_columns(rows, width, gap, _measure, table.spans)

    for size in (NORMAL, SMALL, FOOTNOTE):
        parts = fit(size)
        if len(parts) == 1 and all(len(parts[0].wrap(row, _measure)) == 1 for row in rows):
            return size, parts
    return min(((size, fit(size)) for size in (FOOTNOTE, SCRIPT)), key=lambda choice: len(choice[1]))


def _floats(table: ReportTable, caption: str) -> Iterator[list[str]]:
    """Yield the lines of each float: one for the table, or several if it is too wide or too long for a page."""
    rows = [[_cell_text(cell) for cell in row] for row in (table.header_below_groups, *table.rows)]
    size, parts = _choose_size(rows, table)
    narrow = len(parts) == 1 and (sum(parts[0].widths) * size.scale + size.column_space * len(rows[0])) <= COLUMN_WIDTH
    width = COLUMN_WIDTH if narrow else PAGE_WIDTH
    environment = "table" if narrow else "table*"
    number = 0

    def begin() -> list[str]:
        opening = [rf"\begin{{{environment}}}", r"\centering"]
        if number:
            return [*opening, r"\addtocounter{table}{-1}", r"\caption{(continued)}", r"\smallskip"]
        label = rf"\label{{tab:{make_label(table.name)}}}"
        return [*opening, rf"\caption{{{latex_prose(caption)}}}", label, r"\smallskip"]

    def notes_height(note: str) -> float:
        return 3 + FOOTNOTE.line * math.ceil(_measure(note) * FOOTNOTE.scale / width * 1.1)

    lines, left = [], 0.0
    for part in parts:
        for chunk in _chunks(table, part, size, PAGE_HEIGHT - _caption_height(caption, width)):
            if number:
                yield [*lines, rf"\end{{{environment}}}"]
            left = PAGE_HEIGHT - _caption_height("" if number else caption, width)
            left -= size.line * (len(chunk) + 1)
            lines = [*begin(), *_tabular(table, part, size, chunk)]
            number += 1
    for note in table.notes:
        if (height := notes_height(note)) > left:
            yield [*lines, rf"\end{{{environment}}}"]
            lines, left = begin(), PAGE_HEIGHT
        lines.append(rf"\par\smallskip\raggedright\footnotesize {latex_prose(note)}")
        left -= height
    yield [*lines, rf"\end{{{environment}}}"]


def _caption_height(caption: str, width: float) -> float:
    return 10 + NORMAL.line * math.ceil((_measure(caption) + 50) / width * 1.1)


def _chunks(table: ReportTable, part: ColumnsPart, size: TypeSize, height: float) -> Iterator[list[str]]:
    """Yield the rows of a part in pieces that fit the height. Rows stay with the row to which they belong."""
    together: list[list[str]] = []
    for row in table.rows:
        texts = [_cell_text(cell) for cell in row]
        if len(part.columns) < len(row) and not part.has(texts):
            continue
        lines = _row_lines(row, part)
        if texts[0].startswith("- ") and together:
            together[-1] += lines
        else:
            together.append(lines)
    header = len(part.wrap(table.header_below_groups, _measure)) + (1 if table.groups else 0) + 2
    room = int(height / size.line) - header
    chunk: list[str] = []
    for lines in together:
        if chunk and len(chunk) + len(lines) > room:
            yield chunk
            chunk = []
        chunk += lines
    yield chunk


def _tabular(table: ReportTable, part: ColumnsPart, size: TypeSize, rows: Iterable[str]) -> list[str]:
    small = [] if size is NORMAL else [size.command, rf"\setlength{{\tabcolsep}}{{{size.column_space / 2:g}pt}}"]
    return [
        *small,
        rf"\begin{{tabular}}{{l{'r' * (len(part.columns) - 1)}}}",
        r"\toprule",
        *_group_headings(table.spans, part),
        *_row_lines(table.header_below_groups, part),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _group_headings(spans: Iterable[tuple[int, int, str]], part: ColumnsPart) -> Iterator[str]:
    """Yield the lines of group headings and that of the rules below them. A group without a name has no rule."""
    cells, rules, first = [], [], 2
    for start, n, name in spans:
        widths = [w for i, w in zip(part.columns, part.widths, strict=True) if start <= i < start + n]
        if widths:
            wrapped = ColumnsPart((0,), (sum(widths),)).wrap([name], _measure)
            cells.append((len(widths), [line for (line,) in wrapped]))
            rules += [rf"\cmidrule(lr){{{first}-{first + len(widths) - 1}}}"] if name else []
            first += len(widths)
    for number in range(max((len(lines) for _, lines in cells), default=0)):
        texts = (
            rf"\multicolumn{{{n}}}{{c}}{{{latex_words(lines[number]) if number < len(lines) else ''}}}"
            for n, lines in cells
        )
        yield rf" & {' & '.join(texts)} \\"
    if cells:
        yield "".join(rules)


def _row_lines(row: ReportRow, part: ColumnsPart) -> list[str]:
    """Return a row of the table, and further ones with the rest of its wrapped cells."""
    wrapped = part.wrap([_cell_text(cell) for cell in row], _measure)
    values = [cell if isinstance(cell, Value) else Value(cell) for cell in row]
    lines: list[str] = []
    for number, texts in enumerate(wrapped):
        cells: list[str] = []
        for i, text in zip(part.columns, texts, strict=True):
            last = not any(later[part.columns.index(i)] for later in wrapped[number + 1 :])
            cells.append(_format_cell(replace(values[i], text=text), last))
        name, *rest = cells
        if values[0].under:
            name = rf"\quad {name}" if number == 0 else rf"\quad\enspace {name}" if name else ""
        elif number and name:
            name = rf"\quad {name.lstrip()}"
        if name.startswith("["):  # the preceding \\ would take it as its optional argument
            name = f"{{}}{name}"
        lines.append(rf"{' & '.join([name, *rest])} \\")
    return lines


def _cell_text(cell: str | Value) -> str:
    """Return a cell's text as it is measured: with its mark, and with signs of what is bold or below another row."""
    value = cell if isinstance(cell, Value) else Value(cell)
    text = ("- " if value.under else "") + " ".join(value.text.splitlines())
    return (f"**{text}**" if value.bold and text else text) + value.mark


def _format_cell(value: Value, last: bool) -> str:
    """Return a line of a cell. Its text is as `_cell_text` writes it; the mark goes to its last line."""
    text = value.text.removesuffix(value.mark) if last else value.text
    text = latex_words(text.strip().removeprefix("- ").replace("**", "") if value.under else text.replace("**", ""))
    return (rf"\textbf{{{text}}}" if value.bold and text else text) + (_superscript(value.mark) if last else "")


def _superscript(mark: str) -> str:
    if all(sign in LATEX_MARKS for sign in mark):
        return f"$^{{{''.join(LATEX_MARKS[sign] for sign in mark)}}}$" if mark else ""
    return rf"\textsuperscript{{{escape_latex(mark)}}}"

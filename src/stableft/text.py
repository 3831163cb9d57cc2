"""Text that is safe to show, columns, durations, live progress and the standard streams for the terminal."""

import codecs
import io
import math
import os
import re
import shutil
import sys
import textwrap
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

TextRow = tuple[object, ...]


# Control characters but for tab and line feed, marks that reverse the direction of text, halves of surrogate pairs.
UNSAFE_ON_SCREEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
FORMULA = re.compile(r"[=+\-@\t\r].", re.DOTALL)  # begins a cell that spreadsheets compute; a lone sign is text
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?%?", re.ASCII | re.IGNORECASE)


def strip_controls(text: str) -> str:
    """Return the text without characters by which a name from a file could act on a terminal or hide what it is."""
    return UNSAFE_ON_SCREEN.sub("", text)


def quote_formula(cell: str) -> str:
    """Return a cell of a CSV file, with an apostrophe in front if a spreadsheet would compute it. Numbers stay."""
    return f"'{cell}" if FORMULA.match(cell) and not PLAIN_NUMBER.fullmatch(cell) else cell


SCREEN_WIDTH = 100  # of output that is not a terminal's, and of prose on a wider terminal


def screen_width(otherwise: int = SCREEN_WIDTH) -> int:
    """Return the number of columns of the terminal, or COLUMNS; `otherwise` without either."""
    return shutil.get_terminal_size((otherwise, 24)).columns


def wrap_prose(text: str, indent: str = "") -> list[str]:
    """Return the lines of a text that fit the screen, the later ones indented. Words stay whole."""
    width = min(SCREEN_WIDTH, screen_width())
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def align_columns(rows: Sequence[TextRow]) -> str:
    """Return the rows as left-aligned columns that fit the terminal. All rows must have the same length.

    Cells are wrapped as often as needed to keep the columns beside each other. Without a terminal, a row is a line.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    width = screen_width(otherwise=max(sum(map(len, row)) for row in texts) * len(texts))
    wrapped = (fit_columns(texts, width, gap=2, cell_lines=n) for n in range(2, 8))
    parts = next((parts for parts in wrapped if len(parts) == 1), None) or fit_columns(texts, width, gap=2)
    return "\n".join(line for part in parts for line in part.lines(texts))


GLUED = re.compile(r"(?<=[\d%.]) (?:±|to|of) (?=[-+−]?\.?\d)|\[[-+\d.]+, [-+\d.]+\](?: \*)?")
LINE_OF_CELL = 24  # characters that a line of a wrapped cell holds, unless two lines hold more


LABEL_SHARE = 0.4  # of the width, at most, for the first column if not all columns fit


def glue(text: str) -> str:
    """Return the text with no-break spaces in what reads as one: 68.7 ± 6.2, 3.4 to 17.2, [3.4, 17.2] and 5 of 20."""
    return GLUED.sub(lambda found: found[0].replace(" ", "\u00a0"), text)


@dataclass(frozen=True)
class ColumnsPart:
    """Columns of a table that fit a width together: their indices, the first column included, and their widths."""

    columns: tuple[int, ...]
    widths: tuple[float, ...]

    def wrap(self, row: Sequence[str], measure: Callable[[str], float] = len) -> list[list[str]]:
        """Return the lines of a row, each with a text for every column of this part."""
        pairs = zip(self.columns, self.widths, strict=True)
        cells = [wrap_cell(row[i], width, measure, is_label=i == 0) for i, width in pairs]
        return [[cell[n] if n < len(cell) else "" for cell in cells] for n in range(max(map(len, cells)))]

    def has(self, row: Sequence[str]) -> bool:
        """Whether a row has anything here, or may be the one to which the rows below it belong."""
        return any(row[i] for i in self.columns[1:]) or not row[0].startswith("- ")

    def lines(self, rows: Sequence[Sequence[str]], right: Collection[int] = (), gap: str = "  ") -> Iterator[str]:
        """Yield the rows as text. Columns are aligned to the left, those in `right` to the right."""
        for row in filter(self.has, rows):
            for line in self.wrap(row):
                cells = zip(line, self.columns, self.widths, strict=True)
                yield gap.join(
                    text.rjust(int(width)) if i in right else text.ljust(int(width)) for text, i, width in cells
                ).rstrip()


def wrap_cell(text: str, width: float, measure: Callable[[str], float] = len, is_label: bool = False) -> list[str]:
    """Return the lines of a cell. A long word wider than the cell is broken after its hyphens or other marks.

    The further lines of a label are indented, which tells them from the labels of other rows.
    """
    hang = "  " if is_label or text.startswith("- ") else ""
    lines: list[str] = []
    for word in glue(text).split(" "):
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append(hang if lines else "")
        for piece in _pieces(word) if measure(word) > width else [word]:
            if lines[-1].strip() and measure(lines[-1] + piece) > width:
                lines.append(hang)
            lines[-1] += piece
    return [line.replace("\u00a0", " ") for line in lines]


def _pieces(word: str) -> list[str]:
    """Return a long name or path in pieces that end in a hyphen or another mark. Numbers such as 1e-05 are whole."""
    return re.findall(r"[^-_/=,]*[-_/=,]+|[^-_/=,]+", word) if len(word) > LINE_OF_CELL else [word]


def fit_columns(
    rows: Sequence[Sequence[str]],
    width: float,
    gap: float,
    measure: Callable[[str], float] = len,
    spans: Sequence[tuple[int, int, str]] = (),
    cell_lines: int = 2,
) -> list[ColumnsPart]:
    """Return the parts of a table that fit the width, each with the first column.

    A table that fits is one part. Otherwise cells are wrapped to `cell_lines`, more for long texts; if this is not
    enough, the columns are split, those of one of the `spans` (first column, number, heading) together where possible.
    A single column may remain too wide.
    """
    n_columns = len(rows[0])
    full = [max(measure(row[i]) for row in rows) for i in range(n_columns)]
    narrow = [max(_narrowest(row[i], cell_lines, measure, i == 0) for row in rows) for i in range(n_columns)]
    if narrow[0] > LABEL_SHARE * width:  # long names are broken at their hyphens
        narrow[0] = max(_widest_piece(row[0], LABEL_SHARE * width, measure) for row in rows)
    for widths in (full, narrow):
        for start, n, heading in spans:  # a heading wider than its columns widens the last one
            wanted = measure(heading) if widths is full else _narrowest(heading, 2, measure)
            widths[start + n - 1] += max(0, wanted - sum(widths[start : start + n]) - gap * (n - 1))
    if sum(full) + gap * (n_columns - 1) <= width:
        return [ColumnsPart(tuple(range(n_columns)), tuple(full))]
    room = width - narrow[0]
    blocks = [list(range(start, start + n)) for start, n, _ in spans] or [[i] for i in range(1, n_columns)]
    size = [gap + width for width in narrow]
    blocks = [
        piece
        for block in blocks
        for piece in ([block] if sum(size[i] for i in block) <= room else [[i] for i in block])
    ]
    parts = _pack(blocks, size, room)
    while len(tighter := _pack(blocks, size, room * 0.95)) == len(parts) and room > gap:  # parts of about one width
        parts, room = tighter, room * 0.95
    return [_widen((0, *part), narrow, full, width - gap * len(part)) for part in parts]


def _narrowest(text: str, lines: int, measure: Callable[[str], float], is_label: bool = False) -> float:
    """Return the least width at which a text takes so many lines, or more if it is long."""
    words = glue(text).split(" ")
    lines = max(lines, math.ceil(len(text) / LINE_OF_CELL))
    pieces = [piece for word in words for piece in _pieces(word)]
    spans = [(i, j) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1)]
    starts = ("", "  ") if is_label else ("",)
    widths = sorted({measure(s + join(pieces[i:j])) for i, j in spans for join in (" ".join, "".join) for s in starts})
    widest = max(map(measure, pieces))
    return widths[bisect_left(widths, True, key=lambda w: w >= widest and _fits(text, w, lines, measure, is_label))]


def _fits(text: str, width: float, lines: int, measure: Callable[[str], float], is_label: bool) -> bool:
    wrapped = wrap_cell(text, width, measure, is_label)
    return len(wrapped) <= lines and max(map(measure, wrapped)) <= width


def _widest_piece(text: str, width: float, measure: Callable[[str], float]) -> float:
    return max(map(measure, wrap_cell(text, width, measure, is_label=True)))


def _pack(blocks: Sequence[list[int]], size: Sequence[float], room: float) -> list[list[int]]:
    parts: list[list[int]] = []
    for block in blocks:
        if parts and sum(size[i] for i in [*parts[-1], *block]) <= room:
            parts[-1] += block
        else:
            parts.append(list(block))
    return parts


def _widen(columns: tuple[int, ...], narrow: Sequence[float], full: Sequence[float], width: float) -> ColumnsPart:
    """Return a part whose columns take their full width where there is room, those that need least first."""
    widths = {i: narrow[i] for i in columns}
    for i in sorted(columns, key=lambda i: full[i] - narrow[i]):
        if sum(widths.values()) + full[i] - narrow[i] <= width:
            widths[i] = full[i]
    for i in columns:  # what is left
        widths[i] = min(full[i], widths[i] + max(0, width - sum(widths.values())))
    return ColumnsPart(columns, tuple(widths[i] for i in columns))


def join_with(texts: Sequence[str], word: str = "and") -> str:
    """Return the texts as a list in words: a, b and c."""
    return f" {word} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def format_duration(seconds: float | None) -> str:
    """Return hours, minutes and seconds as 1:02:03, or "?" if the time is unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def format_bytes(size: float) -> str:
    """Return a size in bytes with a decimal unit, such as 567 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def seed_label(init: int, data: int) -> str:
    """Return a run's seed, or both with a slash between where they differ."""
    return str(init) if init == data else f"{init}/{data}"


REFRESH_SECONDS = 0.25  # between redraws on a terminal
LINE_SECONDS = 30.0  # between lines when the output is not a terminal


class LiveOutput:
    """Shows the progress of a long task: redrawn in place on a terminal (`display`), otherwise as occasional lines."""

    def __init__(self, display: "Live | None") -> None:
        self.display = display
        self._shown_at = time.monotonic()

    def show(self, render: "Callable[[], RenderableType]", at_once: bool = False) -> None:
        """Show what `render` returns, unless the previous output is too recent and `at_once` is false."""
        now = time.monotonic()
        if not at_once and now - self._shown_at < (LINE_SECONDS if self.display is None else REFRESH_SECONDS):
            return
        self._shown_at = now
        if self.display is None:
            print(render(), flush=True)
            return
        from rich.text import Text

        content = render()
        self.display.update(Text(content) if isinstance(content, str) else content, refresh=True)  # no markup in lines

    def print_line(self, line: str) -> None:
        """Print a line that stays, above what is redrawn."""
        if self.display is None:
            print(line, flush=True)
        else:
            self.display.console.print(line, markup=False, highlight=False)


@contextmanager
def open_live_output(live: bool | None = None, transient: bool = False) -> Iterator[LiveOutput]:
    """Yield the output of a long task. `live` None: redraw if the output is a terminal; `transient`: erase at exit."""
    if not (sys.stdout.isatty() if live is None else live):
        yield LiveOutput(None)
        return
    from rich.live import Live  # takes a while to import

    with Live(auto_refresh=False, transient=transient) as display:
        yield LiveOutput(display)


class ForgivingFile(io.FileIO):
    """A standard stream whose reader may die and whose disk may be full: after the first `error`, writes do nothing."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                written = super().write(data)
                return len(data) if written is None else written  # None: a terminal that takes nothing at the moment
            except OSError as error:
                self.error = error
        return len(data)


PLAIN_FORMS = {"†": "+", "‡": "++", "±": "+-", "−": "-", "–": "-", "×": "x", "≤": "<=", "≥": ">=", "’": "'", "…": "..."}


def _write_plainly(error: UnicodeError) -> tuple[bytes, int]:
    """Return a plain form of characters that a terminal's encoding lacks, and the bytes of a file name as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    forms = (
        bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else PLAIN_FORMS.get(one, "?").encode()
        for one in characters
    )
    return b"".join(forms), error.end


codecs.register_error("plain_forms", _write_plainly)


@contextmanager
def forgiving_output() -> Iterator[dict[str, ForgivingFile]]:
    """Let nothing that is printed to the standard streams raise: what is computed matters more than its display.

    Yield the streams by name, without those that a notebook or a test has replaced.
    """
    before = {"stdout": sys.stdout, "stderr": sys.stderr}
    files: dict[str, ForgivingFile] = {}
    for name, stream in before.items():
        if stream is None:  # closed before the start
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and os.name == "posix":
            files[name] = ForgivingFile(stream.fileno(), "wb", closefd=False)
            buffer = io.BufferedWriter(files[name])
            options = {
                "line_buffering": stream.line_buffering,
                "write_through": getattr(stream, "write_through", False),
            }
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, "plain_forms", **options))
    try:
        yield files
    finally:
        for name, stream in before.items():
            (getattr(sys, name).close if stream is None else getattr(sys, name).flush)()
            setattr(sys, name, stream)


class Pace:
    """Estimates the time left of a task with `total` parts, `done` of which were done before the clock started."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self._done_before, self._started = total, done, time.monotonic()

    def time_left(self, done: int) -> str:
        """Return the estimated time left in words once `done` parts are done."""
        new = done - self._done_before
        seconds = (time.monotonic() - self._started) / new * (self.total - done) if new else None
        return describe_time_left(seconds)


def describe_time_left(seconds: float | None) -> str:
    """Return the time left in words, "?" if unknown."""
    return f"ETA {format_duration(seconds)}"

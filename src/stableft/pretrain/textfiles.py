"""Text files to pre-train on: which files a path means, their hash, and the documents that their lines make."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from stableft.errors import UserError
from stableft.locate import file_digest

DOCUMENT_TAG = re.compile(r"</?doc\b[^>]*>")  # WikiExtractor's


def text_files(path: Path) -> list[Path]:
    """Returns the file itself, or all files of a folder at any depth in the order of their names, hidden ones apart."""
    if path.is_file():
        return [path]
    found = [
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    return [file for _, file in sorted(found)]


def text_digest(path: Path) -> str:
    """Returns the SHA-256 of a file, or one over names and contents of all text files of a folder."""
    if path.is_file():
        return file_digest(path)
    lines = [f"{file_digest(file)}  {file.relative_to(path).as_posix()}\n" for file in text_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_documents(files: Iterable[Path]) -> Iterator[tuple[int, str]]:
    """Yields the lines with text, each with the number of its document.

    A document ends at its file's end and at a `<doc ...>` or `</doc>` line. Where a file has such lines, blank ones
    mean nothing (WikiExtractor puts one after the title); elsewhere a blank line ends a document.

    Raises:
        UserError: a file is not UTF-8 text.
    """
    document = 0
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"text: {file} is not UTF-8 text (byte {error.start})") from None
        tagged = any(DOCUMENT_TAG.fullmatch(line.strip()) for line in lines)
        document += 1
        for line in lines:
            text = line.strip()
            if DOCUMENT_TAG.fullmatch(text) if tagged else not text:
                document += 1
            elif text:
                yield document, text

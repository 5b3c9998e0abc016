"""Reading text that any editor, on any system, has saved.

Text is UTF-8, with or without a byte-order mark; lines end as they do on Unix, Windows or an old
Macintosh. All text and JSON from files is read through here, so that every error names the file
and, where there is one, the line. Wrong contents are a ValueError.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from typing import Any, Iterable, Iterator, Sequence, Union

PathLike = Union[str, "os.PathLike[str]"]
# Of UTF-32 first: its little-endian mark begins with that of UTF-16.
OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LINE_END = re.compile(b"\r\n|\r|\n")


def text_of(content: bytes, where: object) -> str:
    """Return bytes as text, without byte-order marks, every line ending in a line feed.

    Raises a ValueError that names ``where`` they are from, what they are, and the remedy.
    """
    for mark, name in OTHER_MARKS.items():
        if content.startswith(mark):
            raise ValueError(f"{where}: is {name} text; save it as UTF-8")
    at = content.find(b"\0")
    if at >= 0:
        raise ValueError(
            f"{where}:{_line_at(content, at)}: byte {at + 1} is NUL: UTF-16 text (save it as "
            "UTF-8), no text at all, or damaged"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}:{_line_at(content, error.start)}: not UTF-8 text: byte {error.start + 1} is "
            f"0x{content[error.start]:02x}; save it as UTF-8"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Files that were joined have marks in the middle; at the beginning of a line it is never text.
    return re.sub("^\ufeff+", "", text, flags=re.MULTILINE) if "\ufeff" in text else text


def read_text(path: PathLike, hint: str = "") -> str:
    """Return the text of a file; ``hint`` ends the message if it is missing."""
    try:
        with open(path, "rb") as file:
            return text_of(file.read(), path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing" + (f"; {hint}" if hint else "")) from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{path} is a folder; a text file is needed") from error


def read_lines(path: PathLike, hint: str = "") -> list[tuple[int, str]]:
    """Return ``(number from 1, line)`` of the lines that are not blank, stripped."""
    lines = enumerate(read_text(path, hint).split("\n"), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_table(path: PathLike, fields: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return ``(number from 1, row)`` of a CSV file that has these columns and perhaps others."""
    rows = [
        (number, [word.strip() for word in words])
        for at, line in read_lines(path)
        for number, words in rows_of_csv([line], path, at)
    ]
    heading = rows[0][1] if rows else []
    lacking = [name for name in fields if name not in heading]
    if lacking:
        raise ValueError(
            f"{path}: column {', '.join(lacking)} is missing; the first line must name "
            f"{', '.join(fields)}"
        )
    short = [number for number, words in rows[1:] if len(words) != len(heading)]
    if short:
        raise ValueError(f"{path}:{short[0]}: not the {len(heading)} columns of the first line")
    return [(number, dict(zip(heading, words))) for number, words in rows[1:]]


def rows_of_csv(
    lines: Iterable[str], where: object, first: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(number of its last line, fields)`` of the rows in lines of CSV, as they stand there.

    ``first`` is the number of the first line. ValueError: a field is too long for CSV, as of a
    quotation mark that nothing closes, which makes one field of all that follows.
    """
    reader = csv.reader(lines)
    try:
        for row in reader:
            yield first - 1 + reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{where}:{first - 1 + reader.line_num}: not CSV: {error}") from error


def read_json(path: PathLike, hint: str = "") -> Any:
    """Return the contents of a JSON file; see :func:`read_text` and :func:`json_of`."""
    return json_of(read_text(path, hint), path)


def read_json_lines(path: PathLike) -> list[tuple[int, Any]]:
    """Return ``(number from 1, record)`` of the lines of a JSON-lines file that are not blank.

    Of a line that is no JSON the record is the ValueError that says so: a killed process may have
    left half a line, a crashed machine zeros.
    """
    records: list[tuple[int, Any]] = []
    with open(path, "rb") as file:
        for number, line in enumerate(LINE_END.split(file.read()), 1):
            if line.strip():
                try:
                    records.append((number, json_of(text_of(line, path), path)))
                except ValueError as error:
                    records.append((number, error))
    return records


def json_of(text: str, where: object) -> Any:
    """Return the contents of a JSON text; a ValueError names ``where`` it is from and the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        what = f"{error.msg} (column {error.colno})" if text.strip() else "the file is empty"
        raise ValueError(
            f"{where}:{error.lineno}: not valid JSON: {what}; it is damaged or was not copied "
            "completely"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers or nesting beyond Python's limits
        raise ValueError(f"{where}: not valid JSON: {error}") from error


def _line_at(content: bytes, at: int) -> int:
    return len(LINE_END.findall(content, 0, at)) + 1

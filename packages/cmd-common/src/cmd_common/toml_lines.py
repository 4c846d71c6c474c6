"""Line numbers of the keys of a TOML document, which the standard parser does not tell."""

from __future__ import annotations

__all__ = ["key_lines"]


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line numbers, from 1, of the keys and tables of a valid TOML document, by path."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    line, i, depth, start = 1, 0, 0, True
    while i < len(text):
        c = text[i]
        if c == "\n":
            line, i, start = line + 1, i + 1, depth == 0
        elif c == "#":
            end = text.find("\n", i)
            i = len(text) if end < 0 else end
        elif c in "\"'" and not (start and depth == 0):
            end = _string_end(text, i)
            line, i = line + text.count("\n", i, end), end
        elif start and not c.isspace():
            start = False
            if c == "[":
                end = _line_end(text, i)
                table = _path(text[i:end].strip("[] \t\r"))
                lines.setdefault(table, line)
                i = end
            else:
                end = _key_end(text, i)
                path = (*table, *_path(text[i:end]))
                for n in range(len(table) + 1, len(path) + 1):
                    lines.setdefault(path[:n], line)
                i = end + 1
        else:
            depth += (c in "[{") - (c in "]}")
            i += 1
    return lines


def _string_end(text: str, i: int) -> int:
    quote = text[i]
    triple = text[i : i + 3] == quote * 3
    close = quote * 3 if triple else quote
    i += len(close)
    while i < len(text) and not text.startswith(close, i):
        i += 2 if text[i] == "\\" and quote == '"' else 1
    i += len(close)
    while triple and i < len(text) and text[i] == quote:  # a quote may stand right before the closing three
        i += 1
    return i


def _line_end(text: str, i: int) -> int:
    """End of a table header: the line's end or its comment."""
    while i < len(text) and text[i] not in "\n#":
        i = _string_end(text, i) if text[i] in "\"'" else i + 1
    return i


def _key_end(text: str, i: int) -> int:
    while i < len(text) and text[i] != "=":
        i = _string_end(text, i) if text[i] in "\"'" else i + 1
    return i


def _path(text: str) -> tuple[str, ...]:
    parts: list[str] = []
    i, current = 0, ""
    while i < len(text):
        if text[i] in "\"'":
            end = _string_end(text, i)
            current += text[i + 1 : end - 1]
            i = end
        elif text[i] == ".":
            parts.append(current.strip())
            current, i = "", i + 1
        else:
            current += "" if text[i].isspace() else text[i]
            i += 1
    return (*parts, current)

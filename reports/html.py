"""One page from sections of text, tables and figures: as self-contained HTML and as Markdown for GitHub.

Text is written once, in a small markup: paragraphs, **bold**, `code` and [links](#section-id). Other pages of the project
(sweeps, reproductions) use the same blocks, template and style.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
INK, GRID, PAPER = "#1c2530", "#d9dee3", "#ffffff"  # what drawings use for text and axes, grid, background
WHITE = "#fefefe"  # for what has to stay light where PAPER's colour turns into the page's background: arrows on a map
EMBED_SVG_BYTES = 400_000  # larger drawings are embedded as PNG


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines. kind: '' | 'lead' | 'notice' (a warning that must be seen) | 'how' (to read)."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A table cell: markup text; `detail` in small type beside it; a coloured dot for an algorithm's label."""

    text: str
    detail: str = ""
    color: str = ""
    strong: bool = False
    code: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of Cells or plain strings (taken literally); columns that hold only numbers are set flush right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing as PNG and SVG. `alt`: what it shows, for who cannot see it; `how`: a short text on how to read it."""

    name: str
    png: bytes
    svg: str
    caption: str
    alt: str
    how: str = ""
    wide: bool = True  # scrolls inside its own box on a narrow screen instead of shrinking to nothing


@dataclass(frozen=True)
class Details:
    """Blocks behind a click; printed in full."""

    summary: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: Sequence[Any] = field(default_factory=list)


Block = Text | Bullets | Table | Figure | Details


def figures(sections: Sequence[Section]) -> list[Figure]:
    """All figures of a page, in order."""

    def walk(blocks: Sequence[Any]) -> list[Figure]:
        inner = [walk(block.blocks) if isinstance(block, Details) else [block] for block in blocks]
        return [block for group in inner for block in group if isinstance(block, Figure)]

    return [figure for section in sections for figure in walk(section.blocks)]


def page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The page as one HTML file that needs nothing beside it: style and figures inside, no script, no request."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(kind=lambda block: type(block).__name__, numeric=numeric_columns, embed=embed)
    environment.filters.update(inline=inline, paragraphs=paragraphs, breakable=breakable)
    template = environment.get_template("page.html")
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return template.render(title=title, subtitle=subtitle, sections=sections, css=css)


def inline(text: str) -> Any:
    """The small markup of a line as HTML; everything else is escaped. A name of parts may be broken behind a slash."""
    import markupsafe

    parts = re.split(r"(`[^`]+`)", text)
    out = []
    for part in parts:
        if len(part) > 2 and part[0] == part[-1] == "`":
            out.append(f"<code>{escape(part[1:-1])}</code>")
            continue
        part = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(breakable(part)))
        out.append(re.sub(r"\[([^\]]+)\]\((#[\w-]+)\)", r'<a href="\2">\1</a>', part))
    return markupsafe.Markup("".join(out))


def breakable(text: str) -> Any:
    """Literal text as HTML that may be broken behind a slash, as `inline` has it."""
    import markupsafe

    return markupsafe.Markup(re.sub(r"(?<=\w)/(?=\w)", "/<wbr>", escape(text)))


def paragraphs(text: str) -> list[Any]:
    return [inline(part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def grouped(rows: list[list[Any]]) -> list[list[Any]]:
    """The same rows with the first column written only where it changes."""
    before = [None, *(row[0] for row in rows)]
    return [["" if row[0] == earlier else row[0], *row[1:]] for row, earlier in zip(rows, before, strict=False)]


def numeric_columns(table: Table) -> list[bool]:
    """Which columns hold only numbers (with units, signs, intervals or a dash for nothing)."""
    number = re.compile(
        r"^(?:[-−+]?\d[\d.,\u202f]*(?:e[-−]?\d+)?[kMGT]?(?: ?%| s| of \d+| to [\d.kMGT]+| \(\d+ more\))?|–|"
        r"|not reached|not scored|missing|more than \d+|spread unknown)$"
    )
    columns = range(len(table.columns))
    texts = [[_cell(row[column]).text.strip("*") for row in table.rows if column < len(row)] for column in columns]
    return [bool(column) and bool(texts[column]) and all(map(number.match, texts[column])) for column in columns]


def _cell(value: Cell | str) -> Cell:
    return value if isinstance(value, Cell) else Cell(str(value))


def embed(figure: Figure) -> str:
    """A data URI: the SVG, whose ink follows the page's light or dark scheme, or the PNG of a heavy drawing."""
    svg = themed(figure.svg).encode()
    if len(svg) > EMBED_SVG_BYTES and len(figure.png) < len(svg):
        return "data:image/png;base64," + base64.b64encode(figure.png).decode()
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def themed(svg: str) -> str:
    """The drawing with its ink, its grid and its paper as style variables that follow the reader's light or dark scheme."""
    for name, color in (("ink", INK), ("grid", GRID), ("paper", PAPER)):
        svg = svg.replace(color, f"var(--{name})")
    style = (
        f"<style>svg{{--ink:{INK};--grid:{GRID};--paper:transparent}}"
        "@media (prefers-color-scheme:dark){svg{--ink:#e4e8ed;--grid:#333c46}}</style>"
    )
    return re.sub(r"(<svg\b[^>]*>)", lambda match: match.group(1) + style, svg, count=1)


def markdown(title: str, sections: Sequence[Section], *, subtitle: str = "", folder: str = "figures") -> str:
    """The same page as GitHub Markdown; figures are referenced as `folder`/<name>.png."""
    parts = [f"# {_escape(title)}"]
    if subtitle:
        parts.append(_markup(subtitle))
    for section in sections:
        parts.append(f"## {_escape(section.title)}")
        parts += [_markdown_block(block, folder) for block in section.blocks]
    text = "\n\n".join(part for part in parts if part) + "\n"
    for section in sections:  # GitHub makes the anchor of a heading from its words
        text = text.replace(f"](#{section.id})", f"](#{re.sub('[^a-z0-9 -]', '', section.title.lower()).replace(' ', '-')})")
    return text


def _markdown_block(block: Block, folder: str) -> str:
    if isinstance(block, Text):
        text = _markup(block.text)
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n")) if block.kind == "notice" else text
    if isinstance(block, Bullets):
        return "\n".join(f"- {_markup(item)}" for item in block.items)
    if isinstance(block, Table):
        return _markdown_table(block)
    if isinstance(block, Figure):
        alt = block.alt.replace("[", "(").replace("]", ")")
        how = f"\n\n*How to read it:* {_markup(block.how)}" if block.how else ""
        return f"**{_escape(block.caption)}**\n\n![{_escape(alt)}]({folder}/{block.name}.png){how}"
    inner = "\n\n".join(_markdown_block(item, folder) for item in block.blocks)
    return f"<details><summary>{escape(block.summary)}</summary>\n\n{inner}\n\n</details>"


def _markdown_table(table: Table) -> str:
    def text(value: Cell | str) -> str:
        if isinstance(value, str):
            return _escape(value).replace("|", "\\|")
        cell = value
        plain = _code(cell.text) if cell.code else _markup(cell.text)
        plain = f"**{plain}**" if cell.strong and plain and not cell.code else plain
        detail = f" {_markup(cell.detail)}" if cell.detail else ""
        return (plain + detail).replace("|", "\\|").replace("\n", " ")

    rule = ["---:" if right else "---" for right in numeric_columns(table)]
    rows = [[text(column) for column in table.columns], rule, *([text(cell) for cell in row] for row in table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    caption = [f"**{_escape(table.caption)}**", ""] if table.caption else []
    return "\n".join([*caption, *lines, *(["", _markup(table.note)] if table.note else [])])


def _code(text: str) -> str:
    """A code span, in more backticks than stand anywhere in it together."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _escape(text: str) -> str:
    return re.sub(r"([\\*_<>\[\]`#])", r"\\\1", text)


def _markup(text: str) -> str:
    """Our markup is Markdown already; only what GitHub would take for HTML is escaped, and code is left alone."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part[:1] == "`" else part.replace("<", "&lt;").replace("_", "\\_") for part in parts)

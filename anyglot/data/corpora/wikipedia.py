"""Plain paragraphs out of a Wikipedia export: wikitext in, English prose without markup out."""

import bz2
import html
import io
import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

_END = {"see also", "references", "notes", "footnotes", "external links", "further reading", "bibliography", "sources"}
_INNERMOST_TEMPLATE = re.compile(r"\{\{((?:(?!\{\{|\}\}).)*)\}\}", re.DOTALL)
_INNERMOST_LINK = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]", re.DOTALL)
_TABLE = re.compile(r"^:*\{\|(?:(?!^:*\{\|).)*?^\s*\|\}", re.DOTALL | re.MULTILINE)
_BLOCK_TAGS = "ref|math|gallery|timeline|imagemap|code|source|syntaxhighlight|pre|blockquote|table|score|sub|sup|chem"
_BLOCK = re.compile(rf"<({_BLOCK_TAGS})\b(?:[^>]*[^>/])?>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_LOST = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for content that text cannot hold; its sentence goes
_RESIDUE = re.compile(rf"[{{}}\[\]<>|=_\\*{_LOST}]|''|https?:|&[a-z]+;")


def articles(archive: bytes) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of each article in a bz2-compressed XML export; redirects and project pages left out."""
    title = ""
    for _, element in ElementTree.iterparse(io.BytesIO(bz2.decompress(archive))):
        tag = element.tag.rpartition("}")[2]
        if tag == "title":
            title = element.text or ""
        elif tag == "text":
            text = element.text or ""
            if ":" not in title and not text.lstrip().lower().startswith("#redirect"):
                yield title, text
        elif tag == "page":
            element.clear()


def paragraphs(wikitext: str, shortest: int, longest: int) -> list[str]:
    """Prose paragraphs of `shortest` to `longest` characters; longer ones are cut between sentences.

    Lists, tables, footnotes and the closing sections are left out, and so is any sentence in which
    markup remains or of which a part (a formula) is lost.
    """
    found = []
    for line in plain(wikitext).split("\n"):
        for piece in _pieces(line.strip(), longest):
            if len(piece) >= shortest and piece[0].isalnum() and piece[-1] in ".!?\"'":
                found.append(piece)
    return found


def plain(wikitext: str) -> str:
    """Wikitext as lines of text: one per paragraph, markup resolved, list and table lines emptied."""
    text = re.sub(r"<!--.*?-->", "", wikitext, flags=re.DOTALL)
    text = re.sub(r"<ref\b[^>]*/>", "", text, flags=re.IGNORECASE)
    text = _BLOCK.sub(lambda match: "" if match[1].lower() in ("ref", "gallery", "table") else _LOST, text)
    text = _until_stable(_INNERMOST_TEMPLATE, _template, text)
    text = _until_stable(_TABLE, lambda match: "", text)
    text = _until_stable(_INNERMOST_LINK, _link, text)
    text = re.sub(r"\[(?:https?:|//|mailto:)\S+\s*([^\]]*)\]", r"\1", text)
    text = re.sub(r"</?[a-z][^>]*>|__[A-Z]+__", "", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<!')''([^'\n]+)'''s\b", r"\1's", text)  # italics, then a genitive
    text = re.sub(r"'{2,}", "", text)
    text = html.unescape(html.unescape(text)).replace("\N{NO-BREAK SPACE}", " ")
    lines = []
    for line in text.split("\n"):
        heading = re.fullmatch(r"(=+)\s*(.*?)\s*\1\s*", line)
        if heading and heading[2].lower() in _END:
            break
        lines.append("" if heading or line.startswith(("*", "#", ":", ";", "|", "!", " ")) else _tidy(line))
    return "\n".join(lines)


def _pieces(line: str, longest: int) -> Iterator[str]:
    """Join the clean sentences of a line up to `longest` characters each."""
    piece = ""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", line):
        if _RESIDUE.search(sentence) or len(sentence) > longest:
            if piece:
                yield piece
            piece = ""
        elif piece and len(piece) + 1 + len(sentence) > longest:
            yield piece
            piece = sentence
        else:
            piece = f"{piece} {sentence}".strip()
    if piece:
        yield piece


def _template(match: re.Match[str]) -> str:
    """What a template shows, for the few that carry running text; an unknown one shows nothing."""
    name, *fields = (field.strip() for field in match[1].split("|"))
    kind, positional = name.lower(), [field for field in fields if not re.match(r"\w+\s*=", field)]
    if kind in ("convert", "cvt") and len(positional) >= 2:
        return f"{positional[0]} {positional[1]}"
    if kind in ("lang", "transl") and positional:
        return positional[-1]
    if kind in ("nowrap", "nobr", "quote", "abbr", "ship", "math", "mvar", "frac", "sfrac", "val") and positional:
        return positional[0] if kind in ("nowrap", "nobr", "abbr") else _LOST
    return ""


def _link(match: re.Match[str]) -> str:
    """The label of an internal link; nothing for pictures, categories and links to other languages."""
    target, _, label = match[1].partition("|")
    if re.match(r":?(?:file|image|category|media|[a-z]{2,3}|simple|wikt)\s*:\S", target, re.IGNORECASE):
        return label if target.startswith(":") else ""
    return label or target.lstrip(":")


def _tidy(line: str) -> str:
    """Close the gaps that removed templates leave: empty brackets, space before punctuation."""
    line = re.sub(r"\(\s*(?:[,;:]\s*)*", "(", line)
    line = re.sub(r"(?:\s*[,;])*\s*\)", ")", line)
    line = re.sub(r"\(\)", "", line)
    return re.sub(r"\s+([,.;:])", r"\1", re.sub(r"\s+", " ", line))


def _until_stable(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str) -> str:
    """Substitute innermost first, until nothing nests any more."""
    while (reduced := pattern.sub(replace, text)) != text:
        text = reduced
    return text

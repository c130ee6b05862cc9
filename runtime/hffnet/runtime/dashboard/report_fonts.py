r"""The letters of a report: reportlab's own font, and for what it lacks TrueType fonts of this machine.

Vera comes with reportlab and has Western European letters. Greek, Cyrillic and signs come from DejaVu Sans, Chinese,
Japanese and Korean from the first font of a short list, where they are installed; a PDF holds only the letters it uses.
Fonts with PostScript outlines (Noto CJK) cannot be: reportlab reads TrueType. What no font has is written as its code
(``\u4e2d``) rather than left out or shown as boxes; so are letters without ink, which would let two names look alike,
and those written from right to left, which reportlab would mirror.
"""

import logging
from functools import cache
from itertools import groupby
from pathlib import Path
from unicodedata import bidirectional, category
from xml.sax.saxutils import escape

import reportlab
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

_log = logging.getLogger(__name__)
FONT, BOLD = "Vera", "VeraBd"
FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
_WITHOUT_INK = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_FURTHER = (
    ("DejaVuSans.ttf",),
    # Debian's fonts-droid-fallback, fonts-wqy-microhei, fonts-wqy-zenhei, fonts-ipafont-gothic, fonts-nanum.
    ("DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "ipag.ttf"),
    ("NanumGothic.ttf",),
)


def plain_text(text: str) -> str:
    r"""For places that know one font: letters that it has, others as their code, control characters too.

    >>> plain_text("5 µm <b>中")
    '5 µm <b>\\u4e2d'
    """
    return "".join(letter if _has(FONT, letter) else _code(letter) for letter in text)


def marked_up(text: str) -> str:
    """For paragraphs: escaped, each run of letters in the first font that has them."""
    parts = list[str]()
    for font, run in groupby(text, _font_for):
        letters = "".join(run)
        if font is None:
            parts.append(escape("".join(map(_code, letters))))
        elif font == FONT:
            parts.append(escape(letters))
        else:
            parts.append(f'<font name="{font}">{escape(letters)}</font>')
    return "".join(parts)


def use_fonts() -> None:
    """Make the fonts known to reportlab."""
    _fonts()


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _font_for(letter: str) -> str | None:
    return next((font for font in _fonts() if _has(font, letter)), None)


def _has(font: str, letter: str) -> bool:
    use_fonts()
    if category(letter) in _WITHOUT_INK or bidirectional(letter) in _RIGHT_TO_LEFT:
        return False
    return ord(letter) in pdfmetrics.getFont(font).face.charToGlyph


@cache
def _fonts() -> tuple[str, ...]:
    """Names of fonts, in the order in which they are asked."""
    own = Path(reportlab.__file__).parent / "fonts"
    for name in (FONT, BOLD):
        pdfmetrics.registerFont(TTFont(name, own / f"{name}.ttf"))
    installed = {path.name: path for folder in FONT_FOLDERS for path in folder.rglob("*.tt[fc]")}
    found = [FONT]
    for choices in _FURTHER:
        for path in filter(None, map(installed.get, choices)):
            try:
                pdfmetrics.registerFont(TTFont(path.stem, path))
            except Exception as error:  # noqa: BLE001 - what reportlab raises on a damaged font is not only its own
                _log.info("%s is not used in reports: %r", path, error)
                continue
            found.append(path.stem)
            break
    return tuple(found)

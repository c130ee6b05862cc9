"""Letters of a report that its own font lacks."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pypdf
import pytest
from reportlab.platypus import Paragraph, SimpleDocTemplate

from hffnet.runtime.dashboard import report_fonts
from hffnet.runtime.dashboard.report_fonts import FONT, marked_up, plain_text, use_fonts

Install = Callable[[Path | bytes], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A machine on which nothing but the given font is installed, as DejaVu Sans."""
    monkeypatch.setattr(report_fonts, "FONT_FOLDERS", (tmp_path,))
    report_fonts._fonts.cache_clear()

    def put(font: Path | bytes) -> None:
        target = tmp_path / "truetype" / "DejaVuSans.ttf"
        target.parent.mkdir()
        if isinstance(font, Path):
            shutil.copyfile(font, target)
        else:
            target.write_bytes(font)

    yield put
    report_fonts._fonts.cache_clear()


@pytest.fixture
def dejavu() -> Path:
    found = next((path for folder in (Path("/usr/share/fonts"),) for path in folder.rglob("DejaVuSans.ttf")), None)
    if found is None:
        pytest.skip("no DejaVuSans.ttf in /usr/share/fonts: apt-get install fonts-dejavu-core")
    return found


def text_of(markup: str) -> str:
    use_fonts()
    file = io.BytesIO()
    from reportlab.lib.styles import ParagraphStyle

    SimpleDocTemplate(file).build([Paragraph(markup, ParagraphStyle("text", fontName=FONT))])
    return pypdf.PdfReader(file).pages[0].extract_text().strip()


def test_greek_is_greek_where_a_font_has_it(install: Install, dejavu: Path) -> None:
    install(dejavu)
    assert text_of(marked_up("<b>α-Fe & Жук</b> 5 µm")) == "<b>α-Fe & Жук</b> 5 µm"
    assert plain_text("α") == r"\u03b1"


@pytest.mark.parametrize("letter", ["\u200b", "\u202e", "\ufeff", "\u2028", "\u05d0", "\u0627"])
def test_letters_without_ink_or_from_right_to_left_are_codes(install: Install, dejavu: Path, letter: str) -> None:
    install(dejavu)
    assert marked_up(f"a{letter}b") == rf"a\u{ord(letter):04x}b"


@pytest.mark.usefixtures("install")
def test_letters_that_no_font_has_are_written_as_their_codes() -> None:
    assert marked_up("5 µm <α>\x07") == r"5 µm &lt;\u03b1&gt;\x07"


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01\x00\x00" + bytes(60), b"OTTO" + bytes(60)], ids=["empty", "damaged", "other"]
)
def test_a_font_that_cannot_be_read_is_left_out(install: Install, content: bytes) -> None:
    install(content)
    assert marked_up("α") == r"\u03b1"

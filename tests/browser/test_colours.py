"""Text of the page can be read in both themes: contrast as WCAG 2.2 defines it (AA: 4.5)."""

import re

import pytest

from tests.browser.running_view import ROOT

_CSS = (ROOT / "runtime/hffnet/runtime/dashboard/page/colours.css").read_text(encoding="utf-8")
_THEMES = {"dark": _CSS.split("@media")[0], "light": _CSS.rpartition('[data-theme="light"]')[2].partition("}")[0]}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", _THEMES)
@pytest.mark.parametrize("over", ["panel", "raised", "ground"])
@pytest.mark.parametrize("ink", ["ink", "faint", "sure", "partly", "refused", "said"])
def test_text_stands_out(theme: str, ink: str, over: str) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", _THEMES[theme]))
    high, low = sorted((luminance(colours[ink]), luminance(colours[over])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5

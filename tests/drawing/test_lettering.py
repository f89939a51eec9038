"""Names are drawn as they are, in fonts that have their characters, or as numbers."""

import logging
import os

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from balanced_lvis.drawing import lettering as module
from balanced_lvis.drawing.lettering import label_text, lettering, plain_text
from balanced_lvis.experiments.comparison_plots import plot_ap_by_bin
from balanced_lvis.experiments.quick_start_report import plot_ap_by_frequency

SQUARE = "\ue000"  # of the private use area: no font on any machine has it, but for the one made here


def font_with(path, family, character):
    """A font whose only character is a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture(autouse=True)
def fonts(monkeypatch):
    """Each test adds fonts of its own, and none from the system's folders."""
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", list(manager.ttflist))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *arguments, **options: [])
    module._lettering.cache_clear()
    yield manager
    module._lettering.cache_clear()


def drawn(text, families) -> np.ndarray:
    with plain_text(families):
        figure = plt.figure(figsize=(2, 1), dpi=50)
        figure.text(0.1, 0.4, text, fontsize=20)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba()).copy()
        plt.close(figure)
    return pixels


@pytest.mark.parametrize("name", ["$x", "a$_$b", "100 $ or 5 $", "\\$", "$\\input{x}$", "_", "<b>&amp;</b>", "^{"])
def test_no_name_is_a_formula(name):
    shown = plt.figure().text(0, 0, label_text(name))
    assert shown._preprocess_math(shown.get_text()) == (name, False)
    plt.close()


def test_a_name_is_one_line_of_limited_length():
    assert label_text("a\nb\x1b[31m\ud800") == "a\\nb\\x1b[31m\\ud800"
    assert len(label_text("x" * 500)) == module.LONGEST


def test_characters_that_matplotlibs_own_font_has_need_no_other(caplog):
    found = lettering({0: "cat", 1: "собака", 2: "naïve"})
    assert found == ({0: "cat", 1: "собака", 2: "naïve"}, ("sans-serif",))
    assert not caplog.records


def test_an_installed_font_that_has_a_character_is_used(fonts, tmp_path, caplog):
    fonts.addfont(font_with(tmp_path / "a.ttf", "Squares", SQUARE))
    found = lettering({0: "cat", 1: f"big {SQUARE}"})
    assert found == ({0: "cat", 1: f"big {SQUARE}"}, ("sans-serif", "Squares"))
    assert not caplog.records
    pixels = drawn(SQUARE, found.families)
    assert (pixels[..., 0] < 50).sum() > 50, "a filled square"
    assert (drawn("cat", found.families) == drawn("cat", ["sans-serif"])).all()


def test_a_font_that_was_installed_after_matplotlib_listed_fonts_is_found(monkeypatch, tmp_path):
    path = font_with(tmp_path / "b.ttf", "Late Squares", SQUARE)
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *arguments, **options: [str(broken), path])
    assert lettering({0: SQUARE}) == ({0: SQUARE}, ("sans-serif", "Late Squares"))


def test_names_without_a_font_are_numbers_and_this_is_said_once(caplog):
    names = {5: "cat", 7: f"{SQUARE} dog", 9: SQUARE}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert lettering(names, "category").labels == {5: "cat", 7: "category 7", 9: "category 9"}
    (record,) = caplog.records
    assert "No installed font has all characters of 2 name(s)" in record.getMessage()
    assert "'category 7'" in record.getMessage()


def test_boxes_of_the_font_of_last_resort_are_no_characters(fonts):
    last = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "LastResortHE-Regular.ttf")
    if os.path.exists(last):
        fonts.addfont(last)
    assert lettering({0: SQUARE}).labels == {0: "class 0"}


def test_plots_take_any_name_of_a_method(tmp_path):
    rows = [{"image_count": n, "segm": 10.0, "bbox": 10.0, "frequency": "r"} for n in (1, 5, 9)]
    names = ("$x", "a\n\x1b[31m\ud800", "|b|" * 100)
    plot_ap_by_frequency({name: rows for name in names}, tmp_path / "a.png")
    plot_ap_by_bin({name: [rows] for name in names}, tmp_path / "b.png", "bbox")
    assert (tmp_path / "a.png").stat().st_size and (tmp_path / "b.png").stat().st_size

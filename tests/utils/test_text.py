"""Names from files are shown escaped, in every kind of text and file name."""

import pytest

from balanced_lvis.utils.text import first_of, indented, one_line, printable, safe_file_name, shortened


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("tab\there", "tab\\there"),
        ("half \ud800", "half \\ud800"),
        ("c1 \x9b31m, next \x85 line \u2028", "c1 \\x9b31m, next \\x85 line \\u2028"),
        ("abc\u202ecba", "abc\\u202ecba"),  # would be shown from right to left
        ("\u732b, na\u00efve, \u0645\u06cc\u200c\u062e", "\u732b, na\u00efve, \u0645\u06cc\u200c\u062e"),
        ("C:\\new", "C:\\new"),
        (3, "3"),
    ],
)
def test_a_name_is_one_line_without_control_characters(name, shown):
    assert one_line(name) == shown
    assert one_line(shown) == shown
    shown.encode()  # can be written


def test_text_of_several_lines_keeps_its_lines_and_no_other_control_character():
    assert printable("| a |\n\t| \x1b[2J\r |") == "| a |\n\t| \\x1b[2J\\r |"
    assert indented("problems:\n[11/25] forged") == "problems:\n  [11/25] forged"


def test_the_first_names_of_many_are_one_line():
    assert first_of(["a", "b\n", "c"], 2) == "a, b\\n, ..."
    assert first_of(iter(["a", 7]), 2) == "a, 7"
    assert shortened("abcdef", 4) == "abc…" and shortened("abcd", 4) == "abcd"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("my_val", "my_val"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("..", "__"),
        ("", "_"),
        ("a\nb\x1b.png", "a_b_.png"),
        ("C:\\x\ud800", "C__x_"),
        ("\u732b.jpg", "\u732b.jpg"),
    ],
)
def test_a_file_name_stays_in_its_folder(name, safe):
    assert safe_file_name(name) == safe


def test_a_file_name_fits_and_keeps_its_suffix():
    name = safe_file_name("\u732b" * 300 + ".png")
    assert len(name.encode()) <= 200 and name.endswith("\u732b.png")
    assert len(safe_file_name("a." + "b" * 300).encode()) <= 200

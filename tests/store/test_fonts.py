"""Names in any script: which installed fonts draw what DejaVu Sans has no letters for."""

import pytest

from gvbsm.store.showing.fonts import DEJAVU, Font, fallback_fonts, font_runs
from support.fonts import installed, write_font


@pytest.fixture
def tiny(tmp_path):
    """Two fonts: of one Chinese letter, and of that with a Korean one."""
    han = write_font(tmp_path / "a.ttf", "Han", "字")
    both = write_font(tmp_path / "b.ttf", "Han Hangul", " 字한")
    with installed(han, both):
        yield Font("Han", han), Font("Han Hangul", both)


def test_no_font_is_sought_for_what_dejavu_sans_has(tiny):
    assert fallback_fonts("cat") == fallback_fonts("Größe кот γάτα قط\n") == ()
    assert font_runs("γάτα 1") == [(DEJAVU, "γάτα 1")]
    assert font_runs("") == []


def test_the_fewest_fonts_are_taken(tiny):
    han, both = tiny
    assert fallback_fonts("a字") == (han,)
    assert fallback_fonts("한") == fallback_fonts("字 한") == (both,)


def test_a_text_is_split_where_its_font_changes(tiny):
    _, both = tiny
    runs = [(both, "한 字 "), (DEJAVU, "b 1 "), (both, "字")]
    assert font_runs("한 字 b 1 字") == runs
    assert font_runs("a字か") == [(DEJAVU, "a"), (tiny[0], "字か")]  # か is in no font


def test_boxes_are_logged_once(tiny, caplog):
    assert [font.family for font in fallback_fonts("字か")] == ["Han"]
    assert fallback_fonts("ひ") == fallback_fonts("か") == ()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "install a font" in caplog.text


def test_fonts_that_draw_nothing_are_passed_over(tmp_path):
    last = write_font(tmp_path / "last.ttf", ".LastResort", "字한")
    gone = write_font(tmp_path / "gone.ttf", "Gone", "字")
    han = write_font(tmp_path / "han.ttf", "Han", "字")
    with installed(last, gone, han):
        (tmp_path / "gone.ttf").unlink()
        assert fallback_fonts("字") == (Font("Han", han),)
        assert fallback_fonts("한") == ()

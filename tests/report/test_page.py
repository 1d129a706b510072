"""Templates and the HTML page: prose with numbers in it, and nothing else that a browser would obey or fetch."""

import jinja2
import pytest

from ne_jax.report import page


def test_a_template_stands_without_blank_lines_around_it():
    """Sections are joined by one blank line, whatever a template ends with."""
    assert page.render("order", {"good": 8, "cells": 10}).startswith(
        "Check of the attacks: tier 4 >= tier 3 >= tier 2 in 8 of 10 cells"
    )
    text = page.render("readers", {"tables": ["| a |", "| b |"]})
    assert text.startswith("## Who can read") and text.endswith("| a |\n\n| b |")


def test_a_number_that_is_not_given_is_a_mistake():
    """No template prints an empty place."""
    with pytest.raises(jinja2.UndefinedError, match="cells"):
        page.render("order", {"good": 8})


def test_the_page_holds_its_pictures_and_shows_what_others_wrote(tmp_path):
    """Images become data; HTML in names of others is text; quotes of code, tables and bold words stay what they are."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "one.png").write_bytes(b"png")
    lines = [
        "# For <b>me</b> & you",
        "![one](figures/one.png)",
        "<script>alert(1)</script>",
        "by <img src=x onerror=y>",
    ]
    text = "\n\n".join([*lines, "| a |\n| - |\n| **b** |", "```\nc < d\n```"])
    found = page.to_html(text, tmp_path)
    assert "<title>For &lt;b&gt;me&lt;/b&gt; &amp; you</title>" in found
    assert 'src="data:image/png;base64,cG5n"' in found and "figures/" not in found
    assert "<script" not in found and "&lt;script&gt;" in found and "<img src=x" not in found
    assert "<td><strong>b</strong></td>" in found and "<code>c &lt; d" in found

"""Templates: the report's text in Markdown, and the HTML page around it. What they say is in templates/, numbers come from here."""

from __future__ import annotations

import base64
import pathlib
import re
from typing import Any

import jinja2
import markdown

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ne_jax.report"),
    autoescape=jinja2.select_autoescape(["html.jinja"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(name: str, values: dict[str, Any]) -> str:
    """The template NAME.md.jinja with its values, without blank lines around it."""
    return _TEMPLATES.get_template(f"{name}.md.jinja").render(values).strip()


def to_html(text: str, folder: pathlib.Path) -> str:
    """Markdown as one page with its pictures, figures/*.png in `folder`, inside; no script, nothing fetched. The first line is the title.

    HTML in the text is shown and not obeyed: names and lines of others stand in it.
    """
    converter = markdown.Markdown(extensions=["tables", "fenced_code"])
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")

    def inline(match: re.Match) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="(figures/[^"]+)"', inline, converter.convert(text))
    title = text.splitlines()[0].removeprefix("# ")
    return _TEMPLATES.get_template("page.html.jinja").render(title=title, body=body) + "\n"

"""What the book needs of Sphinx beyond its extensions: links that follow a fork, and tables of what was run and measured."""
import json
import os
import pathlib

from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def follow_fork(app, config):
    """In CI, point the launch, edit and issue buttons and the canonical links to the repository that is being built."""
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        owner, name = repository.split("/")
        config.html_theme_options["repository_url"] = f"https://github.com/{repository}"
        config.html_theme_options["repository_branch"] = os.environ.get("GITHUB_REF_NAME", "main")
        config.html_baseurl = f"https://{owner.lower()}.github.io/{name}/"
        config.ogp_site_url = config.html_baseurl


def leave_thebe_out(app, page, template, context, doctree):
    """Take out the scripts of sphinx-thebe, which Jupyter Book always adds, twice: live cells are not used here, and they need the network."""
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if "thebe" not in f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', '')}".lower()]


def name_toggles(app, page, template, context, doctree):
    """Give the arrows that unfold a part in the sidebar a name, which the theme leaves out, for those who hear the page."""
    make = context.get("generate_toctree_html")
    if make:
        name = '<summary aria-label="Chapters of this part">'
        context["generate_toctree_html"] = lambda *arguments, **options: str(make(*arguments, **options)).replace("<summary>", name)


def read_record(directive, name):
    """data/`name` as JSON; the page is built again when it changes."""
    file = ROOT / "data" / name
    directive.state.document.settings.env.note_dependency(str(file))
    return json.loads(file.read_text(encoding="utf-8"))


def make_table(head, rows, widths):
    """A docutils table with a head."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in widths]
    for section, lines in (nodes.thead(), [head]), (nodes.tbody(), rows):
        for line in lines:
            row = nodes.row()
            row += [nodes.entry("", nodes.paragraph(text=text)) for text in line]
            section += row
        group += section
    return nodes.table("", group, classes=["table"])


class LastRuns(Directive):
    """`{last-runs}`: the last execution of each notebook of this edition, its duration, memory, machine and versions, from data/runs.json."""

    def run(self):
        pages = self.state.document.settings.env.found_docs
        rows = [[name, run["date"], f"{run['seconds']:.0f} s", f"{run['peak_mb']:,} MB" if run["peak_mb"] else "",
                 f"Python {run['versions']['python']}, NumPy {run['versions']['numpy']}, torch {run['versions'].get('torch', 'none')}",
                 run["machine"]] for name, run in sorted(read_record(self, "runs.json").items()) if f"notebooks/{name}" in pages]
        if not rows:
            return [nodes.paragraph(text="This edition has no notebook.")]
        return [make_table(["Notebook", "Run on", "Took", "Memory", "Versions", "Machine"], rows, (18, 10, 6, 8, 18, 24))]


class Speeds(Directive):
    """`{speeds}`: what `make bench` measured, from data/speeds.json."""

    def run(self):
        rows = [[name, f"{speed['value']:,.3g} {speed['unit']}", speed["date"], speed["machine"]]
                for name, speed in sorted(read_record(self, "speeds.json").items())]
        return [make_table(["What", "Speed", "Measured on", "Machine"], rows, (24, 10, 10, 30))]


def setup(app):
    app.connect("config-inited", follow_fork)
    app.connect("html-page-context", leave_thebe_out, priority=900)
    app.connect("html-page-context", name_toggles, priority=900)
    app.add_directive("last-runs", LastRuns)
    app.add_directive("speeds", Speeds)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""What the book needs of Sphinx beyond its extensions: links that follow a fork, light pages with their dates, a page for what
is not found, how to cite, and tables of what was run and measured."""
import functools
import json
import os
import pathlib
import re
import subprocess
import urllib.parse

import pybtex.plugin
import yaml
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


def prepare_404(app, config):
    """GitHub shows 404.html for every missing address, however deep: its links begin at the root, with the folder that the site is in."""
    root = urllib.parse.urlsplit(config.html_baseurl).path or "/"
    config.notfound_urls_prefix = root
    config.notfound_context = {"title": "Not found", "body": f"""<h1>Not found</h1>
<p>There is no page at this address. It may have been renamed since you were sent here.</p>
<p>Begin at the <a href="{root}book/index.html">front page</a>, choose a chapter from the list at the side, or
<a href="{root}search.html">search</a> for a word that you remember of it.</p>"""}


def finish_404(app, page, template, context, doctree):
    """What sphinx-notfound-page leaves relative: the root from which the search looks for its index."""
    if page == "404":
        context["content_root"] = app.config.notfound_urls_prefix


def without(files, word):
    """The script or style files of a page's context, less those that `word` stands in."""
    return [file for file in files if word not in f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', '')}".lower()]


def leave_thebe_out(app, page, template, context, doctree):
    """Take out the scripts of sphinx-thebe, which Jupyter Book always adds, twice: live cells are not used here, and they need the network."""
    for kind in ("script_files", "css_files"):
        context[kind] = without(context[kind], "thebe")


def write_root(app, exception):
    """The site's bare address, which is the one that people send each other: it leads to the front page, and shows the same card.

    sphinx-external-toc, which would write it without the card, leaves one that is there."""
    front = pathlib.Path(app.outdir, f"{app.config.root_doc}.html")
    if exception or app.builder.name != "html" or app.config.root_doc == "index":
        return
    about = re.findall(r'<meta (?:property="og:|name="(?:description|twitter:))[^>]*>|<link rel="canonical"[^>]*>|<title>.*?</title>', front.read_text(encoding="utf-8"))
    way = f'<meta http-equiv="refresh" content="0; url={app.config.root_doc}.html">'
    lines = ["<!doctype html>", '<html lang="en"><meta charset="utf-8">', *about, way, f'<p><a href="{app.config.root_doc}.html">To the book</a></p></html>']
    pathlib.Path(app.outdir, "index.html").write_text("\n".join(lines) + "\n", encoding="utf-8")


def lighten_head(app, page, template, context, doctree):
    """Give book/_templates/layout.html what it calls on the theme's head.

    The theme loads its icons as a font and, again, as a script twice as heavy: the font is enough, less a part of it that no
    icon here is from. MathJax stays where there is mathematics."""
    unneeded = re.compile(r'<script src="[^"]*/fontawesome/[^"]*"></script>|<link rel="preload"[^>]*/fa-regular-[^>]*/>')
    context["lighten"] = lambda head: unneeded.sub("", str(head))
    if not re.search(r'class="[^"]*\bmath\b', context.get("body", "")):
        context["script_files"] = without(context["script_files"], "mathjax")


def ask_git(app, *question):
    """What git says of the folder of sources; nothing where there is no git, or no repository."""
    try:
        return subprocess.run(["git", *question], cwd=app.srcdir, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def look_for_history(app):
    """Whether git knows the whole history, asked once for all pages: a shallow clone's dates would be those of the clone."""
    app.has_history = ask_git(app, "rev-parse", "--is-shallow-repository") == "false"


def date_page(app, page, template, context, doctree):
    """The day of the last commit that touched the page, or what it was made from, for the foot of the page.

    Without git, outside a repository, and in a shallow clone, where git does not know, there is none."""
    if doctree is None or not app.has_history:
        return
    files = [app.env.doc2path(page), *(str(pathlib.Path(app.srcdir, file)) for file in app.env.dependencies.get(page, ()))]
    context["last_updated"] = ask_git(app, "log", "-1", "--format=%cs", "--", *files) or None


def offer_anchors(app, doctree):
    """Let a plain link lead to a term of the glossary or to a figure, as to a heading: `[entropy](../book/glossary.md#term-entropy)`.

    A notebook's cells have nothing but plain links. MyST warns of an anchor that it does not know, and it knows headings only."""
    anchors = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for node in [*doctree.findall(nodes.term), *doctree.findall(nodes.figure)]:
        anchors |= {id: (node.line or 0, id, node.astext()) for id in node["ids"]}


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
    """A docutils table with a head. A cell is a text or a node."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in widths]
    for section, lines in (nodes.thead(), [head]), (nodes.tbody(), rows):
        for line in lines:
            row = nodes.row()
            row += [nodes.entry("", cell if isinstance(cell, nodes.Node) else nodes.paragraph(text=cell)) for cell in line]
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


def bibtex(citation):
    """CITATION.cff, as a dictionary, in BibTeX. `@misc`, since every style knows it and none asks for a publisher."""
    def name(author):
        return f"{{{author['name']}}}" if "name" in author else f"{author['family-names']}, {author['given-names']}"

    year, month, _ = str(citation["date-released"]).split("-")
    fields = {"author": " and ".join(map(name, citation["authors"])), "title": f"{{{citation['title']}}}", "year": year, "month": str(int(month)),
              "note": f"Version {citation['version']}", "url": citation["url"]}
    lines = [f"  {key} = {{{value}}}" for key, value in fields.items()]
    return "@misc{practitioner" + year + ",\n" + ",\n".join(lines) + "\n}"


class Citation(Directive):
    """`{citation}`: CITATION.cff in BibTeX."""

    def run(self):
        file = ROOT / "CITATION.cff"
        self.state.document.settings.env.note_dependency(str(file))
        text = bibtex(yaml.safe_load(file.read_text(encoding="utf-8")))
        return [nodes.literal_block(text, text, language="bibtex")]


class Speeds(Directive):
    """`{speeds}`: what `make bench` measured, from data/speeds.json."""

    def run(self):
        shown = lambda value: f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"  # noqa: E731
        rows = [[name, f"{shown(speed['value'])} {speed['unit']}", speed["date"], speed["machine"]]
                for name, speed in sorted(read_record(self, "speeds.json").items())]
        return [make_table(["What", "Value", "Measured on", "Machine"], rows, (24, 10, 10, 30))]


def setup(app):
    # For each citation pybtex asks every installed package four times for its styles, which was a fifth of the build: once is enough.
    pybtex.plugin.entry_points = functools.cache(pybtex.plugin.entry_points)
    app.connect("config-inited", follow_fork)
    app.connect("config-inited", prepare_404)
    app.connect("builder-inited", look_for_history)
    app.connect("doctree-read", offer_anchors)
    app.connect("build-finished", write_root, priority=400)
    app.connect("html-page-context", finish_404)
    app.connect("html-page-context", leave_thebe_out, priority=900)
    app.connect("html-page-context", lighten_head, priority=900)
    app.connect("html-page-context", date_page)
    app.connect("html-page-context", name_toggles, priority=900)
    app.add_directive("citation", Citation)
    app.add_directive("last-runs", LastRuns)
    app.add_directive("speeds", Speeds)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

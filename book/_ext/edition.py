"""Lets an edition of the book leave chapters out: delete their lines in _toc.yml, and nothing else.

A reference to a page whose source exists but is not in the contents becomes plain text, marked as not in this edition, and a number
glued from such a notebook is taken from data/results.json. What exists nowhere still fails the build. `{chapter}` names a notebook
that may be in the contents, left out, or planned only."""
import json
import pathlib
import re

from docutils import nodes
from myst_nb.core.variables import format_plain_text
from myst_nb.ext.glue.utils import PendingGlueReference
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import docname_join
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import explicit_title_re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDERS = ("book", "notebooks")  # where the sources of pages stand
LEFT_OUT = "not in this edition"
PLANNED = "planned, not written yet"


class absent(nodes.inline):
    """Words that would be a link, if their page were there; its `reason` says why it is not."""


def visit_absent(self, node):
    self.body.append(self.starttag(node, "span", "", title=node["reason"]))


def make_absent(reason, *children):
    return absent("", "", *children, reason=reason, classes=[reason.split(",")[0].replace(" ", "-")])


# What is left out

def read_source(file):
    """What a page has to offer to references: its title, its labels with words for each, and the terms of its glossaries."""
    text, labels = file.read_text(encoding="utf-8"), {}
    if file.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        figures = [cell["metadata"].get("mystnb", {}).get("figure", {}) for cell in cells]
        labels = {figure["name"]: f"“{figure.get('caption', '').rstrip('.')}”" for figure in figures if "name" in figure}
    title = re.search(r"^# +(.+?) *$", text, re.M)
    title = title[1] if title else file.stem
    for label, heading in re.findall(r"^\(([^()\n]+)\)=[ \n]*(?:#+ +(.+))?", text, re.M):
        labels[label] = heading or title
    for label in re.findall(r"^ *:(?:name|label): *(\S+)|\$\$ *\(([^()\n]+)\) *$", text, re.M):
        labels[label[0] or label[1]] = title
    terms = {}
    for block in re.findall(r"^ *(?::::+|```+)\{glossary\}.*?\n(.*?)^ *(?::::+|```+) *$", text, re.M | re.S):
        terms |= {term.strip().lower(): term.strip() for term in re.findall(r"^(\S.*)\n(?= +\S)", block, re.M)}
    return {"title": title, "labels": {nodes.fully_normalize_name(label): words for label, words in labels.items()}, "terms": terms}


def find_left_out(app, env, names_to_read):
    """Note the pages whose sources exist but are not in the contents. (When the contents change, Sphinx reads all pages again.)"""
    root = pathlib.Path(app.srcdir)
    files = [file for folder in FOLDERS for suffix in (".md", ".ipynb") for file in sorted((root / folder).rglob(f"*{suffix}"))
             if not any(part.startswith((".", "_")) for part in file.relative_to(root).parts)]
    names = {file.relative_to(root).with_suffix("").as_posix(): file for file in files}
    app.left_out = {name: read_source(file) for name, file in names.items() if name not in env.found_docs}


# What would have referred to it

def words_for(env, left_out, node):
    """The words in place of the reference `node`, if what it refers to is left out; otherwise None."""
    kind, domain, target = node["reftype"], node.get("refdomain"), node["reftarget"]
    std = env.get_domain("std")
    if (kind, domain) == ("myst", "doc"):
        return left_out[target]["title"] if target in left_out else None
    if (kind, domain) == ("doc", "std"):
        name = docname_join(node["refdoc"], target)
        return left_out[name]["title"] if name in left_out else None
    if (kind, domain) == ("term", "std"):
        there, wanted, part = {name.lower() for group, name in std.objects if group == "term"}, target.lower(), "terms"
    elif kind in ("ref", "numref", "eq", "myst"):
        there, wanted, part = {*std.labels, *std.anonlabels, *env.get_domain("math").equations}, nodes.fully_normalize_name(target), "labels"
    else:
        return None
    return None if wanted in there else next((page[part][wanted] for page in left_out.values() if wanted in page[part]), None)


class LeaveOut(SphinxPostTransform):
    """Replace the references to what is left out, before MyST (9) and Sphinx (10) look for it in vain."""
    default_priority = 4

    def run(self, **options):
        for node in list(self.document.findall(addnodes.pending_xref)):
            words = words_for(self.env, self.app.left_out, node)
            if words is not None:
                own = node.get("refexplicit") and node[0].children and not re.search(r"%s|\{number\}", node.astext())
                node.replace_self(make_absent(LEFT_OUT, *(node[0].children if own else [nodes.Text(words)])))


def take_numbers(app, doctree):
    """Fill in the numbers of notebooks that are left out, formatted as MyST-NB does. One that is not published is left to MyST-NB, which fails."""
    for node in list(doctree.findall(PendingGlueReference)):
        if node.refdoc in app.left_out:
            file = ROOT / "data" / "results.json"
            app.env.note_dependency(str(file))
            entry = json.loads(file.read_text(encoding="utf-8")).get(node.key, {})
            if entry.get("notebook") == pathlib.PurePosixPath(node.refdoc).name:
                text = format_plain_text(repr(entry["value"]), node.get("fmt_spec") or "s")
                node.replace_self(nodes.inline(text, text, classes=["pasted-text"]))


class Chapter(SphinxRole):
    """`{chapter}`12_prediction`` or `{chapter}`words <12_prediction>``: a notebook by its name, a link if it is in the contents."""

    def run(self):
        match = explicit_title_re.match(self.text)
        words, name = (match[1], match[2]) if match else (None, self.text)
        page = f"notebooks/{name}"
        if page in self.env.found_docs:
            node = addnodes.pending_xref("", nodes.inline("", words or name), refdomain="std", reftype="doc", reftarget=f"/{page}",
                                         refexplicit=words is not None, refdoc=self.env.docname, refwarn=True)
            self.set_source_info(node)
            return [node], []
        if page in self.env.app.left_out:
            return [make_absent(LEFT_OUT, nodes.Text(words or self.env.app.left_out[page]["title"]))], []
        others = sorted(file.stem for file in (ROOT / "notebooks").glob(f"{name.split('_')[0]}_*.ipynb"))
        if others or not re.fullmatch(r"\d\d_[a-z_]+", name):
            said = f"there is no notebook {name!r}" + (f", but there is {others[0]!r}" if others else ": its name begins with two digits and _")
            return [], [self.inliner.reporter.warning(said, line=self.lineno)]
        return [make_absent(PLANNED, nodes.Text(words or name.split("_", 1)[1].replace("_", " ").capitalize()))], []


def setup(app):
    app.add_node(absent, html=(visit_absent, lambda self, node: self.body.append("</span>")),
                 **{kind: (lambda self, node: None, lambda self, node: None) for kind in ("latex", "text", "man", "texinfo")})
    app.add_post_transform(LeaveOut)
    app.add_role("chapter", Chapter())
    app.connect("env-before-read-docs", find_left_out)
    app.connect("doctree-read", take_numbers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""A builder of notebooks: md(slug, text), code(slug, source, …), write(path)."""
import hashlib
import nbformat

CELLS = []


def _id(slug):
    return hashlib.sha256(("42" + slug).encode()).hexdigest()[:8]


def md(slug, text):
    CELLS.append(nbformat.v4.new_markdown_cell(text.strip("\n"), id=_id(slug)))


def code(slug, source, export=False, fig=None, tags=()):
    cell = nbformat.v4.new_code_cell(source.strip("\n"), id=_id(slug))
    if fig:
        name, caption, alt = fig
        cell.metadata["mystnb"] = {"figure": {"caption": caption, "name": name}, "image": {"alt": alt}}
    if export:
        cell.metadata["nbdev"] = {"export": "true"}
    if tags:
        cell.metadata["tags"] = list(tags)
    CELLS.append(cell)


def write(path, module, setup_from):
    setup = next(c for c in nbformat.read(setup_from, 4).cells if c.cell_type == "code")
    first = nbformat.v4.new_code_cell(setup.source, id=_id("set-up"), metadata=setup.metadata)
    cells = [CELLS[0], first, *CELLS[1:]]
    nb = nbformat.v4.new_notebook(cells=cells)
    nb.nbformat_minor = 5
    nb.metadata = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
                   "language_info": {"name": "python"}, "nbdev": {"default_exp": module}}
    old = {}
    try:
        old = {c.id: c for c in nbformat.read(path, 4).cells}
    except FileNotFoundError:
        pass
    for c in nb.cells:  # keep outputs of cells that did not change
        o = old.get(c.id)
        if c.cell_type == "code" and o is not None and o.cell_type == "code" and o.source == c.source:
            c.outputs, c.execution_count = o.outputs, o.execution_count
    nbformat.validate(nb)
    open(path, "w", encoding="utf-8").write(nbformat.writes(nb) + "\n")

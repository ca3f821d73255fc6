"""The page of results, from data/results.json alone: the scoreboard, every model's bits per byte on the test part, as a drawing and a table; and the bug matrix.

A row of the scoreboard is an entry `score_…` with a description (`about`); `score_…_low` and `score_…_high`, where there are any, are the ends of its interval. A row of the bug matrix is an entry whose description names a `bug`, and what it is `caught by`."""
import html
import math

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from practitioner_book import make_table, read_record
from sphinx import addnodes

FAMILIES = {"counting": "counted", "compressor": "compressors, from nothing", "primed": "… given the training part to read",
            "network": "feed-forward network", "lstm": "LSTM", "transformer": "Transformer"}
MOST, LEAST = 8, 1  # bits per byte at the two ends of the axis


def scores(results):
    """The rows, from most bits to fewest: dicts of value, low, high, notebook, machine and what the description says."""
    rows = []
    for name, entry in results.items():
        if name.startswith("score_") and "about" in entry:
            ends = {end: results[f"{name}_{end}"]["value"] for end in ("low", "high") if f"{name}_{end}" in results}
            rows.append(entry["about"] | ends | {key: entry[key] for key in ("value", "notebook", "machine")})
    return sorted(rows, key=lambda row: (-row["value"], row["model"]))


def place(bits):
    """Where `bits` stands on the axis, in percent: a third of the way for each halving."""
    return round(100 * math.log(MOST / min(max(bits, LEAST), MOST)) / math.log(MOST / LEAST), 2)


def drawing(rows, where):
    """The rows as HTML; `where` says where the same stands as a table. Its colours are in book.css, so it follows light and dark."""
    best = rows[-1]
    summary = (f"The scoreboard: {len(rows)} models, from {rows[0]['value']:.2f} bits per byte ({rows[0]['model']}) "
               f"to {best['value']:.2f} ({best['model']}). {where} says the same.")
    lines = []
    for row in rows:
        whisker = ""
        if "low" in row:
            left, right = place(row["high"]), place(row["low"])
            whisker = f'<i class="whisker" style="left:{left}%;width:{right - left:.2f}%"></i>'
        lines.append(f'<div class="score {row["family"]}{" best" if row is best else ""}"><span class="model">{html.escape(row["model"])}</span>'
                     f'<span class="track"><i class="bar" style="width:{place(row["value"])}%"></i>{whisker}'
                     f'<i class="dot" style="left:{place(row["value"])}%"></i></span><span class="bits">{row["value"]:.3f}</span></div>')
    ticks = "".join(f'<span class="tick" style="left:{place(bits)}%"><b>{bits}</b> {of}</span>'
                    for bits, of in ((8, "the file"), (4, "half of it"), (2, "a quarter"), (1, "an eighth")))
    lines.append(f'<div class="score axis"><span class="model">bits per byte</span><span class="track">{ticks}</span><span class="bits"></span></div>')
    present = [family for family in FAMILIES if any(row["family"] == family for row in rows)]
    legend = "".join(f'<span class="key {family}"><i class="dot"></i>{FAMILIES[family]}</span>' for family in present)
    return (f'<div class="scores" role="img" aria-label="{html.escape(summary, quote=True)}">'
            f'<div class="keys">{legend}</div>{"".join(lines)}</div>')


def link(document, text):
    """A link to a page of the book, by its name without a suffix."""
    reference = addnodes.pending_xref("", nodes.inline(text=text), refdomain="std", reftype="doc", reftarget=f"/{document}",
                                      refexplicit=True, refwarn=True, refdoc="book/results")
    return nodes.paragraph("", "", reference)


def cells(row):
    """What the table says of a row; the last is a link."""
    interval = f"{row['low']:.3f} to {row['high']:.3f}" if "low" in row else "–"
    seconds = f"{row['seconds']:,.3g} s" if "seconds" in row else "–"
    parameters = f"{row['parameters']:,}" if "parameters" in row else "–"
    texts = [row["model"], f"{row['value']:.3f}", interval, parameters, seconds, row.get("context", "–")]
    return [nodes.paragraph(text=text) for text in texts] + [link(f"notebooks/{row['notebook']}", row["notebook"])]


class Scoreboard(Directive):
    """`{scoreboard}`: the drawing, the table, and the machines that the times are of. With `:drawing:`, the drawing alone."""
    option_spec = {"drawing": directives.flag}

    def run(self):
        rows = scores(read_record(self, "results.json"))
        if "drawing" in self.options:
            return [nodes.raw("", drawing(rows, "The table on the page of results"), format="html")]
        head = ["Model", "Bits per byte", "95 % interval", "Parameters", "Learned in", "Looks back at", "Notebook"]
        table = make_table(head, [cells(row) for row in reversed(rows)], (24, 8, 12, 10, 8, 20, 14))
        machines = sorted({row["machine"] for row in rows if "seconds" in row})
        times = nodes.paragraph(text="The times are for information, of one run on: " + "; ".join(machines) + ".")
        return [nodes.raw("", drawing(rows, "The table below"), format="html"), table] + ([times] if machines else [])


def bugs(results):
    """The rows of the bug matrix in the order of the notebooks, those that most questions catch first: dicts of what the description says, value (how many catch it) and notebook."""
    rows = [entry["about"] | {key: entry[key] for key in ("value", "notebook")} for entry in results.values() if "bug" in entry.get("about", {})]
    return sorted(rows, key=lambda row: (row["notebook"], -row["value"], row["bug"]))


class BugMatrix(Directive):
    """`{bug-matrix}`: how many bugs are caught, and a table of which questions catch which."""

    def run(self):
        rows = bugs(read_record(self, "results.json"))
        missed = sum(row["value"] == 0 for row in rows)
        table = make_table(["Bug", "Caught by", "Notebook"], [[row["bug"], row["caught by"], link(f"notebooks/{row['notebook']}", row["notebook"])] for row in rows], (24, 56, 20))
        return [nodes.paragraph(text=f"{len(rows)} bugs, of which {len(rows) - missed} are caught by a question or more, and {missed} by none:"), table]


def setup(app):
    app.add_directive("scoreboard", Scoreboard)
    app.add_directive("bug-matrix", BugMatrix)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

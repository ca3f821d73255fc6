"""The scoreboard's drawing and table are the published results, and nothing else."""
import json
import pathlib
import re

import practitioner_scores
import pytest
from bs4 import BeautifulSoup

ROOT = pathlib.Path(__file__).resolve().parent.parent
PUBLISHED = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def page():
    """The module behind the page of results."""
    return practitioner_scores


def entry(value, model="m", family="counting", **about):
    return {"value": value, "unit": "bits per byte", "notebook": "14_compression", "machine": "a machine", "about": {"model": model, "family": family} | about}


def test_rows_are_the_described_scores_from_most_bits_to_fewest(page):
    results = {"score_b": entry(2.0, "b"), "score_b_low": {"value": 1.9}, "score_b_high": {"value": 2.1}, "score_a": entry(8.0, "a"),
               "loss": entry(1.0), "score_low": {"value": 1.0}}
    rows = page.scores(results)
    assert [(row["model"], row["value"], row.get("low"), row.get("high")) for row in rows] == [("a", 8.0, None, None), ("b", 2.0, 1.9, 2.1)]


@pytest.mark.parametrize("bits, percent", [(8, 0), (4, 100 / 3), (2, 200 / 3), (1, 100), (9, 0), (0.5, 100)])
def test_each_halving_is_a_third_of_the_way(page, bits, percent):
    assert page.place(bits) == pytest.approx(percent, abs=0.01)


def test_names_are_escaped_and_families_coloured(page):
    rows = page.scores({"score_a": entry(4.0, 'x < "y"', "lstm"), "score_b": entry(2.0, "z", "transformer")})
    drawn = BeautifulSoup(page.drawing(rows, "The table below"), "html.parser")
    assert [tag.get_text() for tag in drawn.select(".score:not(.axis) .model")] == ['x < "y"', "z"]
    assert drawn.select_one(".scores")["role"] == "img" and 'x < "y"' in drawn.select_one(".scores")["aria-label"]
    assert [tag["class"] for tag in drawn.select(".key")] == [["key", "lstm"], ["key", "transformer"]]
    assert [tag.get_text() for tag in drawn.select(".score.best .model")] == ["z"]


def test_what_is_drawn_is_what_was_published(page):
    rows = page.scores(PUBLISHED)
    drawn = BeautifulSoup(page.drawing(rows, "The table below"), "html.parser").select(".score:not(.axis)")
    names = {key for key, value in PUBLISHED.items() if key.startswith("score_") and "about" in value}
    assert len(drawn) == len(rows) == len(names) > 10
    shown = {(tag.select_one(".model").get_text(), tag.select_one(".bits").get_text(), tag.select_one(".dot")["style"], bool(tag.select(".whisker"))) for tag in drawn}
    assert shown == {(PUBLISHED[name]["about"]["model"], f"{PUBLISHED[name]['value']:.3f}", f"left:{page.place(PUBLISHED[name]['value'])}%", f"{name}_low" in PUBLISHED)
                     for name in names}
    assert [float(tag.select_one(".bits").get_text()) for tag in drawn] == sorted((float(tag.select_one(".bits").get_text()) for tag in drawn), reverse=True)


def test_every_family_has_a_colour_in_light_and_in_dark(page):
    from practitioner.book import FAMILIES
    css = (ROOT / "book" / "_static" / "book.css").read_text(encoding="utf-8")
    assert set(page.FAMILIES) == set(FAMILIES)
    for family in FAMILIES:
        assert len(re.findall(rf"--{family}: #", css)) == 2 and f".scores .{family} {{ --family: var(--{family}); }}" in css


def test_the_bug_matrix_has_a_row_for_every_bug_that_was_published(page):
    """... and names as many questions as were published; "nothing" where there are none."""
    rows = page.bugs(PUBLISHED)
    published = {entry["about"]["bug"]: entry for name, entry in PUBLISHED.items() if name.startswith("bug_") and "bug" in entry.get("about", {})}
    questions = {row["bug"]: [] if row["caught by"] == "nothing" else row["caught by"].split(", ") for row in rows}
    assert len(rows) == len(questions) == len(published) > 20 and any(not some for some in questions.values())
    for row in rows:
        entry = published[row["bug"]]
        assert (row["notebook"], len(questions[row["bug"]]), row["value"]) == (entry["notebook"], entry["value"], entry["value"]), row
    assert set().union(*questions.values()) >= {"padding", "no future", "resume", "kept", "two modes"}


def test_a_bug_that_nothing_catches_comes_last_of_its_notebook(page):
    results = {"bug_b": entry(0) | {"about": {"bug": "b", "caught by": "nothing"}}, "bug_a": entry(2) | {"about": {"bug": "a", "caught by": "one, two"}}, "score_a": entry(2.0)}
    assert [(row["bug"], row["caught by"], row["value"]) for row in page.bugs(results)] == [("a", "one, two", 2), ("b", "nothing", 0)]

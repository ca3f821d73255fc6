"""Nothing is published that cannot fail: `practitioner.book`, and every reference in data/results.json.

Each reference is moved, and each value that the notebooks really measured is broken; every time, a failure is seen."""
import ast
import builtins
import collections
import decimal
import json
import math
import os
import pathlib
import re

import nbformat
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from practitioner import book
from practitioner.book import (
    FAMILIES, ResultError, bootstrap_interval, described, load_references, per_conversation, record, result, scoreboard, shown, tolerance_of, write_atomically)

ROOT = pathlib.Path(__file__).resolve().parent.parent
PUBLISHED = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))
LOSS = {"loss": {"value": 2.0649, "unit": "bits", "tolerance": 0.03, "notebook": "12_prediction"}}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of references of one's own, with `loss` in it; nothing is published yet and nothing is logged."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps(LOSS), encoding="utf-8")
    monkeypatch.setattr(book, "_published", set())
    monkeypatch.setenv("PRACTITIONER_RESULTS", str(path))
    monkeypatch.delenv("PRACTITIONER_MEASURED", raising=False)
    monkeypatch.delenv("PRACTITIONER_MODE", raising=False)
    return path


@pytest.fixture
def mode(file, monkeypatch):
    """A function that sets PRACTITIONER_MODE."""
    return lambda name: monkeypatch.setenv("PRACTITIONER_MODE", name)


# result()

@pytest.mark.parametrize("value", [2.0649 + 0.031, 2.0649 - 0.031, -2.0649, 0, 1e300])
def test_under_test_a_value_outside_the_tolerance_fails_and_both_numbers_are_named(mode, value):
    mode("test")
    with pytest.raises(ResultError) as error:
        result("loss", value, "bits")
    assert "loss" in str(error.value) and repr(value) in str(error.value) and "2.0649" in str(error.value)


@pytest.mark.parametrize("value", [1.5, 3, np.float32(1.5), np.int64(3)])
def test_a_reader_s_value_outside_the_tolerance_is_shown_beside_the_book_s(file, capsys, value):
    result("loss", value, "bits")
    result("loss", value, "bits")  # and a reader may run a cell twice
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(re.fullmatch(rf"loss: yours {float(value):.3g}0*, the book's 2\.06\d* bits", line) for line in lines), lines


@pytest.mark.parametrize("value, moved_by", [(4.521601375582141, 1.5), (17.997013322006154, -100), (-0.336432364796611, 10)])
def test_two_numbers_that_differ_are_not_shown_as_equal(file, capsys, value, moved_by):
    """Outside the tolerance, "yours 4.522, the book's 4.522" would tell a reader nothing."""
    tolerance = tolerance_of(value, 0)
    file.write_text(json.dumps({"loss": LOSS["loss"] | {"value": value, "tolerance": tolerance}}), encoding="utf-8")
    result("loss", value + moved_by * tolerance, "bits")
    yours, the_book_s = capsys.readouterr().out.removeprefix("loss: yours ").removesuffix(" bits\n").split(", the book's ")
    assert yours != the_book_s


@pytest.mark.parametrize("name", ["test", "read"])
def test_within_the_tolerance_the_text_is_the_same_whatever_was_measured(mode, capsys, name):
    mode(name)
    for share in (-0.99, -0.5, 0, 1e-9, 0.99):
        book._published.clear()
        result("loss", 2.0649 + 0.03 * share, "bits")
    assert capsys.readouterr().out == "loss: 2.06 bits\n" * 5


def test_the_pages_are_given_the_reference_and_not_the_measured_value(file, monkeypatch):
    glued = []
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr("IPython.display.display", lambda data, **options: glued.append((data, options["metadata"])))
    result("loss", 1.5, "bits")
    prefix = "application/papermill.record/"
    assert glued == [({prefix + "text/plain": "2.0649"}, {"scrapbook": {"name": "loss", "mime_prefix": prefix}})]


@pytest.mark.parametrize("name", ["test", "measure"])
def test_a_name_is_published_once(mode, name):
    mode(name)
    result("loss", 2.0649, "bits")
    with pytest.raises(ResultError, match="'loss' is published twice"):
        result("loss", 2.0649, "bits")


@pytest.mark.parametrize("name", ["test", "measure", "read"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.nan, np.float32(np.inf), True, np.True_, "2.0649", None, [2.0649], 2 + 0j], ids=repr)
def test_what_is_not_a_finite_number_is_refused_in_every_mode(mode, name, value):
    mode(name)
    with pytest.raises(ResultError, match="loss = .* is not a finite number"):
        result("loss", value, "bits")


@pytest.mark.parametrize("name", ["test", "read"])
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(mode, name):
    mode(name)
    with pytest.raises(ResultError, match="no reference is called 'los'; did you mean 'loss'"):
        result("los", 2.0649, "bits")
    with pytest.raises(ResultError, match="no reference is called 'perplexity'.* `make refresh"):
        result("perplexity", 2.0649, "bits")


@pytest.mark.parametrize("name", ["test", "read"])
@pytest.mark.parametrize("unit", ["nats", "", "bit"])
def test_another_unit_is_refused(mode, name, unit):
    mode(name)
    with pytest.raises(ResultError, match=f"loss is published in 'bits', not in '{unit}'"):
        result("loss", 2.0649, unit)


def test_when_measuring_nothing_is_compared_and_everything_is_logged(mode, monkeypatch, tmp_path, capsys):
    mode("measure")
    monkeypatch.setenv("PRACTITIONER_MEASURED", str(tmp_path / "log"))
    result("loss", np.float64(7.0), "bits")
    result("new", 3)
    assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == [
        {"name": "loss", "value": 7.0, "unit": "bits"}, {"name": "new", "value": 3, "unit": ""}]
    assert capsys.readouterr().out == "loss: 7.000 bits\nnew: 3\n"


# What stands beside a value

ABOUT = {"model": "12-gram", "parameters": 5}


def test_a_description_is_logged_and_kept_with_the_reference(mode, monkeypatch, tmp_path, file):
    mode("measure")
    monkeypatch.setenv("PRACTITIONER_MEASURED", str(tmp_path / "log"))
    result("loss", 2.0, "bits", about=ABOUT | {"seconds": 1.5})
    [line] = map(json.loads, (tmp_path / "log").read_text(encoding="utf-8").splitlines())
    assert line == {"name": "loss", "value": 2.0, "unit": "bits", "about": ABOUT | {"seconds": 1.5}}
    record("12_prediction", [{"loss": (2.0, "bits", line["about"])}, {"loss": (2.0, "bits", ABOUT | {"seconds": 9.9})}], "new", path=file)
    assert load_references(file)["loss"]["about"] == ABOUT | {"seconds": 1.5}  # of the first run
    record("12_prediction", [{"loss": (2.0, "bits")}] * 2, path=file)
    assert "about" not in load_references(file)["loss"]


def test_runs_that_describe_differently_are_refused(file):
    before = file.read_bytes()
    for other in ({"model": "12-gram", "parameters": 6}, {"model": "12-gram"}, None):
        with pytest.raises(ResultError, match="loss was described differently"):
            record("12_prediction", [{"loss": (2.06, "bits", ABOUT)}, {"loss": (2.06, "bits", other)}], path=file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("about, fails", [(ABOUT, False), (ABOUT | {"seconds": 99.0}, False), (ABOUT | {"parameters": 6}, True),
                                          (ABOUT | {"model": "11-gram"}, True), (None, True), (ABOUT | {"new": 1}, True)])
def test_under_test_a_description_is_compared_but_for_the_time(file, mode, about, fails):
    file.write_text(with_entry(about=ABOUT | {"seconds": 1.0}), encoding="utf-8")
    result("loss", 2.0649, "bits", about)  # a reader is never stopped
    book._published.clear()
    mode("test")
    if fails:
        with pytest.raises(ResultError, match="loss is described as"):
            result("loss", 2.0649, "bits", about)
    else:
        result("loss", 2.0649, "bits", about)


# scoreboard()

SIZES = [100, 300, 200]
BITS = [150.0, 700.0, 350.0]


@pytest.fixture
def board(file, mode):
    """A function that puts a row on a board of a test part of 600 bytes, as in the reference run; returns what it logged."""
    log = file.with_name("log")
    file.write_text(json.dumps(LOSS | {"test_bytes": LOSS["loss"] | {"value": 600, "unit": "bytes", "notebook": "10_corpus"}}), encoding="utf-8")

    def put(key="ngram", model="12-gram", bits=BITS, sizes=SIZES, family="counting", **options):
        log.unlink(missing_ok=True)
        os.environ["PRACTITIONER_MEASURED"] = str(log)
        mode("measure")
        try:
            scoreboard(key, model, bits, sizes, family, **options)
        finally:
            del os.environ["PRACTITIONER_MEASURED"]
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return put


def test_a_row_is_a_score_with_its_interval_and_description(board, capsys):
    score, low, high = board(parameters=5, seconds=1.234, context="11 bytes")
    assert score == {"name": "score_ngram", "value": 2.0, "unit": "bits per byte", "about": {
        "model": "12-gram", "family": "counting", "parameters": 5, "seconds": 1.2, "context": "11 bytes"}}
    assert (low["name"], high["name"]) == ("score_ngram_low", "score_ngram_high") and "about" not in low
    assert 1.5 <= low["value"] < 2.0 < high["value"] <= 700 / 300
    assert re.fullmatch(r"12-gram: 2.000 bits per byte \(95 % of draws: 1.\d+ to 2.\d+\)\n", capsys.readouterr().out)


def test_a_score_of_the_whole_has_no_interval(board, capsys):
    [score] = board(bits=1200, sizes=600, family="compressor")
    assert score["value"] == 2.0 and score["about"] == {"model": "12-gram", "family": "compressor"}
    assert capsys.readouterr().out == "12-gram: 2.000 bits per byte\n"


@pytest.mark.parametrize("wrong, says", [
    (dict(sizes=[100, 300, 199]), "has 600 bytes, not 599"), (dict(bits=1200, sizes=601), "has 600 bytes, not 601"), (dict(bits=BITS[:2]), "as many as"),
    (dict(bits=1200.0), "as many as"), (dict(bits=[150.0, math.nan, 1.0]), "finite"), (dict(bits=[math.inf, 1.0, 1.0]), "finite"),
    (dict(family="counted"), "a family is one of counting")])
def test_what_is_no_score_of_the_test_part_is_refused(board, wrong, says):
    with pytest.raises(ValueError, match=says):
        board(**wrong)


def test_a_reader_s_row_is_shown_beside_the_book_s(board, file, mode, capsys):
    rows = board()
    record("12_prediction", [{row["name"]: (row["value"], row["unit"], row.get("about")) for row in rows}] * 2, path=file)
    mode("read")
    book._published.clear()
    scoreboard("ngram", "12-gram", BITS, SIZES, "counting")
    scoreboard("ngram", "12-gram", [2 * bits for bits in BITS], SIZES, "counting")
    _, same, other = capsys.readouterr().out.splitlines()
    assert "95 %" in same and other == "12-gram: yours 4.000, the book's 2.000 bits per byte"


def test_the_interval_is_what_drawing_again_gives():
    """Against closed form for many alike conversations, and always the same."""
    rng = np.random.default_rng(3)
    sizes = np.full(400, 1000)
    bits = rng.normal(2000, 100, 400)
    low, high = bootstrap_interval(bits, sizes)
    half = 1.96 * bits.std() / 1000 / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1) and (low + high) / 2 == pytest.approx(bits.sum() / sizes.sum(), abs=half / 10)
    assert bootstrap_interval(bits, sizes) == (low, high)
    ratio = bootstrap_interval([10, 1000], [10, 1000])  # large ones weigh more, and the score is the same in every draw
    assert ratio == (1, 1)


def test_bytes_are_summed_by_conversation():
    assert per_conversation(np.arange(10.0), [1, 4, 5]).tolist() == [0, 10, 35]
    for sizes in ([1, 4, 4], [1, 4, 6]):
        with pytest.raises(ValueError, match="bytes, not 10"):
            per_conversation(np.arange(10.0), sizes)


def test_every_row_of_the_scoreboard_has_a_known_family_and_its_interval_around_it():
    rows = {name: entry for name, entry in PUBLISHED.items() if name.startswith("score_") and "about" in entry}
    assert len(rows) > 10
    for name, entry in rows.items():
        assert entry["about"]["family"] in FAMILIES and entry["unit"] == "bits per byte" and entry["about"]["model"]
        if f"{name}_low" in PUBLISHED:
            assert PUBLISHED[f"{name}_low"]["value"] <= entry["value"] <= PUBLISHED[f"{name}_high"]["value"]
    ends = {name for name in PUBLISHED if re.fullmatch("score_.*_(low|high)", name)}
    assert {name for name in PUBLISHED if name.startswith("score_")} == rows.keys() | ends


# The file of references

def test_a_missing_file_of_references_is_named(file):
    file.unlink()
    with pytest.raises(ResultError, match="no file of references at .*results.json"):
        result("loss", 2.0649, "bits")


def with_entry(**changed):
    return json.dumps({"loss": LOSS["loss"] | changed})


def without(key):
    return json.dumps({"loss": {name: value for name, value in LOSS["loss"].items() if name != key}})


@pytest.mark.parametrize("text, fault", [
    (json.dumps(LOSS)[:-5], "JSONDecodeError"), ("", "JSONDecodeError"), ("[]", "list"), ('{"loss": 2.06}', "TypeError"),
    (with_entry(tolerance=0), "'loss' needs .* a tolerance above 0"), (with_entry(tolerance=-0.03), "'loss' needs .* a tolerance above 0"),
    (with_entry(tolerance=math.nan), "'loss' needs"), (with_entry(tolerance=math.inf), "'loss' needs"),
    (with_entry(value=math.nan), "'loss' needs a finite value"), (with_entry(value="2.06"), "TypeError"), (with_entry(value=None), "TypeError"),
    (without("value"), "'value'"), (without("unit"), "'unit'"), (without("tolerance"), "'tolerance'"), (without("notebook"), "'notebook'"),
], ids=lambda argument: str(argument)[-40:])
def test_a_damaged_file_of_references_is_named_with_its_fault(file, text, fault):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ResultError, match=f"(?s)results.json is damaged: .*{fault}"):
        result("loss", 2.0649, "bits")


def test_a_file_of_references_that_is_no_text_is_named(file):
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="results.json is damaged: UnicodeDecodeError"):
        load_references()


def test_a_folder_in_place_of_the_file_of_references_is_named(file):
    file.unlink()
    file.mkdir()
    with pytest.raises(ResultError, match="results.json"):
        load_references()


def test_what_the_book_published_is_found_without_being_told(file, monkeypatch):
    monkeypatch.delenv("PRACTITIONER_RESULTS")
    assert load_references() == PUBLISHED


# record()

def write(file, **entries):
    """A file as record() leaves it, of two notebooks: `loss` and `size` of 12_prediction, `turns` of 10_corpus."""
    file.unlink()
    record("10_corpus", [{"turns": (100, "turns")}] * 2, path=file)
    record("12_prediction", [{"loss": (2.0, "bits"), "size": (50, "words")}, {"loss": (2.01, "bits"), "size": (50, "words")}], path=file)
    return file.read_bytes()


SAME = {"loss": (2.0, "bits"), "size": (50, "words")}


@pytest.mark.parametrize("notebook, runs, says", [
    ("12_prediction", [SAME | {"loss": (2.04, "bits")}] * 2, "loss: 2.04 .* 2.0 ± 0.03.*REASON"),
    ("12_prediction", [SAME | {"loss": (1.96, "bits")}] * 2, "loss: 1.96 .* 2.0 ± 0.03.*REASON"),
    ("12_prediction", [SAME | {"size": (51, "words")}] * 2, "size: 51 .* 50 ± .*REASON"),
    ("12_prediction", [SAME | {"loss": (2.0, "nats")}] * 2, "loss: 2.0 nats .* 2.0 ± 0.03 bits.*REASON"),
    ("12_prediction", [SAME | {"turns": (100, "turns")}] * 2, "'turns' is published by 10_corpus already"),
    ("12_prediction", [SAME, {"loss": (2.0, "bits")}], "size was not measured in every run"),
    ("12_prediction", [{"loss": (2.0, "bits")}, SAME], "size was not measured in every run"),
    ("12_prediction", [SAME, SAME, {}], "loss was not measured in every run"),
    ("12_prediction", [SAME], "two runs or more"),
    ("12_prediction", [SAME, SAME | {"loss": (2.0, "nats")}], "loss was measured in bits and in nats"),
    ("12_prediction", [SAME, SAME | {"loss": (float("nan"), "bits")}], "loss = nan is not a finite number"),
    ("12_prediction", [SAME, SAME | {"loss": (2.07, "bits")}], "the spread 0.07 is over a thirtieth of the value 2: too noisy"),
], ids=["up", "down", "a count", "another unit", "another notebook's", "less in a later run", "more in a later run", "nothing in a run", "one run", "two units", "not a number", "noise"])
def test_what_record_refuses_leaves_the_file_as_it_was(file, notebook, runs, says):
    before = write(file)
    with pytest.raises(ResultError, match=says):
        record(notebook, runs, path=file)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


def test_a_reason_does_not_buy_noise_or_another_notebook_s_name(file):
    before = write(file)
    for runs in [SAME, SAME | {"loss": (3.0, "bits")}], [SAME | {"turns": (100, "turns")}] * 2, [SAME, {}]:
        with pytest.raises(ResultError):
            record("12_prediction", runs, reason="because", path=file)
    assert file.read_bytes() == before


def test_record_that_cannot_write_leaves_the_file_as_it_was(file, monkeypatch):
    before = write(file)

    def fail(*arguments):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        record("12_prediction", [SAME] * 2, path=file)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


def test_a_move_with_a_reason_is_recorded_and_its_history_kept(file):
    write(file)
    date = json.loads(file.read_text())["loss"]["date"]
    assert record("12_prediction", [SAME | {"loss": (1.5, "bits")}] * 2, reason="a leak was closed", path=file) == ["loss", "size"]
    first = {"value": 2.0, "unit": "bits", "date": date, "reason": "a leak was closed"}
    assert load_references(file)["loss"]["value"] == 1.5
    assert load_references(file)["loss"]["history"] == [first] and load_references(file)["size"]["history"] == []
    record("12_prediction", [SAME | {"loss": (1.5, "bits")}] * 2, path=file)  # no move: nothing to add
    assert load_references(file)["loss"]["history"] == [first]
    record("12_prediction", [SAME | {"loss": (1.4, "bits")}] * 2, reason="better smoothing", path=file)
    assert load_references(file)["loss"]["history"] == [first, {"value": 1.5, "unit": "bits", "date": date, "reason": "better smoothing"}]


def test_the_usual_run_gives_the_value_and_the_others_the_spread(file):
    file.unlink()
    record("12_prediction", [{"loss": (2.0, "bits")}, {"loss": (2.01, "bits")}, {"loss": (1.98, "bits")}], path=file)
    entry = load_references(file)["loss"]
    assert (entry["value"], entry["unit"], entry["runs"], entry["notebook"]) == (2.0, "bits", 3, "12_prediction")
    assert entry["spread"] == pytest.approx(0.02) and entry["tolerance"] == pytest.approx(0.06)
    assert entry["date"] and entry["machine"] and {"python", "numpy", "torch"} <= set(entry["versions"])


def test_names_that_are_published_no_longer_are_dropped_and_others_stay(file):
    write(file)
    assert set(record("12_prediction", [{"loss": (2.0, "bits")}] * 2, path=file)) == {"loss", "size"}
    assert set(load_references(file)) == {"loss", "turns"}
    assert record("12_prediction", [{}], path=file) == ["loss"]
    assert set(load_references(file)) == {"turns"}


@pytest.mark.parametrize("value, spread, tolerance", [(2.0, 0.01, 0.03), (-2.0, 0.01, 0.03), (2.0, 0, 2e-6), (-2.0, 0, 2e-6), (0, 0, 1e-12), (94, 0, 9.4e-5)])
def test_the_tolerance_is_three_spreads_and_at_least_a_millionth(value, spread, tolerance):
    assert tolerance_of(value, spread) == pytest.approx(tolerance)


@pytest.mark.parametrize("value, spread", [(2.0, 0.07), (-2.0, 0.07), (0.0, 1e-6), (1e-9, 1.0)])
def test_too_noisy_is_refused(value, spread):
    with pytest.raises(ResultError, match="too noisy to publish"):
        tolerance_of(value, spread)


# write_atomically()

@pytest.mark.parametrize("function", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk full", "interrupted"])
def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_beside_it(file, monkeypatch, function, fault):
    before = file.read_bytes()

    def fail(*arguments):
        raise fault
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(fault)) as caught:
        write_atomically(file, "new")
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]
    assert str(file) in str(caught.value) or isinstance(fault, KeyboardInterrupt)


def test_text_that_cannot_be_encoded_leaves_the_old_file_whole(file):
    before = file.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "half of a pair: \ud800")
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


def test_until_the_last_moment_a_reader_sees_the_old_file(file, monkeypatch):
    """What is moved over it is whole already, and lies in the same folder: from another disk it could not be moved at once."""
    before, replace, seen = file.read_bytes(), os.replace, []

    def look(source, target):
        assert pathlib.Path(source).parent == file.parent
        seen.append((pathlib.Path(source).read_text(encoding="utf-8"), file.read_bytes()))
        replace(source, target)
    monkeypatch.setattr(os, "replace", look)
    write_atomically(file, "new é\n" * 10_000)
    assert seen == [("new é\n" * 10_000, before)]
    assert file.read_text(encoding="utf-8") == "new é\n" * 10_000 and os.listdir(file.parent) == [file.name]


# shown()

settings.register_profile("book", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("book")


def digits(text):
    """How many significant digits `text` has."""
    return len(text.replace(",", "").replace("-", "").replace(".", "").lstrip("0"))


def off_by(value, text):
    """The distance of `text` from `value`, in units of its last digit; exact."""
    number = decimal.Decimal(text.replace(",", ""))
    unit = decimal.Decimal(1).scaleb(number.as_tuple().exponent)
    with decimal.localcontext() as context:
        context.prec = 2000
        return abs(decimal.Decimal(value) - number) / unit


@given(st.floats(-9999, 9999), st.just(0.0) | st.floats(1e-9, 10))
@example(9.9996, 0.0)
@example(0.99996, 0.0)
@example(999.96, 0.0)
@example(-9999.0, 0.0)
def test_a_float_is_shown_with_four_digits_at_most(value, tolerance):
    assert digits(shown(value, tolerance)) <= 4, shown(value, tolerance)


@given(st.floats(allow_nan=False, allow_infinity=False), st.just(0.0) | st.floats(1e-9, 10))
@example(9.9996, 0.0)
def test_what_is_shown_is_the_value_rounded(value, tolerance):
    """It parses back within half a unit of the last digit shown."""
    assert off_by(value, shown(value, tolerance)) <= decimal.Decimal("0.5")


@given(st.integers())
def test_a_whole_number_is_shown_whole(value):
    assert int(shown(value).replace(",", "")) == value


@given(st.floats(1e-3, 9999), st.floats(1e-6, 1e-2))
def test_no_digit_is_shown_below_the_tolerance_s(value, share):
    """The last decimal, where there is any, is worth at least a tenth of the tolerance."""
    decimals = len(shown(value, share * value).partition(".")[2])
    assert decimals == 0 or 10.0 ** -decimals >= 0.1 * share * value * (1 - 1e-9)


# Every published reference, against what the notebooks measured

@pytest.fixture(scope="module")
def measured():
    """Name to what the notebooks, run strictly, measured."""
    log = ROOT / "_build" / "measured.jsonl"
    if not log.exists():
        pytest.fail("there is no _build/measured.jsonl: `make test` runs the notebooks first (tools/validate.py), which write it")
    return {entry["name"]: entry for entry in map(json.loads, log.read_text(encoding="utf-8").splitlines())}


def publish(file, entry, value):
    """What a notebook does under test: result(), with `entry` as the reference."""
    book._published.clear()
    file.write_text(json.dumps({"it": entry}), encoding="utf-8")
    result("it", value, entry["unit"], entry.get("about"))


def test_the_notebooks_measure_what_is_published_and_no_more(measured):
    assert sorted(measured) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_measured_is_within_the_tolerance(measured, file, mode, name):
    mode("test")
    assert measured[name]["unit"] == PUBLISHED[name]["unit"]
    assert described(measured[name].get("about")) == described(PUBLISHED[name].get("about"))
    publish(file, PUBLISHED[name], measured[name]["value"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_reference_moved_by_two_tolerances_is_noticed(measured, file, mode, name):
    mode("test")
    for direction in (2, -2):
        moved = PUBLISHED[name] | {"value": PUBLISHED[name]["value"] + direction * PUBLISHED[name]["tolerance"]}
        with pytest.raises(ResultError, match="measured"):
            publish(file, moved, measured[name]["value"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_broken_measurement_is_noticed(measured, file, mode, name):
    """What a computation that died, lost its sign, counted twice or overflowed would measure; unless that is the value."""
    mode("test")
    value, tolerance = measured[name]["value"], PUBLISHED[name]["tolerance"]
    for broken in [0, -value, 2 * value, math.nan]:
        if not abs(broken - value) <= tolerance:
            with pytest.raises(ResultError, match="measured|not a finite number"):
                publish(file, PUBLISHED[name], broken)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tolerance_is_the_one_that_follows_from_the_spread(name):
    """Nobody made room by hand: with a tolerance as wide as the value, nothing above could fail."""
    entry = PUBLISHED[name]
    assert entry["runs"] >= 3 and entry["tolerance"] == tolerance_of(entry["value"], entry["spread"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_reference_belongs_to_a_notebook_that_exists(name):
    assert (ROOT / "notebooks" / f"{PUBLISHED[name]['notebook']}.ipynb").exists()


# What the notebooks hand to result()

def code_of(path):
    """The code cells of a notebook, as Python."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(TransformerManager().transform_cell(cell.source) for cell in cells if cell.cell_type == "code")


def calls_of(tree):
    """(name, value) of each call of result() and scoreboard(), as syntax trees; None for one that is not given."""
    for node in ast.walk(tree):
        called = {getattr(node.func, "id", ""), getattr(node.func, "attr", "")} if isinstance(node, ast.Call) else set()
        if "result" in called:
            given = dict(zip(("name", "value", "unit"), node.args)) | {keyword.arg: keyword.value for keyword in node.keywords}
            yield given.get("name"), given.get("value")
        if "scoreboard" in called:
            given = dict(zip(("key", "model", "bits", "sizes"), node.args)) | {keyword.arg: keyword.value for keyword in node.keywords}
            yield given.get("key"), given.get("bits")


def is_typed(value, typed=frozenset()):
    """Whether the expression `value` was typed rather than measured: nothing in it but literals, names for them, and built-in functions."""
    names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    return not names - typed - set(dir(builtins))


def names_for_literals(tree):
    """The names that are only ever assigned something typed."""
    values = collections.defaultdict(list)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            values[node.id].append(None)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id].append(node.value)
    return {name for name, found in values.items()
            if len([value for value in found if value is None]) * 2 == len(found) and all(value is None or is_typed(value) for value in found)}


def faults(sources):
    """What is wrong with the calls of result() in the `sources`, notebook to Python."""
    used, found = collections.Counter(), []
    for notebook, source in sources.items():
        tree = ast.parse(source)
        typed = names_for_literals(tree)
        for name, value in calls_of(tree):
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                used[name.value] += 1
            elif not isinstance(name, ast.JoinedStr):
                found.append(f"{notebook}: a name that is not written out: {name and ast.unparse(name)}")
            if value is None or is_typed(value, typed):
                found.append(f"{notebook}: a number typed by hand: {value and ast.unparse(value)}")
    return found + [f"{name!r} is published {times} times" for name, times in used.items() if times > 1]


def test_no_notebook_publishes_a_number_typed_by_hand_or_a_name_twice():
    sources = {path.stem: code_of(path) for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert sum(1 for source in sources.values() for _ in calls_of(ast.parse(source))) >= 20
    assert not faults(sources)


@pytest.mark.parametrize("source", [
    "result('a', 4.5)", "result('a', -4.5, 'bits')", "result('a', 2 * 3)", "result(name='a', value=float('4.5'))", "book.result('a', 7)",
    "n = 7\nresult('a', n)", "result('a', round(4.512, 1))", "result(name, x)", "result('a' + b, x)", "result('a', x)\nresult('a', y)",
    "for a in b:\n    result(a, x)", "result('a')",
    "scoreboard('a', 'm', 8 * 100, n, 'counting')", "scoreboard('a', 'm', bits=[1, 2], sizes=n)"])
def test_a_number_typed_by_hand_or_a_name_used_twice_would_be_found(source):
    assert len(faults({"notebook": source})) == 1


@pytest.mark.parametrize("source", [
    "result('a', x)", "result(f'{a}_size', len(x))", "result('a', 100 * share[1], '%')", "n = len(x)\nresult('a', n)", "n = 0\nn += x\nresult('a', n)",
    "for n in x:\n    result(f'{n}', n)", "n = 0\nn = measure()\nresult('a', n)"])
def test_a_measured_number_would_not_be_mistaken_for_one(source):
    assert not faults({"notebook": source})

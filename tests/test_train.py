"""`make train`: a run is carried out, recorded, stopped and taken up, and what it keeps says where it came from."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
import train  # noqa: E402  (tools/train.py)
from practitioner.lstm import load_weights  # noqa: E402

TINY = train.USUAL | dict(vocabulary="bytes", model=dict(n_embd=8, n_hidden=12), lanes=4, length=16, steps=6, warmup=1, bytes=5_000)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for runs and one for what is kept; tiny runs in the place of the book's; a short validation part."""
    monkeypatch.setattr(train, "RECORDED", tmp_path / "runs")
    monkeypatch.setattr(train, "DATA", tmp_path / "data")
    monkeypatch.setattr(train, "RUNS", {"lstm": TINY, "averaged": TINY | dict(average=True), "other": TINY | dict(seed=1)})
    own, validation, sizes = train.tokens("bytes")
    monkeypatch.setattr(train, "tokens", lambda vocabulary, text="letters": (own, validation[:3000], sizes))
    (tmp_path / "data" / "lstm").mkdir(parents=True)
    return tmp_path


def kept(place):
    return json.loads((place / "data" / "lstm" / "runs.json").read_text())


def test_a_run_keeps_its_curve_and_its_weights(place):
    train.carry_out("lstm")
    run = kept(place)["lstm"]
    assert run["settings"] == TINY and run["curve"][-1][0] == 6 and 0 < run["validation"] < 9
    assert len(run["commit"]) == 40 and len(run["data"]["train"]) == 64 and run["sessions"] == 1
    model = load_weights(place / "data" / "lstm" / "lstm.safetensors")
    assert sum(p.numel() for p in model.parameters()) == run["parameters"]


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(place, monkeypatch):
    train.carry_out("lstm")
    whole, weights = kept(place)["lstm"], load_weights(place / "data" / "lstm" / "lstm.safetensors").state_dict()
    real, taken = train.carried_loss, []

    def stops(*arguments, **options):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **options)
    monkeypatch.setattr(train, "RECORDED", place / "again")
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    monkeypatch.setattr(train, "carried_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        train.carry_out("lstm")
    monkeypatch.setattr(train, "carried_loss", real)
    train.carry_out("lstm")
    run = kept(place)["lstm"]
    assert run["sessions"] == 2 and run["validation"] == whole["validation"]
    assert [row[::2] for row in run["curve"]] == [row[::2] for row in whole["curve"]]
    again = load_weights(place / "data" / "lstm" / "lstm.safetensors").state_dict()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_runs_stand_beside_each_other(place):
    for name in "other", "averaged":
        train.carry_out(name)
    found = kept(place)
    assert found.keys() == {"other", "averaged"} and found["other"]["validation"] != found["averaged"]["validation"]
    assert not list((place / "data" / "lstm").glob("*.safetensors"))  # of runs that are kept as curves only


def test_an_averaged_run_is_judged_by_its_average(place):
    """... and not by its last weights, which the run without averaging has."""
    train.carry_out("lstm"), train.carry_out("averaged")
    found = kept(place)
    assert found["lstm"]["curve"][-1][2] == found["averaged"]["curve"][-1][2] and found["lstm"]["validation"] != found["averaged"]["validation"]


def test_an_average_is_not_taken_up(place):
    """It would be one of other weights; no run of that name is touched."""
    train.carry_out("averaged")
    before = kept(place)
    with pytest.raises(SystemExit, match="averaged anew"):
        train.carry_out("averaged")
    assert kept(place) == before


def test_the_names_are_asked_for():
    done = subprocess.run([sys.executable, ROOT / "tools" / "train.py", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "nothing" in done.stderr and "lstm" in done.stderr and "Traceback" not in done.stderr


def pretend(name, device):
    if name == "rate-all-3":
        raise RuntimeError("no room")
    return Path(os.environ["PRETENDED"]), {"validation": 1.0}


@pytest.mark.skipif(sys.platform != "linux", reason="a worker has the patched module only where it is forked")
def test_a_run_that_fails_is_named_and_the_others_are_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PRETENDED", str(tmp_path / "runs.json"))
    monkeypatch.setattr(train, "trained", pretend)
    monkeypatch.setattr(sys, "argv", ["train.py", "rate-all-*"])
    with pytest.raises(SystemExit, match="failed: rate-all-3; what the others gave is kept"):
        train.main()
    assert "RuntimeError: no room" in capsys.readouterr().err
    assert json.loads((tmp_path / "runs.json").read_text()).keys() == {"rate-all-0.75", "rate-all-1.5", "rate-all-6"}

"""Laws of scaling find what is there; weights in 8 bits come back."""
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from test_recipe import loud, MODERN, some_tokens, TINY

from practitioner.scaling import (agreement, best_split_exponent, fit_law, known_windows, load_quantised, quantised, refits, save_quantised, three_terms,
                                  window_keys)

quick = settings(max_examples=60, deadline=None, derandomize=True)
N, D = np.repeat((0.4, 0.9, 1.7, 2.6), 5), np.tile((0.17, 0.35, 0.7, 1.4, 2.8), 4)


@pytest.mark.parametrize("known", [(0.9, 0.4, 0.3, 0.35, 0.5), (0.5, 0.8, 0.2, 0.2, 0.3), (1.2, 0.1, 0.5, 0.8, 0.6)])
def test_a_law_is_found_from_its_losses(known):
    law = *np.log(known[:3]), *known[3:]
    assert np.allclose(fit_law(N, D, three_terms(law, N, D)), law, atol=2e-3)


def test_a_run_that_went_wrong_does_not_pull_the_law_towards_it():
    law = *np.log([0.9, 0.4, 0.3]), 0.35, 0.5
    loss = three_terms(law, N, D)
    loss[7] *= 1.2
    right = np.arange(20) != 7
    assert np.abs(three_terms(fit_law(N, D, loss), N, D) / three_terms(law, N, D) - 1)[right].max() < 5e-3


def test_fewer_runs_than_numbers_are_refused():
    with pytest.raises(ValueError, match="5 numbers cannot be found from 4 runs"):
        fit_law(N[:4], D[:4], N[:4])


def test_refits_are_as_far_apart_as_the_noise_says_and_the_same_for_the_same_seed():
    law = np.array([*np.log([0.9, 0.4, 0.3]), 0.35, 0.5])
    near, far = (three_terms(refits(law, N, D, deviation, 20).T[..., None], 2.6, 2.8).std() for deviation in (1e-3, 3e-3))
    assert 2 < far / near < 4.5
    assert np.array_equal(refits(law, N, D, 1e-3, 2, seed=4), refits(law, N, D, 1e-3, 2, seed=4))


def test_the_best_size_grows_by_the_exponent():
    law = *np.log([0.9, 0.4, 0.3]), 0.35, 0.5
    sizes = np.geomspace(1e-2, 1e3, 200_001)
    best = [sizes[np.argmin(three_terms(law, sizes, budget / sizes))] for budget in (1, 1000)]
    assert np.isclose(np.log(best[1] / best[0]) / np.log(1000), best_split_exponent(law), atol=1e-3)


# Weights in 8 bits

@quick
@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 99), st.floats(-12, 12))
def test_a_number_is_off_by_half_a_step_at_most(m, n, seed, size):
    weight = 10 ** size * torch.from_numpy(np.random.default_rng(seed).standard_t(2, (m, n))).float()
    whole, scale = quantised(weight)
    assert whole.dtype == torch.int8 and whole.abs().max() <= 127 and scale.shape == (m,)
    assert ((whole * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None] + 1e-30).all()


def test_a_row_of_zeros_stays_one():
    whole, scale = quantised(torch.zeros(2, 3))
    assert not whole.any() and torch.isfinite(scale).all()


@pytest.mark.parametrize("recipe", [TINY, replace(MODERN, tied=False)])
def test_a_model_comes_back_from_8_bits(recipe, tmp_path):
    model, tokens = loud(recipe).float(), some_tokens(3, 9)
    save_quantised(tmp_path / "small.safetensors", model, run="a run")
    found = load_quantised(tmp_path / "small.safetensors")
    assert found.recipe == recipe and not found.training
    for name, value in model.state_dict().items():
        step = value.abs().amax(dim=-1, keepdim=True) / 127 if value.ndim == 2 else 0.0
        assert ((found.state_dict()[name] - value).abs() <= 0.5001 * step).all(), name
    with torch.no_grad():
        assert 0 < (found(tokens) - model(tokens)).abs().max() < 0.5
    save_quantised(tmp_path / "again.safetensors", found, run="a run")
    assert all(torch.allclose(value, load_quantised(tmp_path / "again.safetensors").state_dict()[name], rtol=1e-5) for name, value in found.state_dict().items())


def test_what_is_no_such_file_is_refused_by_name(tmp_path):
    from practitioner.lstm import save_weights
    file = tmp_path / "weights.safetensors"
    for make in (lambda: None, lambda: file.write_bytes(b"\x80\x04."), lambda: save_weights(file, loud(TINY).float())):
        make()
        with pytest.raises((ValueError, FileNotFoundError), match="weights.safetensors"):
            load_quantised(file)
    save_quantised(file, loud(TINY).float())
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="no weights in 8 bits, or damaged"):
        load_quantised(file)


# What stands in a text

tokens = st.lists(st.integers(0, 2), max_size=40).map(lambda some: np.array(some, np.uint16))


@quick
@given(st.lists(tokens, min_size=1, max_size=4), tokens, st.integers(1, 6), st.booleans())
def test_windows_of_a_text_are_found_as_by_looking_at_each(rows, text, length, near):
    def windows(some):
        return [tuple(some[i:i + length].tolist()) for i in range(len(some) - length + 1)]

    there = windows(text)
    known = [any(sum(a != b for a, b in zip(mine, other)) <= near for other in there) for row in rows for mine in windows(row)]
    assert known_windows(rows, text, length, near).tolist() == known


def test_keys_of_different_windows_differ_and_a_hole_hides_one_place():
    every = np.array(list(itertools.product(range(5), repeat=5)), np.uint16)
    keys = np.concatenate([window_keys(row, 5) for row in every])
    assert len(np.unique(keys)) == len(every)
    holed = np.concatenate([window_keys(row, 5, hole=2) for row in every])
    assert len(np.unique(holed)) == 5 ** 4


@quick
@given(st.integers(0, 999), st.integers(1, 8))
def test_agreement_ends_where_greedy_writing_would_leave_the_text(seed, given_tokens):
    model = loud(MODERN, seed).float().eval()
    rows = torch.from_numpy(np.random.default_rng(seed).integers(TINY.vocab_size, size=(3, 9)))
    with torch.no_grad():
        for place in range(given_tokens, 9):                                # half of them as the model would have it
            likely = model(rows[:, :place])[:, -1].argmax(-1)
            rows[:2, place] = torch.where(torch.rand(2, generator=torch.Generator().manual_seed(seed + place)) < 0.7, likely[:2], rows[:2, place])
    known = []
    for row in rows:
        wrote = row[:given_tokens].tolist()
        while len(wrote) < 9 and wrote == row[:len(wrote)].tolist():
            with torch.no_grad():
                wrote.append(int(model(torch.tensor([wrote]))[0, -1].argmax()))
        known.append(len(wrote) - given_tokens - (wrote != row[:len(wrote)].tolist()))
    assert agreement(model, rows, given_tokens).tolist() == known
    with pytest.raises(ValueError, match="given is from 1 to 8, not 9"):
        agreement(model, rows, 9)

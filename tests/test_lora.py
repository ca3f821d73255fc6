"""Low-rank adaptation against what peft computed; against the plain model; files that are refused; what learns, what is held, and the bug of the chapter."""
import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from practitioner.chat import chat_loss, with_tokens_like
from practitioner.gpt import GPT, GPTConfig, louder
from practitioner.lora import (adapter_loss, adapter_state, adapters_of, ADAPTER_QUESTIONS, base_digest, exchange, frozen_over, kept_apart, load_adapter,
                               LoRALinear, low_rank, merged, NewRows, save_adapter, with_lora)
from practitioner.diagnostics import examine, practice_setup, QUESTIONS
from practitioner.recipe import DecoderLM, fused_adamw, QWEN3, Recipe

ROOT = Path(__file__).resolve().parent.parent
quick = settings(max_examples=int(os.environ.get("EXAMPLES", 15)), deadline=None, derandomize=True)
V, T = 13, 10
KINDS = {"gpt1": None, "tied": dict(), "qwen": QWEN3 | dict(tied=False), "learned": dict(pre_norm=True, tied=False)}
PEFT = ROOT / "data" / "lora" / "peft.safetensors"


def made(kind, seed=0, dtype=torch.float64):
    """A small model of this kind, with noise on every parameter."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(V, T, 8, 2, 2, dropout=0.0)) if KINDS[kind] is None else DecoderLM(Recipe(V, T, 8, 2, 2, **{"n_inner": 12} | KINDS[kind]))
    return louder(model).to(dtype).eval()


def adapted(kind, seed=0, r=3, alpha=5, dtype=torch.float64, **options):
    """... with adapters, none of whose factors is zero."""
    base = made(kind, seed, dtype)
    model = with_lora(base, r, alpha, **options)
    with torch.no_grad():
        for value in adapters_of(model).values():
            value += 0.3 * torch.randn_like(value)
    return base, model


def tokens_of(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(V, size=shape))


def mean_loss(model, tokens):
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


# Against peft

@pytest.fixture(scope="module")
def peft():
    with safe_open(PEFT, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["about"])


def like_theirs(peft, kind):
    """The model that peft adapted, with our adapters in their beginning state, and a function: prefix → their arrays."""
    arrays, how = peft
    under = lambda prefix: {name.removeprefix(f"{kind}.{prefix}."): value for name, value in arrays.items() if name.startswith(f"{kind}.{prefix}.")}
    about = how["models"][kind]
    base = (GPT(GPTConfig(**about["settings"])) if kind == "gpt1" else DecoderLM(Recipe(**about["settings"]))).double().eval()
    base.load_state_dict(under("base"))
    model = with_lora(base, about["r"], about["alpha"], new_tokens=about["new_tokens"])
    state = adapter_state(model)
    assert state.keys() == under("before").keys() and all(value.abs().min() > 0 for name, value in under("before").items() if name.endswith("B"))
    for name, value in under("before").items():
        state[name].data.copy_(value)
    return model, base, under


@pytest.mark.parametrize("kind", ["decoder", "gpt1"])
def test_outputs_and_gradients_are_those_of_peft(peft, kind):
    """... to ten digits, and far from those without adapters."""
    model, base, under = like_theirs(peft, kind)
    tokens, logits, loss = (peft[0][f"{kind}.{name}"] for name in ("tokens", "logits", "loss"))
    assert torch.allclose(model(tokens[:, :-1]), logits, rtol=0, atol=1e-10) and (base(tokens[:, :-1]) - logits).abs().max() > 0.1
    found = mean_loss(model, tokens)
    found.backward()
    assert abs(found - loss) < 1e-10
    for name, value in under("gradient").items():
        assert value.abs().max() > 1e-6 and torch.allclose(adapter_state(model)[name].grad, value, rtol=0, atol=1e-10), name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("kind", ["decoder", "gpt1"])
def test_three_steps_and_the_merged_model_are_those_of_peft(peft, kind):
    model, base, under = like_theirs(peft, kind)
    tokens, how, before = peft[0][f"{kind}.tokens"], peft[1], copy.deepcopy(base.state_dict())
    optimizer = torch.optim.AdamW(adapter_state(model).values(), lr=how["rate"], weight_decay=how["weight_decay"])
    for _ in range(how["steps"]):
        optimizer.zero_grad()
        mean_loss(model, tokens).backward()
        optimizer.step()
    for name, value in under("after").items():
        assert torch.allclose(adapter_state(model)[name], value, rtol=0, atol=1e-10), name
    assert torch.allclose(merged(model)(tokens[:, :-1]), peft[0][f"{kind}.merged"], rtol=0, atol=1e-10)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())


def test_the_file_says_by_which_version_it_was_made():
    about = json.loads(safe_open(PEFT, framework="pt").metadata()["about"])
    assert f"peft {about['versions']['peft']}" in (ROOT / "data" / "lora" / "README.md").read_text(encoding="utf-8")


# Two thin factors

@quick
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 9), st.booleans(), st.integers(0, 99))
def test_a_layer_computes_the_sum_and_its_gradients_are_those_by_hand(m, n, r, alpha, bias, seed):
    torch.manual_seed(seed)
    r = min(r, m, n)
    linear = nn.Linear(n, m, bias).double().requires_grad_(False)
    layer = LoRALinear(linear, r, alpha)
    X, G = torch.randn(2, 5, n).double(), torch.randn(2, 5, m).double()
    assert torch.equal(layer(X), linear(X))                                   # at the beginning
    layer.B.data.normal_()
    whole = linear.weight + alpha / r * layer.B @ layer.A
    assert torch.allclose(layer(X), F.linear(X, whole, linear.bias), atol=1e-12)
    assert torch.allclose(layer.merged()(X), layer(X), atol=1e-12) and not torch.equal(layer.merged().weight, linear.weight)
    (layer(X) * G).sum().backward()
    dW = G.flatten(0, 1).T @ X.flatten(0, 1)
    assert torch.allclose(layer.B.grad, alpha / r * dW @ layer.A.T, atol=1e-10) and torch.allclose(layer.A.grad, alpha / r * layer.B.T @ dW, atol=1e-10)
    assert linear.weight.grad is None


@pytest.mark.parametrize("r, alpha", [(0, 1), (5, 1), (-1, 1), (2, 0), (2, -3), (2, float("nan"))])
def test_what_is_no_rank_or_no_scale_is_refused(r, alpha):
    with pytest.raises(ValueError, match="from 1 to 4"):
        LoRALinear(nn.Linear(4, 6), r, alpha)


@quick
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 7), st.integers(0, 99))
def test_the_best_of_a_rank_is_that_of_numpy_and_better_than_others(m, n, r, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(m, n))
    found = low_rank(torch.from_numpy(matrix), r)
    U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
    assert np.allclose(found, (U[:, :r] * s[:r]) @ Vt[:r], atol=1e-10) and np.linalg.matrix_rank(found.numpy()) <= r
    other = rng.normal(size=(m, r)) @ rng.normal(size=(r, n))
    assert np.linalg.norm(matrix - found.numpy()) <= np.linalg.norm(matrix - other) + 1e-9
    assert np.linalg.norm(matrix - found.numpy()) == pytest.approx(np.sqrt((s[r:] ** 2).sum()), abs=1e-9)


# In models

@pytest.mark.parametrize("kind", KINDS)
def test_at_the_beginning_it_is_the_base_and_the_base_stays_as_it_was(kind):
    base = made(kind)
    before, learned = copy.deepcopy(base.state_dict()), [p.requires_grad for p in base.parameters()]
    model, tokens = with_lora(base, 3, 6, new_tokens=3), tokens_of(3, T)
    assert torch.allclose(model(tokens), base(tokens), rtol=0, atol=1e-12) and not model.training
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        mean_loss(model, tokens).backward()
        optimizer.step()
    assert not torch.allclose(model(tokens), base(tokens), atol=0.01)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    assert [p.requires_grad for p in base.parameters()] == learned and not hasattr(base, "lora")


@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_weights_are_the_base_s_memory_and_nothing_else_is_large(kind):
    base = made(kind)
    model = with_lora(base, 2, 4, new_tokens=2)
    own = {p.untyped_storage().data_ptr() for p in base.parameters()}
    shared = [p for p in model.parameters() if p.untyped_storage().data_ptr() in own]
    assert all(not p.requires_grad for p in shared)
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in shared) == sum(p.numel() for p in adapter_state(model).values())


@pytest.mark.parametrize("kind, tables", [("gpt1", 1), ("tied", 1), ("qwen", 2), ("learned", 2)])
def test_as_many_numbers_learn_as_were_counted(kind, tables):
    base = made(kind)
    shapes = [tuple(part.weight.shape) for name, part in base.named_modules() if name.startswith("blocks.") and isinstance(part, nn.Linear)]
    model = with_lora(base, 3, 6, new_tokens=2)
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learns == 3 * sum(map(sum, shapes)) + tables * 2 * 8 == sum(value.numel() for value in adapter_state(model).values())
    some = with_lora(base, 3, 6, names=["qkv", "down"])
    assert adapter_state(with_lora(base, 1, 1, names=[], new_tokens=2)).keys() == {"tokens.new"} | ({"output.new"} if tables == 2 else set())
    assert {name.split(".")[2] for name in adapter_state(some)} == {"qkv", "down"} and some.lora["names"] == ["down", "qkv"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_new_get_the_gradient_that_they_have_in_the_whole_table(kind):
    """... and in the tied ones from both of the table's jobs."""
    base, tokens = made(kind), tokens_of(4, T + 1)
    mean_loss(base, tokens).backward()
    model = with_lora(base, 2, 4, new_tokens=3)
    mean_loss(model, tokens).backward()
    assert torch.allclose(model.tokens.new.grad, base.tokens.weight.grad[-3:], atol=1e-12)
    if "output" in dict(model.named_children()):
        assert torch.allclose(model.output.new.grad, base.output.weight.grad[-3:], atol=1e-12)


def test_a_table_in_two_parts_is_the_table():
    table, head = nn.Embedding(V, 6), nn.Linear(6, V, bias=False)
    x, tokens = torch.randn(2, 3, 6), torch.arange(V)[None]
    for count in 1, 4, V - 1:
        assert torch.equal(NewRows(table, count)(tokens), table(tokens)) and torch.equal(NewRows(table, count).weight, table.weight)
        assert torch.allclose(NewRows(head, count)(x), head(x), atol=1e-6)
        assert torch.equal(NewRows(table, count).merged()(tokens), table(tokens)) and torch.allclose(NewRows(head, count).merged()(x), head(x), atol=1e-6)
    for wrong in 0, V, V + 1, -1:
        with pytest.raises(ValueError, match="rows"):
            NewRows(table, wrong)


def test_fused_matrices_share_what_they_look_at():
    """The change of q, k and v together has the rank r, not 3 r."""
    _, model = adapted("qwen", r=2)
    layer = model.blocks[0].qkv
    assert torch.linalg.matrix_rank(layer.B @ layer.A) == 2 and layer.A.shape == (2, 8) and layer.B.shape == (24, 2)


@pytest.mark.parametrize("options, what", [(dict(names=["query"]), "query"), (dict(names=[]), r"not \[\]"), (dict(names=["qkv", "gate"]), "gate"), (dict(r=9), "ranks from 1 to 8"),
                                           (dict(alpha=0), "alpha"), (dict(new_tokens=V), "rows"), (dict(new_tokens=-1), "rows")])
def test_what_a_model_does_not_have_is_refused_and_nothing_is_changed(options, what):
    base = made("gpt1")
    before = list(base.state_dict())
    with pytest.raises(ValueError, match=what):
        with_lora(base, **dict(r=2, alpha=4) | options)
    assert list(base.state_dict()) == before and all(p.requires_grad for p in base.parameters())


def test_adapters_are_not_stacked_and_a_merged_model_is_not_merged_again():
    base, model = adapted("qwen")
    with pytest.raises(ValueError, match="adapters already"):
        with_lora(model, 2, 4)
    plain = merged(model)
    with pytest.raises(ValueError, match="no adapters"):
        merged(plain)
    assert with_lora(plain, 2, 4).lora["r"] == 2                                # a merged one may learn anew


def test_parts_are_exchanged_and_views_are_frozen():
    model = made("qwen")
    other = exchange(frozen_over(model), lambda name, part: nn.Identity() if name.endswith("norm_1") else None)
    assert [type(block.norm_1) for block in other.blocks] == 2 * [nn.Identity] and all(isinstance(block.norm_1, nn.RMSNorm) for block in model.blocks)
    assert not any(p.requires_grad for p in other.parameters()) and all(p.requires_grad for p in model.parameters())
    tied = frozen_over(made("gpt1"))
    assert len(list(tied.parameters())) == len(list(made("gpt1").parameters()))


# Merged

@quick
@given(st.sampled_from(list(KINDS)), st.integers(1, 4), st.floats(0.5, 20), st.integers(0, 3), st.integers(0, 99))
def test_merged_and_unmerged_are_equal(kind, r, alpha, new_tokens, seed):
    base, model = adapted(kind, seed, r, alpha, new_tokens=new_tokens)
    plain, tokens = merged(model), tokens_of(2, T, seed=seed)
    assert torch.allclose(plain(tokens), model(tokens), rtol=0, atol=1e-9) and (base(tokens) - model(tokens)).abs().max() > 1e-3
    assert plain.state_dict().keys() == base.state_dict().keys() and type(plain) is type(base) and all(p.requires_grad for p in plain.parameters())
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not own & {p.untyped_storage().data_ptr() for p in plain.parameters()}          # nothing shared


def test_a_merged_model_is_saved_and_read_like_any_other(tmp_path):
    from practitioner.scaling import load_quantised, save_quantised
    _, model = adapted("qwen", dtype=torch.float32, new_tokens=2)
    save_quantised(tmp_path / "whole.safetensors", merged(model))
    again, tokens = load_quantised(tmp_path / "whole.safetensors"), tokens_of(2, T)
    assert (again(tokens) - model(tokens)).abs().max() < 0.1 * model(tokens).abs().max()


# Files

@pytest.fixture
def kept(tmp_path):
    """A base, a model over it, and the file of its adapters."""
    base, model = adapted("qwen", dtype=torch.float32, new_tokens=3)
    save_adapter(tmp_path / "adapter.safetensors", model, steps=7)
    return base, model, tmp_path / "adapter.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_read_back_to_the_bit_and_the_base_stays(kind, tmp_path):
    base, model = adapted(kind, dtype=torch.float32, new_tokens=2, names=["qkv", "up"])
    file, tokens = tmp_path / "adapter.safetensors", tokens_of(2, T)
    save_adapter(file, model, steps=7)
    before = copy.deepcopy(base.state_dict())
    again = load_adapter(file, made(kind, dtype=torch.float32))
    assert torch.equal(again(tokens), model(tokens)) and again.lora == model.lora
    load_adapter(file, base)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    about = json.loads(safe_open(file, framework="pt").metadata()["about"])
    assert about["steps"] == 7 and about["base"] == base_digest(model) and len(about["base"]) == 64


def test_new_tokens_of_the_base_may_begin_anywhere(kept):
    """They are in the file; the rows with which the base begins are not part of what it is."""
    base, model, file = kept
    other = copy.deepcopy(base)
    other.tokens.weight.data[-3:] = 7
    assert torch.equal(load_adapter(file, other)(tokens_of(2, T)), model(tokens_of(2, T)))


def damage(file, change=lambda tensors: None, about=lambda about: None):
    tensors, metadata = load_file(file), json.loads(safe_open(file, framework="pt").metadata()["about"])
    change(tensors), about(metadata)
    save_file(tensors, file, dict(about=json.dumps(metadata)))


A = "blocks.0.qkv.A"


@pytest.mark.parametrize("change, what", [
    (lambda t: t.pop(A), rf"{A} is nothing, where the base needs \(3, 8\)"),
    (lambda t: t.update({"blocks.7.qkv.A": torch.ones(3, 8)}), r"blocks.7.qkv.A is \(3, 8\), where the base needs nothing"),
    (lambda t: t.update({A: torch.ones(4, 8)}), r"is \(4, 8\), where the base needs \(3, 8\)"),
    (lambda t: t.update({A: torch.ones(8, 3)}), "where the base needs"),
    (lambda t: t.pop("tokens.new"), "tokens.new is nothing"),
    (lambda t: t.update({A: torch.full((3, 8), float("nan"))}), "not finite"),
    (lambda t: t.update({A: torch.full((3, 8), float("inf"))}), "not finite"),
])
def test_a_file_with_wrong_parts_is_refused_by_name(kept, change, what):
    base, _, file = kept
    damage(file, change)
    before = copy.deepcopy(base.state_dict())
    with pytest.raises(ValueError, match=what):
        load_adapter(file, base)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())


@pytest.mark.parametrize("about, what", [
    (lambda a: a.pop("lora"), "damaged"), (lambda a: a.pop("base"), "damaged"), (lambda a: a.update(lora=5), "damaged"), (lambda a: a.update(lora=[1]), "damaged"),
    (lambda a: a["lora"].update(r=99), "does not fit"), (lambda a: a["lora"].update(names=["query"]), "does not fit"), (lambda a: a["lora"].pop("alpha"), "does not fit"),
    (lambda a: a["lora"].update(r=2), "where the base needs"), (lambda a: a["lora"].update(new_tokens=2), "where the base needs"),
    (lambda a: a.update(base="0" * 64), "other weights|another base"), (lambda a: a.update(base=None), "damaged|another base"),
])
def test_a_file_that_says_something_else_is_refused(kept, about, what):
    base, _, file = kept
    damage(file, about=about)
    with pytest.raises(ValueError, match=what):
        load_adapter(file, base)


@quick
@given(st.integers(0, 99))
def test_another_base_is_refused_however_little_it_differs(seed):
    """One weight, by its last bit."""
    import tempfile
    base, model = adapted("qwen", dtype=torch.float32, new_tokens=3)
    rng, other = np.random.default_rng(seed), copy.deepcopy(base)
    parameters = [p for name, p in other.named_parameters() if name not in ("tokens.weight", "output.weight")]
    flat = parameters[rng.integers(len(parameters))].data.view(-1)
    place = rng.integers(len(flat))
    flat[place] = torch.nextafter(flat[place], torch.tensor(9.0))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder) / "a.safetensors", model)
        with pytest.raises(ValueError, match="another base"):
            load_adapter(Path(folder) / "a.safetensors", other)


def test_a_damaged_file_is_refused_at_every_length(kept):
    base, _, file = kept
    whole = file.read_bytes()
    for length in (*range(0, 400, 23), len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            load_adapter(file, base)
    file.write_bytes(whole)
    assert load_adapter(file, base).lora["r"] == 3
    with pytest.raises(FileNotFoundError):
        load_adapter(file.with_name("gone.safetensors"), base)


def test_a_file_of_other_things_is_refused(kept):
    base, _, file = kept
    save_file({"weight": torch.ones(2)}, file)
    with pytest.raises(ValueError, match="no adapter"):
        load_adapter(file, base)


def test_the_same_weights_in_double_precision_are_the_same_base(kept):
    base, model, file = kept
    again = load_adapter(file, copy.deepcopy(base).double())
    assert torch.allclose(again(tokens_of(2, T)).float(), model(tokens_of(2, T)), atol=1e-4)


# What learns

def test_what_learns_and_would_not_be_kept_is_named(tmp_path):
    _, model = adapted("qwen")
    model.norm.weight.requires_grad_(True)
    for ask in adapter_state, lambda model: save_adapter(tmp_path / "a.safetensors", model), base_digest:
        with pytest.raises(ValueError, match="norm.weight"):
            ask(model)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no part"):
        adapter_state(frozen_over(made("qwen")))


def batch_of(model, seed=0):
    """A batch of three rows, two texts in each, some tokens of which count."""
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(model.recipe.vocab_size, size=(3, T + 1)))
    whose = (torch.arange(T + 1) > 4).long().expand(3, -1)
    return tokens, whose, torch.from_numpy(rng.random((3, T + 1)) < 0.5)


@pytest.mark.parametrize("kind, new", [(kind, new) for kind in ("tied", "qwen", "learned") for new in (0, 3)])
def test_the_loss_is_that_of_chat_and_so_are_its_gradients(kind, new):
    _, model = adapted(kind, new_tokens=new)
    batch = batch_of(model)
    one, other = adapter_loss(model, batch), chat_loss(model, batch)
    assert abs(one - other) < 1e-12
    learns = list(adapter_state(model).values())
    for mine, known in zip(torch.autograd.grad(one, learns), torch.autograd.grad(other, learns)):
        assert torch.allclose(mine, known, atol=1e-12)
    plain = with_tokens_like(made(kind), [[1]])
    assert abs(adapter_loss(plain, batch) - chat_loss(plain, batch)) < 1e-12
    with pytest.raises(ValueError, match="counts"):
        adapter_loss(model, (*batch[:2], torch.zeros(3, T + 1, dtype=torch.bool)))


def test_only_what_learns_is_held_for():
    _, model = adapted("qwen", dtype=torch.float32, new_tokens=3)
    learns = list(adapter_state(model).values())
    optimizer = fused_adamw([dict(params=learns, weight_decay=0.1)], 1e-2)
    adapter_loss(model, batch_of(model)).backward()
    optimizer.step()
    numbers = sum(p.numel() for p in learns)
    assert sum(p.grad.nbytes for p in model.parameters() if p.grad is not None) == 4 * numbers
    assert sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim) == 8 * numbers


def test_both_factors_zero_learn_nothing_and_one_of_them_does():
    for zeros, learns in (("AB", 0), ("B", 3)):
        model = with_lora(made("qwen"), 2, 4)
        with torch.no_grad():
            for name, value in adapter_state(model).items():
                value *= name[-1] not in zeros
        optimizer, tokens = torch.optim.SGD(adapter_state(model).values(), lr=0.5), tokens_of(4, T + 1)
        before = mean_loss(model, tokens).item()
        for _ in range(3):
            optimizer.zero_grad()
            mean_loss(model, tokens).backward()
            optimizer.step()
        assert (mean_loss(model, tokens).item() == before) == (learns == 0)


# The bug

class Masked(NewRows):
    """All rows learn, and the gradient of the old ones is set to zero."""
    def __init__(self, table, count):
        nn.Module.__init__(self)
        self.reads, self.count, self.all = isinstance(table, nn.Embedding), count, nn.Parameter(table.weight.detach().clone())
        self.all.register_hook(lambda slope: torch.cat((slope[:-count] * 0, slope[-count:])))
    old, new = property(lambda self: self.all[:-self.count]), property(lambda self: self.all[-self.count:])


def masked_tables(model):
    return exchange(model, lambda name, part: Masked(part.merged(), len(part.new)) if isinstance(part, NewRows) else None)


def practice(change=lambda model: model):
    def build(number):
        torch.manual_seed(number)
        return change(with_lora(GPT(GPTConfig(16, 12, 16, 1, 2)), 4, 8, new_tokens=3))
    return replace(practice_setup(), build=build)


def test_what_is_kept_is_what_was_taught():
    assert kept_apart(practice()) < 1e-6
    assert kept_apart(practice(masked_tables)) > 1e-3
    assert kept_apart(practice_setup()) is None                        # no adapters: the question does not apply
    assert [name for name, finding in examine(practice(), ADAPTER_QUESTIONS).items() if finding.alarm] == []
    norms = practice(lambda model: (model.blocks[0].norm_1.weight.requires_grad_(True), model)[1])
    assert kept_apart(norms) > 1e-3                                    # learned and not kept


def test_a_mask_without_decay_holds():
    """The rows are where they were; it is the decay that moves them, not the step."""
    for decay, moved in (0.0, False), (0.1, True):
        model = masked_tables(with_lora(made("qwen"), 2, 4, new_tokens=3))
        old = model.tokens.old.detach().clone()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=decay)
        for _ in range(3):
            optimizer.zero_grad()
            mean_loss(model, tokens_of(3, T)).backward()
            optimizer.step()
        assert torch.equal(model.tokens.old, old) != moved
        with pytest.raises(ValueError, match="tokens.all"):
            adapter_state(model)


def test_the_bug_of_the_chapter_is_among_the_published_ones():
    entry = json.loads((ROOT / "data" / "results.json").read_text(encoding="utf-8"))["bug_frozen_rows_decay"]
    assert "kept" in entry["about"]["caught by"] and entry["value"] >= 1 and not set(ADAPTER_QUESTIONS) & set(QUESTIONS)


# What is kept

def test_every_run_of_the_notebook_is_there_and_had_the_same_time():
    import train
    runs = json.loads((ROOT / "data" / "lora" / "runs.json").read_text(encoding="utf-8"))
    names = [name for name in train.RUNS if name.startswith("lora-")]
    assert sorted(runs) == sorted(names)
    for name in names:
        assert runs[name]["settings"] == json.loads(json.dumps(train.RUNS[name])), name
        assert len(runs[name]["commit"]) == 40 and runs[name]["device"] == "cpu"
    speeds = json.loads((ROOT / "data" / "speeds.json").read_text(encoding="utf-8"))
    whole = speeds["typed, a step of fine-tuning, all weights"]["value"]
    for r, cost in train.LORA_COST.items():
        assert abs(speeds[f"typed, a step of fine-tuning, rank {r}"]["value"] / whole / cost - 1) < 0.1, r

"""Dictionaries held against sums written out, feature by feature."""

import pytest
import torch
from jaxtyping import config

from patching.dictionaries import Dictionaries, Dictionary


def made(n=6, d_in=3, d_out=4, seed=0, **changes) -> Dictionary:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tensors = {
        "w_enc": normal(d_in, n),
        "b_enc": normal(n),
        "w_dec": normal(n, d_out),
        "b_dec": normal(d_out),
        "threshold": torch.zeros(n, dtype=torch.float64),
    }
    names = {"name": "made", "reads": "m0.in", "writes": "m0"}
    return Dictionary(**(names | tensors | changes))


@pytest.fixture
def x():
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def by_hand(one: Dictionary, x, k=None):
    """Values, one number at a time."""
    f = torch.zeros(len(x), one.n_features, dtype=torch.float64)
    for t in range(len(x)):
        z = [float(x[t] @ one.w_enc[:, i] + one.b_enc[i]) for i in range(one.n_features)]
        kept = [i for i in range(one.n_features) if z[i] > max(float(one.threshold[i]), 0)]
        for i in sorted(kept, key=lambda i: -z[i])[:k]:
            f[t, i] = z[i]
    return f


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("theta", [0.0, 0.7, -1.0])
def test_values_are_what_the_formula_says(x, k, theta):
    one = made(k=k, threshold=torch.full((6,), theta, dtype=torch.float64))
    f = one.encode(x)
    torch.testing.assert_close(f, by_hand(one, x, k), atol=1e-14, rtol=0)
    assert 0 < f.count_nonzero() < f.numel()
    assert (f >= 0).all()  # a threshold below zero lets no negative value pass


def test_what_is_rebuilt_is_a_sum_over_features(x):
    skip = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    one = made(skip=skip)
    f = one.encode(x)
    by_sum = [
        one.b_dec + x[t] @ skip + sum(f[t, i] * one.w_dec[i] for i in range(6)) for t in range(7)
    ]
    torch.testing.assert_close(one.decode(f, x), torch.stack(by_sum), atol=1e-13, rtol=0)
    with pytest.raises(ValueError, match="'made' has a skip connection: `decode` needs `x`"):
        one.decode(f)


def test_active_features_are_those_that_are_not_zero(x):
    one = made()
    found, f = one.active(x, batch=3), one.encode(x)
    assert len(found) == f.count_nonzero()
    back = torch.zeros_like(f)
    back[found.tokens, found.features] = found.values
    torch.testing.assert_close(back, f, atol=0, rtol=0)
    assert len(one.active(x[:0])) == 0


def test_half_precision_is_computed_with_in_float32(x):
    half = made().to("cpu", torch.float16)
    assert half.encode(x.half()).dtype == torch.float32
    assert half.encode(x).dtype == torch.float64
    assert half.writes_of(torch.tensor([1])).dtype == torch.float32


def test_rows_are_those_of_the_features():
    one = made()
    some = torch.tensor([4, 0])
    torch.testing.assert_close(one.writes_of(some), one.w_dec[some])
    torch.testing.assert_close(one.reads_of(some), one.w_enc[:, some].T)
    with pytest.raises(ValueError, match="has 6 features, 0 to 5; there is no feature 6"):
        one.writes_of(torch.tensor([2, 6]))
    with pytest.raises(ValueError, match="'made' writes at m0, not at 'm1'"):
        one.writes_of(some, "m1")


def test_a_row_that_is_not_finite_is_refused_when_it_is_read():
    w_dec = made().w_dec.clone()
    w_dec[3, 1] = float("nan")
    one = made(w_dec=w_dec)
    assert len(one.writes_of(torch.tensor([0, 1]))) == 2
    with pytest.raises(ValueError, match="what feature 3 writes at m0 is not finite"):
        one.writes_of(torch.tensor([0, 3]))


@pytest.fixture
def without_type_checks():
    """As for users, whom no run-time type check protects."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b_enc": torch.zeros(5)}, r"6 features that read 3 .* b_enc should be \[6\]; it is \[5"),
        ({"w_dec": torch.zeros(6, 3)}, r"w_dec should be \[6, 4\]"),
        ({"skip": torch.zeros(4, 3)}, r"skip should be \[3, 4\]"),
        ({"later": {"m1": torch.zeros(4, 6)}}, r"decoder for m1 should be \[6, 4\]"),
        ({"k": 7}, "keeps the 7 largest of 6 features; 1 to 6"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_the_hash_tells_dictionaries_apart():
    one = made()
    assert one.hash == made().hash
    others = [made(seed=1), made(k=2), made(writes="m1"), made(b_dec=one.b_dec + 1e-9)]
    assert len({one.hash, *(other.hash for other in others)}) == 5


def test_what_crosses_layers_is_summed_over_the_layers_below(x):
    later = made(seed=5).w_dec
    first, second = made(later={"m1": later}), made(seed=3, reads="m1.in", writes="m1")
    both = Dictionaries("clt", (first, second))
    f = first.encode(x), second.encode(x + 1)
    rebuilt = both.decode(f, (x, x + 1))
    torch.testing.assert_close(rebuilt["m0"], f[0] @ first.w_dec + first.b_dec)
    torch.testing.assert_close(
        rebuilt["m1"], f[0] @ later + f[1] @ second.w_dec + second.b_dec, atol=1e-13, rtol=0
    )
    assert both.crosses_layers and both["m1"] is second
    assert not Dictionaries("one", (second,)).crosses_layers


def test_sets_that_do_not_hold_together_are_refused():
    with pytest.raises(ValueError, match="'none' holds no dictionary"):
        Dictionaries("none", ())
    with pytest.raises(ValueError, match="two dictionaries of 'two' rebuild m0"):
        Dictionaries("two", (made(), made()))
    with pytest.raises(ValueError, match="writes at m1 too, and 'cut' holds no dictionary"):
        Dictionaries("cut", (made(later={"m1": made().w_dec}),))
    with pytest.raises(ValueError, match="no dictionary for 'm2', only for m0"):
        _ = Dictionaries("one", (made(),))["m2"]

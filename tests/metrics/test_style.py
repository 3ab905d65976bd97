"""Marks are counted as Markdown has them, and controlled where a judge likes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from prefeval.metrics import length_control as lc
from prefeval.metrics.style import Style, style_of, style_terms


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("plain words, 3 - 2 = 1", (0, 0, 0)),
        ("# A\n\n## B\n#hashtag\n####### seven", (2, 0, 0)),
        ("- a\n  * b\n+ c\n1. d\n2) e\n-no\n2024. f\n1.5 g", (0, 5, 0)),
        ("**a** and __b__ but ** c ** and *d* and 2**3**4", (0, 0, 3)),
        ("```\n# code\n- x\n**y**\n```\n- z", (0, 1, 0)),
        ("~~~\n# code\n~~~", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_what_counts(text, style):
    assert style_of(text) == Style(*style)


@given(st.text(alphabet="#*-_ 1.`a\n", max_size=200))
def test_any_text_is_counted(text):
    assert min(style_of(text)) >= 0


def test_terms_have_the_sign_of_the_length_term_and_are_scaled():
    terms = style_terms(
        [Style(4, 0, 1)] * 2 + [Style(0, 0, 0)], [Style(0, 0, 1)] * 2 + [Style(2, 0, 0)]
    )
    assert (terms[:2, 0] < 0).all()
    assert terms[2, 0] > 0
    assert (terms[:, 1:] == 0).all()
    assert terms[:, 0].std(ddof=1) == pytest.approx(1)


def test_a_judge_that_likes_lists_is_controlled_for_by_the_second_view():
    """30 fits of 400 prompts: the model lists more, the judge pays for it, quality is equal."""
    rng = np.random.default_rng(0)
    plain, styled = [], []
    for _ in range(30):
        n = 400
        baseline = rng.integers(200, 400, n)
        output = baseline + rng.integers(-80, 80, n)
        ours = [Style(0, int(k), 0) for k in rng.poisson(3, n)]
        theirs = [Style(0, int(k), 0) for k in rng.poisson(1, n)]
        terms = style_terms(ours, theirs)
        y = (rng.random(n) < special.expit(-1.0 * terms[:, 1])).astype(float)
        plain.append(lc.length_controlled(y, output, baseline, C=lc.DEFAULT_C).lc_win_rate)
        got = lc.length_controlled(y, output, baseline, C=lc.DEFAULT_C, style=terms)
        styled.append(got.lc_win_rate)
        assert got.coef_style[1] == pytest.approx(-1.0, abs=0.45)
    assert np.mean(plain) > 60
    assert np.mean(styled) == pytest.approx(50, abs=2)


def test_without_style_terms_nothing_changes():
    rng = np.random.default_rng(1)
    y, a, b = rng.random(80), rng.integers(10, 90, 80), rng.integers(10, 90, 80)
    one = lc.length_controlled(y, a, b, C=1.0)
    two = lc.length_controlled(y, a, b, C=1.0, style=np.zeros((80, 3)))
    assert one.lc_win_rate == pytest.approx(two.lc_win_rate, abs=1e-6)
    assert two.coef_style == (0, 0, 0)

"""Which rules are run is told by codes, prefixes and names; a typo is corrected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lossproof
from lossproof.checks.rule_selection import asked_for, selected
from lossproof.checks.rules import RULES
from lossproof.errors import UsageError

codes_of_rules = st.sampled_from(list(RULES))
prefixes = codes_of_rules.flatmap(lambda code: st.integers(2, 5).map(lambda n: code[:n]))


def codes(select=(), ignore=()):
    return [rule.code for rule in selected(select, ignore)]


def test_nothing_means_everything():
    assert codes() == list(RULES)


@given(codes_of_rules)
def test_a_rule_has_three_spellings(code):
    assert codes([code]) == codes([code.lower()]) == codes([RULES[code].name]) == [code]
    assert codes([], [RULES[code].name]) == [other for other in RULES if other != code]


@given(prefixes)
def test_a_prefix_means_all_that_begin_so(prefix):
    assert codes([prefix]) == [code for code in RULES if code.startswith(prefix)]


@given(prefixes, prefixes)
def test_the_longer_prefix_counts_and_at_equal_length_ignore(wanted, unwanted):
    def is_selected(code):
        chosen, refused = code.startswith(wanted), code.startswith(unwanted)
        return chosen and not (refused and len(unwanted) >= len(wanted))

    expected = [code for code in RULES if is_selected(code)]
    if expected:
        assert codes([wanted], [unwanted]) == expected
    else:
        with pytest.raises(UsageError, match="no rule is left"):
            selected([wanted], [unwanted])


def test_several_in_one_word_or_in_several():
    assert codes(["LP201, crash", "LP101"]) == ["LP101", "LP201", "LP408"]
    assert codes("LP201,LP101") == ["LP101", "LP201"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("LP299", "`LP209`"),
        ("grpah-cut", "`graph-cut`"),
        ("E501", "no rule is called `E501`"),
        ("LPP2", "no rule is called `LPP2`"),
    ],
)
def test_a_word_that_means_nothing_is_a_usage_error(word, hint):
    with pytest.raises(UsageError, match=f"no rule is called `{word}`") as caught:
        selected([word])
    assert hint in str(caught.value)
    with pytest.raises(UsageError, match=f"no rule is called `{word}`"):
        selected([], [word])


def test_what_is_no_text_is_refused():
    with pytest.raises(UsageError, match="as text, got `int`"):
        selected([201])


def test_only_whole_codes_and_names_ask_for_what_is_slow():
    assert asked_for(["LP4", "overflow, LP101"]) == {"LP302", "LP101"}
    assert asked_for([]) == frozenset()


def test_what_is_not_selected_is_not_run(monkeypatch):
    from lossproof.checks.rules import lp201_graph_cut

    def refuse(case):
        raise AssertionError("it was run")

    monkeypatch.setattr(lp201_graph_cut, "examine", refuse)

    def mse(input, target):
        return ((input - target) ** 2).mean()

    report = lossproof.check(mse, "float[4]", "float[4]", select=["LP1", "LP2"], ignore=["LP201"])
    assert {outcome.code for outcome in report.outcomes} == {
        code for code in RULES if code.startswith(("LP1", "LP2")) and code != "LP201"
    }


def test_a_crash_that_nobody_asked_about_leaves_the_rest_unproved():
    def broken(input, target):
        raise ValueError("no")

    report = lossproof.check(broken, "float[4]", "float[4]", select=["LP201"])
    assert [(outcome.code, outcome.status.value) for outcome in report.outcomes] == [
        ("LP201", "unproved")
    ]
    assert not report.findings


def test_the_time_limit_is_a_finding_only_where_crashes_are_looked_for():
    def endless(input, target):
        while True:
            pass

    report = lossproof.check(endless, "float[4]", "float[4]", select=["LP2"], time_limit=0.2)
    assert not report.findings
    assert all("time limit" in outcome.detail for outcome in report.unproved)
    assert len(report.unproved) == sum(code.startswith("LP2") for code in RULES)

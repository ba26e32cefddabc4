"""The plugin, by running pytest on small suites."""

import fnmatch
import subprocess
import sys

import pytest

RIGHT = """
    import torch.nn.functional as F

    def test_mse(lossproof):
        report = lossproof(F.mse_loss, "float[8,3]", "float[8,3]")
        assert report.ok
"""
WRONG = """
    import pytest

    def flat(input, target):
        return (input.round() - target).abs().mean().round()

    @pytest.mark.lossproof
    def test_flat(lossproof):
        lossproof(flat, "float[8,3]", "float[8,3]")
"""
SLOW = """
    def slow(input, target):
        total = 0
        for i in range(len(target)):
            total = total + ((input[i] - target[i]) ** 2).sum()
        return total / target.numel()

    def test_slow(lossproof):
        lossproof(slow, "float[16,3]", "float[16,3]")
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run pytest on a suite, with the plugins of this one that matter."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(source, *options):
        pytester.makepyfile(source)
        return pytester.runpytest("-p", "lossproof.pytest_plugin", *options)

    return run


def test_the_fixture_checks_a_loss(suite):
    suite(RIGHT).assert_outcomes(passed=1)


def test_the_marker_makes_one_test_per_family(suite):
    result = suite(WRONG, "-v")
    result.assert_outcomes(passed=4, failed=1)
    for family in ("value", "numerics", "behaviour", "speed"):
        result.stdout.fnmatch_lines([f"*test_flat?{family}? PASSED*"])
    result.stdout.fnmatch_lines(["*test_flat?gradient? FAILED*", "*error?LP204? flat-loss*"])


def test_a_failure_says_how_to_run_it_again(suite):
    result = suite(WRONG, "-k", "gradient", "--lossproof-seed", "7")
    result.assert_outcomes(failed=1, deselected=4)
    result.stdout.fnmatch_lines(
        ["*run it again: pytest '*::test_flat?gradient?' --lossproof-seed 7"]
    )


def test_a_crash_fails_every_family(suite):
    suite(
        """
        import pytest

        @pytest.mark.lossproof(families=("value", "numerics"))
        def test_crash(lossproof):
            lossproof(lambda a, b: a @ b, "float[8,3]", "float[8,3]")
        """
    ).assert_outcomes(failed=2)


def test_what_is_slow_is_listed_at_the_end(suite):
    result = suite(SLOW)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*right, but slow*", "*LP501 python-loop*"])


def test_options_of_the_marker_reach_the_check(suite):
    suite(
        """
        import pytest

        def flat(input, target):
            return (input.round() - target).abs().mean().round()

        @pytest.mark.lossproof(families="gradient", ignore=["flat-loss"])
        def test_flat(lossproof):
            lossproof(flat, "float[8,3]", "float[8,3]")
        """
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import pytest\n@pytest.mark.lossproof\ndef test_a(): pass",
            "*needs the fixture of the same name*",
        ),
        (
            "import pytest\n@pytest.mark.lossproof(families='speeed')\ndef test_a(lossproof): pass",
            "*must be of value, gradient, numerics, behaviour, speed, got 'speeed'*",
        ),
        (
            "import pytest\n@pytest.mark.lossproof(1)\ndef test_a(lossproof): pass",
            "*takes options by name*",
        ),
    ],
)
def test_a_misused_marker_is_refused(suite, source, message):
    result = suite(source)
    assert result.ret != 0
    assert fnmatch.filter([*result.outlines, *result.errlines], message)


def test_a_marked_test_that_checks_nothing_fails(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.lossproof(families="value")
        def test_forgotten(lossproof):
            pass
        """
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*did not check any loss*"])


def test_it_works_in_several_processes(suite):
    pytest.importorskip("xdist")
    result = suite(SLOW, "-p", "xdist", "-n", "2")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*right, but slow*", "*LP501 python-loop*"])


def test_loading_it_does_not_load_torch():
    code = "import sys, lossproof.pytest_plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_it_is_found_by_pytest_itself(pytester):
    pytester.makepyfile("def test_options(pytestconfig):\n"
                        "    assert pytestconfig.getoption('--lossproof-seed') == 0\n")  # fmt: skip
    pytester.runpytest_subprocess().assert_outcomes(passed=1)

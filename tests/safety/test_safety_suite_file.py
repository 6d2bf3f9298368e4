"""Suite files: what a good one says, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from actors.config import EnvironmentConfig
from replay.settings import SettingError
from safety.config import SafetyConfig
from safety.statistics.parameters import ParameterError
from safety.statistics.risk_budget import SeverityWeights
from safety.suite_file import SUITE_BYTES_MAX, SuiteFileError, make_suite, parse_suite, read_suite
from safety.suites.spec import Perturbation, SeverityScale, SuiteSpec, suite_from_settings

CONFIG = SafetyConfig(risk_margin=0.15, patience=7)
ENVIRONMENT = EnvironmentConfig(name="cartpole", cart_margin=1.8)

FULL = """
name = "hard"
action_selection = "greedy"
[severity]
minor = 0
major = 0.5
severe = 2.0
[weights]
minor = 0.1
major = 0.2
severe = 1
[criteria]
error_rate = 0.1
error_schedule = "spend"
patience = 1
planted_violations = 80
planted_clean = 30
sensitivity_min = 0.7
violation_rate_max = 0.05
return_margin = 1
[[slices]]
name = "as-trained"
[[slices]]
name = "rough"
perturbations = [
  { kind = "action_delay", amount = 2 },
  { kind = "observation_dropout", amount = 0.1 },
]
episodes = 150
episodes_max = 600
violation_rate_max = 0.2
risk_margin = 0.2
risk_budget = 0.5
return_margin_absolute = 10
[slices.environment]
cart_margin = 1.5
"""
SHORT = 'name = "a"\n[[slices]]\nname = "b"\n'


def parse(text: str) -> SuiteSpec:
    return parse_suite(text, "my.toml", CONFIG, ENVIRONMENT)


def test_a_suite_says_everything() -> None:
    suite = parse(FULL)
    assert (suite.name, suite.action_selection) == ("hard", "greedy")
    assert suite.severity == SeverityScale(0.0, 0.5, 2.0)
    assert suite.weights == SeverityWeights(0.1, 0.2, 1.0)
    assert (suite.error_rate, suite.error_schedule, suite.patience) == (0.1, "spend", 1)
    assert (suite.planted_violations, suite.planted_clean, suite.sensitivity_min) == (80, 30, 0.7)
    trained, rough = suite.slices
    assert (trained.name, trained.environment, trained.perturbations) == ("as-trained", ENVIRONMENT, ())
    # Of [criteria], and what that leaves out from the settings.
    assert (trained.limits.violation_rate_max, trained.limits.return_margin) == (0.05, 1.0)
    assert (trained.limits.risk_margin, trained.limits.episodes_max) == (0.15, 300)
    assert rough.environment == EnvironmentConfig(name="cartpole", cart_margin=1.5)
    assert rough.perturbations == (Perturbation("action_delay", 2), Perturbation("observation_dropout", 0.1))
    assert dataclasses.asdict(rough.limits) == {
        "episodes": 150,
        "episodes_max": 600,
        "violation_rate_max": 0.2,
        "risk_margin": 0.2,
        "risk_budget": 0.5,
        "return_margin": 1.0,
        "return_margin_absolute": 10.0,
    }
    assert type(rough.limits.return_margin_absolute) is float


def test_what_is_left_out_comes_from_the_settings() -> None:
    suite = parse(SHORT)
    of_settings = suite_from_settings(CONFIG, ENVIRONMENT)
    (only,) = suite.slices
    assert dataclasses.replace(suite, name="settings", slices=of_settings.slices) == of_settings
    assert dataclasses.replace(only, name="held-out") == of_settings.slices[0]


def test_infinite_limits_are_none() -> None:
    suite = parse(FULL.replace("risk_budget = 0.5", "risk_budget = inf").replace("major = 0.5", "major = inf"))
    assert suite.slices[1].limits.risk_budget == math.inf
    assert math.isinf(suite.severity.major)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[criteria]", "[critera]", "no key 'critera'; did you mean 'criteria'"),
        ("error_rate", "eror_rate", "criteria: no key 'eror_rate'; did you mean 'error_rate'"),
        ("episodes_max", "episodes_most", "slices.rough: no key 'episodes_most'; did you mean 'episodes_max'"),
        ("cart_margin", "cart_margins", "slices.rough.environment: no key 'cart_margins'; did you mean 'cart_margin'"),
        ("minor = 0\n", "mild = 0\n", "severity: no key 'mild'; known: minor, major, severe"),
        ('kind = "action_delay"', 'kind = "action_delays"', "no kind 'action_delays'; did you mean 'action_delay'"),
        ('kind = "action_delay"', 'sort = "action_delay"', "perturbations: no key 'sort'; known: kind, amount"),
        (", amount = 2 }", " }", "each needs both kind and amount, one has kind"),
        ("amount = 2 ", "amount = 0.5 ", "action_delay = 0.5 must be a whole number above 0 and at most 1000"),
        ("amount = 0.1", "amount = true", "observation_dropout = True is not a number"),
        ("amount = 0.1", "amount = 1.5", "observation_dropout = 1.5 must be a number above 0 and at most 1"),
        ("perturbations = [", "perturbations = [2, ", "slices.rough.perturbations is not an array of tables"),
        ('name = "rough"', "", "slice 2 has no name"),
        ('name = "rough"', "name = 3", "slice 2 has no name"),
        ('name = "rough"', 'name = "as-trained"', "a name occurs twice"),
        ('name = "rough"', 'name = "a b"', "slice 'a b': a name is 1 to 64 of"),
        ('name = "hard"', "", "the suite has no name"),
        ('name = "hard"', "name = true", "the suite has no name"),
        ('"greedy"', '"best"', "action_selection = 'best' is out of range: must be one of sample, greedy"),
        ('"spend"', '"all"', "criteria.error_schedule = 'all' is out of range: must be one of recycle, spend"),
        ("error_rate = 0.1", "error_rate = 0.6", "criteria.error_rate = 0.6 is out of range: must be in"),
        ("error_rate = 0.1", "error_rate = nan", "criteria.error_rate = nan is not a number"),
        ("error_rate = 0.1", 'error_rate = "low"', "criteria.error_rate = 'low' is not of type float"),
        ("patience = 1", "patience = 1.0", "criteria.patience = 1.0 is not of type int"),
        ("return_margin = 1", f"return_margin = 1{400 * '0'}", "criteria.return_margin is a whole number of 1329 bits"),
        ("episodes = 150", "episodes = 0", "slices.rough.episodes = 0 is out of range: must be in"),
        ("cart_margin = 1.5", "cart_margin = 9", "slices.rough.environment.cart_margin = 9.0 is out of range"),
        ("major = 0.5", "major = 3.0", "a graver event must not begin at a lower cost"),
        ("severe = 2.0", "severe = inf", "severe at most 1e.30"),
        ("minor = 0.1", "minor = -0.1", "must not be negative or fall with severity"),
        ("minor = 0.1", "minor = []", "weights.minor = .. is not a number"),
        ("[severity]", "[severity.minor]", "severity.minor = .* is not a number"),
        ("[slices.environment]", "[[slices.environment]]", "slices.rough.environment = .* is not a table"),
        ("[[slices]]", "[slices]", "is not TOML"),
        ("[criteria]", "[criteria", "is not TOML: .*line"),
        ("patience = 1", f"patience = {5000 * '9'}", "is not TOML"),
    ],
)
def test_every_mistake_is_one_line_that_names_it(old: str, new: str, message: str) -> None:
    assert old in FULL
    with pytest.raises(SuiteFileError, match=rf"my\.toml:? .*{message}") as failure:
        parse(FULL.replace(old, new, 1))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the suite has no name|it has no slices"),
        ('name = "a"', "it has no slices, so nothing would be evaluated"),
        ('name = "a"\nslices = []', "it has no slices, so nothing would be evaluated"),
        ('name = "a"\nslices = 3', "slices is not an array of tables"),
        ('name = "a"\nslices = [1]', "slices is not an array of tables"),
        ('name = "a"\n' + "".join(f'[[slices]]\nname = "{index}"\n' for index in range(65)), "65 slices are more"),
        ("a = " + 10_000 * "[", "is not TOML"),
    ],
)
def test_what_evaluates_nothing_is_no_suite(text: str, message: str) -> None:
    with pytest.raises(SuiteFileError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ("episodes_max = 20\nepisodes = 20", r"slice b: .*: episodes_max = 20 is too few .*; (\d+) episodes would do"),
        ("violation_rate_max = 0.01", r"slice b: .*too few for limit = .*; (\d+) episodes would do"),
        (
            "risk_margin = 0.01",
            r"slice b: risk_margin = 0.01: .* = 300 is too few.*; (\d+) episodes would do",
        ),
        ("risk_budget = 0.01", r"slice b: even a perfect candidate .*weighted_risk.*; (\d+) episodes would do"),
        ("planted_violations = 5", r"slice b: .*detector.*; (\d+) planted violations would do"),
        ("sensitivity_min = 0.99", r"slice b: .*detector.*; (\d+) planted violations would do"),
    ],
)
def test_a_budget_that_nothing_can_pass_is_told_with_what_would_do(criteria: str, message: str) -> None:
    text = SHORT.replace("[[", f"[criteria]\n{criteria}\n[[", 1)
    with pytest.raises(SuiteFileError, match=message) as failure:
        parse(text)
    words = str(failure.value).rpartition("; ")[2].split()
    key, needed = ("episodes_max", int(words[0])) if words[1] == "episodes" else ("planted_violations", int(words[0]))
    plain = "\n".join(line for line in criteria.split("\n") if not line.startswith(("episodes", "planted")))
    for count, enough in ((needed, True), (needed - 1, False)):
        both = f"episodes = {count}\n" if key == "episodes_max" else ""
        better = SHORT.replace("[[", f"[criteria]\n{plain}\n{both}{key} = {count}\n[[", 1)
        if enough:
            assert parse(better).name == "a"
        else:
            with pytest.raises(SuiteFileError, match="slice b"):
                parse(better)


def test_a_limit_that_no_number_of_episodes_attains_is_told_without_one() -> None:
    text = SHORT.replace("[[", "[criteria]\nrisk_margin = 0.00001\n[[", 1)
    with pytest.raises(SuiteFileError, match=r"risk_margin = 1e-05: .*too few.* would be rejected$"):
        parse(text)


def test_fewer_episodes_than_tests_of_fixed_size_rest_on_are_an_error() -> None:
    said = r"slice b: episodes_max = 99 is below episodes = 100, .* must be at least as many"
    for place in ("[criteria]\nepisodes_max = 99\n[[", "[criteria]\nepisodes = 100\nepisodes_max = 99\n[["):
        with pytest.raises(SuiteFileError, match=rf"my.toml: {said}"):
            parse(SHORT.replace("[[", place, 1))
    with pytest.raises(SuiteFileError, match="episodes_max = 300 is below episodes = 301"):
        parse(SHORT + "episodes = 301\n")
    with pytest.raises(ParameterError, match="slice held-out: episodes_max = 99 is below episodes = 100"):
        make_suite(SafetyConfig(episodes_max=99), ENVIRONMENT)
    assert make_suite(SafetyConfig(episodes=100, episodes_max=100), ENVIRONMENT).slices[0].limits.episodes_max == 100


def test_a_detector_that_too_few_clean_plants_leave_unknown_is_told_with_how_many_would_do() -> None:
    with pytest.raises(
        SuiteFileError, match=r"clean episodes at one of at most 0\.\d+, .*; 2 planted clean episodes"
    ) as error:
        parse(SHORT.replace("[[", "[criteria]\nplanted_clean = 1\n[[", 1))
    parse(SHORT.replace("[[", "[criteria]\nplanted_clean = 2\n[[", 1))
    assert str(error.value).count("\n") == 0


def test_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(FULL)
    assert read_suite(path, CONFIG, ENVIRONMENT) == parse(FULL)
    config = dataclasses.replace(CONFIG, suite=str(path))
    assert make_suite(config, ENVIRONMENT) == parse(FULL)
    assert make_suite(CONFIG, ENVIRONMENT) == suite_from_settings(CONFIG, ENVIRONMENT)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    with pytest.raises(SuiteFileError, match=r"suite.toml cannot be read: No such file"):
        read_suite(path, CONFIG, ENVIRONMENT)
    with pytest.raises(SuiteFileError, match="cannot be read: it is no regular file"):
        read_suite(tmp_path, CONFIG, ENVIRONMENT)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(SuiteFileError, match="is not UTF-8 text: byte 8 is 0xff"):
        read_suite(path, CONFIG, ENVIRONMENT)
    path.write_bytes(b"#" * (SUITE_BYTES_MAX + 1))
    with pytest.raises(SuiteFileError, match="larger than 1048576 bytes"):
        read_suite(path, CONFIG, ENVIRONMENT)
    path.write_bytes(SHORT.encode() + b"#" * (SUITE_BYTES_MAX - len(SHORT)))
    assert read_suite(path, CONFIG, ENVIRONMENT).name == "a"


def test_settings_that_nothing_can_pass_are_told() -> None:
    with pytest.raises(ParameterError, match=r"too few .* \d+ episodes would do"):
        make_suite(SafetyConfig(episodes=10, episodes_max=10), ENVIRONMENT)
    with pytest.raises((SettingError, ParameterError)):
        make_suite(SafetyConfig(error_rate=0.0), ENVIRONMENT)

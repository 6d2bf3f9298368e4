"""Which runs a sweep has, what they are called, and which grids are refused."""

from __future__ import annotations

import pytest

from launch.errors import BadInput, OverrideError
from launch.recipes import make_recipe
from launch.sweep.grid import BASE, RUNS_MAX, Setting, members_of, seeds_of, settings_of
from replay.settings import SettingError

CATCH = make_recipe("catch")
RATE, ENTROPY = "learner.learning_rate", "learner.entropy_cost"


def names(*varied: str) -> list[str]:
    return [setting.name for setting in settings_of(CATCH, varied)]


def test_every_combination_once_the_last_key_fastest() -> None:
    settings = settings_of(CATCH, [f"{RATE}=1e-3,5e-4", f"{ENTROPY}=0,0.1"])
    assert [setting.assignments for setting in settings] == [
        (f"{RATE}=0.001", f"{ENTROPY}=0.0"),
        (f"{RATE}=0.001", f"{ENTROPY}=0.1"),
        (f"{RATE}=0.0005", f"{ENTROPY}=0.0"),
        (f"{RATE}=0.0005", f"{ENTROPY}=0.1"),
    ]
    assert [setting.name for setting in settings] == [
        "learning_rate=0.001_entropy_cost=0.0",
        "learning_rate=0.001_entropy_cost=0.1",
        "learning_rate=0.0005_entropy_cost=0.0",
        "learning_rate=0.0005_entropy_cost=0.1",
    ]


def test_nothing_varied_is_one_setting() -> None:
    assert settings_of(CATCH, []) == (Setting(BASE),)


def test_a_value_with_commas_stands_in_brackets() -> None:
    settings = settings_of(CATCH, ["network.hidden_sizes=[64,64],(32,),16"])
    assert [setting.assignments[0].partition("=")[2] for setting in settings] == ["64,64", "32", "16"]


def test_names_are_safe_in_a_path_and_stay_apart() -> None:
    found = names("network.hidden_sizes=[64,64],[64,32]")
    assert len(set(found)) == 2
    assert all(name.startswith("hidden_sizes=64-") and "/" not in name and "," not in name for name in found)
    # However long, and whatever is cut off.
    long = [f"environment.name=gym:{'x' * 200}{end}" for end in "ab"]
    cut = [settings_of(CATCH, [each])[0].name for each in long]
    assert len(set(cut)) == 2
    assert max(map(len, cut)) <= 100
    assert names("network.hidden_sizes=[64,64],[64,32]") == found


def test_keys_that_end_alike_are_written_in_full() -> None:
    assert names("learner.batch_size=8", "actor.lanes=4") == ["batch_size=8_lanes=4"]
    assert names("safety.lanes=8", "actor.lanes=4") == ["safety.lanes=8_actor.lanes=4"]


def test_members_are_all_settings_with_each_seed_in_turn() -> None:
    settings = (Setting("a", ("x=1",)), Setting("b", ("x=2",)))
    members = members_of(settings, (3, 4))
    assert [member.name for member in members] == ["a/seed-3", "b/seed-3", "a/seed-4", "b/seed-4"]
    assert members[3].assignments == ("x=2", "seed=4")


def test_seeds() -> None:
    assert seeds_of(3, "") == (1, 2, 3)
    assert seeds_of(5, "7, 0,2147483647") == (7, 0, 2147483647)


@pytest.mark.parametrize("listed", ["1,1", "1,,2", "-1", "x", "2147483648", "1.5"])
def test_what_is_no_list_of_seeds(listed: str) -> None:
    with pytest.raises(BadInput, match="--seed-list"):
        seeds_of(5, listed)


@pytest.mark.parametrize("count", [0, -1, RUNS_MAX + 1])
def test_no_seeds_and_too_many(count: int) -> None:
    with pytest.raises(BadInput, match=f"--seeds {count} is outside"):
        seeds_of(count, "")


@pytest.mark.parametrize(
    ("varied", "fixed", "kind", "said"),
    [
        (["learner.lerning_rate=1"], [], OverrideError, "did you mean 'learner.learning_rate'"),
        ([RATE], [], OverrideError, "is not of the form"),
        ([f"{RATE}="], [], BadInput, "the grid would be empty"),
        ([f"{RATE}=1e-3,0.001"], [], BadInput, "has a value twice"),
        ([f"{RATE}=1e-3", f"{RATE}=1e-4"], [], BadInput, "is there twice"),
        ([f"{RATE}=1e-3"], [f"{RATE}=1"], BadInput, "is in --set and in --vary"),
        ([f"{RATE}=fast"], [], OverrideError, "is not a number"),
        ([f"{RATE}=1e-3,-1"], [], SettingError, "out of range"),
        (["seed=1,2"], [], BadInput, "--seeds or --seed-list"),
        ([], ["seed=1"], BadInput, "--seeds or --seed-list"),
        # Each is in its own bounds; they do not go together.
        (["learner.batch_size=32,2048"], [], SettingError, "fresh_unconsumed_max"),
    ],
)
def test_what_is_no_grid(varied: list[str], fixed: list[str], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        settings_of(CATCH, varied, fixed)


def test_a_grid_has_its_bound() -> None:
    seeds = ",".join(map(str, range(40)))
    with pytest.raises(BadInput, match="1600 combinations"):
        settings_of(CATCH, [f"learner.anneal_updates={seeds}", f"learner.snapshot_updates={seeds}"])
    with pytest.raises(BadInput, match="1001 settings with 1 seeds each are more than 1000 runs"):
        members_of([Setting(str(index)) for index in range(1001)], (1,))

"""The statistical test of every canary, from the settings: safety.canaries.watch applies it, a run checks it first.

Exceptions: SettingError for settings by which no canary could ever be promoted.
"""

from __future__ import annotations

from replay.settings import SettingError
from safety.config import SafetyConfig
from safety.statistics.parameters import ParameterError
from safety.statistics.sequential import SequentialRule
from safety.statistics.sequential_rules import rate_rule

NAME = "canary_violation_rate"


def canary_rule(config: SafetyConfig) -> SequentialRule:
    """The test; raises SettingError where not even a canary without any violation could be promoted."""
    try:
        return rate_rule(
            config.canary_violation_rate_max,
            alpha=config.canary_error_rate,
            beta=config.canary_error_rate,
            episodes_max=config.canary_episodes_max,
            name=NAME,
        )
    except ParameterError as error:
        raise SettingError(
            f"safety.canary_episodes_max = {config.canary_episodes_max} does not go with "
            f"safety.canary_violation_rate_max = {config.canary_violation_rate_max} and safety.canary_error_rate = "
            f"{config.canary_error_rate}: {error}"
        ) from error

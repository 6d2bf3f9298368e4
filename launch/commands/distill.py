"""`temper distill`: a smaller policy that does as a released one does, judged and released by a gate of its own."""

from __future__ import annotations

import sys
from itertools import chain

from launch.arguments import Distill
from launch.commands.train import begin
from launch.config_file import read_config
from launch.distillation import find_teacher, settle_teachers
from launch.errors import BadInput
from launch.overrides import apply_overrides
from launch.preflight import check
from launch.run_paths import RunPaths
from launch.student import count_parameters, student_config
from launch.topology import Limits
from policies.spec import PolicySpec


def run(arguments: Distill) -> int:
    """Trains the student to its share of the teacher's return, a limit or a signal; prints where everything is."""
    limits = Limits(arguments.max_seconds, arguments.max_env_steps)
    if not arguments.teachers:
        raise BadInput("temper distill needs a teacher: the directory of a run that has released something")
    teachers = [find_teacher(name) for name in arguments.teachers]
    first = teachers[0]
    config = student_config(
        arguments.teachers,
        read_config(RunPaths(first.source.policies.parent).config),
        first.artifact.spec,
        first.release.return_mean,
        arguments.student_size,
        offline=arguments.offline,
    )
    config = apply_overrides(config, chain(*arguments.overrides))
    check(config)
    config = settle_teachers(config)
    spec = first.artifact.spec
    size = count_parameters(PolicySpec(config.network, spec.observation, spec.action))
    least = min(teacher.parameters for teacher in teachers)
    if size >= least:
        print(
            f"temper: the student has {size:,} parameters, a teacher has {least:,}: it is not the smaller of the two; "
            "make it so with --student-size",
            file=sys.stderr,
        )
    return begin(config, arguments.run_dir, limits)

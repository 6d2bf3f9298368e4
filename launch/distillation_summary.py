"""What became of a distillation, for RUN_DIR/summary.json and for a person: sizes, returns, and the share kept.

Returns are those that the verdicts state, each from its own gate's evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.config import RunConfig
from launch.distillation import locate_teachers
from launch.errors import BadInput
from launch.student import count_parameters
from launch.verdicts import Verdict
from learner.distillation.teachers import Teacher, TeacherError, load_teacher
from policies.spec import PolicySpec


def distillation_summary(config: RunConfig, release: Verdict | None) -> dict[str, Any] | None:
    """Student and teachers as JSON types; None for a run without teachers.

    A teacher that is not where it was, or was revoked meanwhile, has null for what is no longer known.
    """
    if not config.distillation.teachers:
        return None
    teachers = _still_there(config)
    known = next((teacher for teacher in teachers if teacher is not None), None)
    student = None if known is None else _student_parameters(config, known)
    named = zip(config.distillation.teachers, config.distillation.identities, teachers, strict=True)
    return {
        "student": {"parameters": student, "return_mean": None if release is None else release.return_mean},
        "teachers": [
            {
                "release": name,
                "identity": identity,
                "parameters": None if teacher is None else teacher.parameters,
                "return_mean": None if teacher is None else teacher.release.return_mean,
                "share_kept": _share(teacher, release),
            }
            for name, identity, teacher in named
        ],
    }


def distillation_lines(summary: Mapping[str, Any]) -> Sequence[str]:
    """The same for a person, a line a teacher; none for the summary of a run without teachers."""
    distillation = summary.get("distillation")
    if distillation is None:
        return ()
    return [_line(distillation["student"], teacher) for teacher in distillation["teachers"]]


def _line(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    if teacher["parameters"] is None:
        return f"distilled from {teacher['release']} ({teacher['identity']}), which cannot be read any more"
    size = student["parameters"] / teacher["parameters"]
    said = (
        f"distilled from {teacher['release']}: {student['parameters']:,} of {teacher['parameters']:,} parameters "
        f"({size:.1%})"
    )
    if student["return_mean"] is None:
        return f"{said}; no release, the teacher's return is {teacher['return_mean']:.2f}"
    kept = "" if teacher["share_kept"] is None else f" ({teacher['share_kept']:.1%} kept)"
    return f"{said}; return {student['return_mean']:.2f} of {teacher['return_mean']:.2f}{kept}"


def _share(teacher: Teacher | None, release: Verdict | None) -> float | None:
    """Of a return that is not positive there is no share."""
    if teacher is None or release is None or teacher.release.return_mean <= 0:
        return None
    return release.return_mean / teacher.release.return_mean


def _still_there(config: RunConfig) -> list[Teacher | None]:
    try:
        sources = locate_teachers(config.distillation)
    except BadInput:
        return [None] * len(config.distillation.teachers)
    found: list[Teacher | None] = []
    for source in sources:
        try:
            found.append(load_teacher(source))
        except TeacherError:
            found.append(None)
    return found


def _student_parameters(config: RunConfig, teacher: Teacher) -> int:
    spec = teacher.artifact.spec
    return count_parameters(PolicySpec(config.network, spec.observation, spec.action))

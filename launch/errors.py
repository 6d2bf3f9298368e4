"""What the command line says when it cannot go on, and which errors mean that the input was bad.

The other packages' errors are recognised by name in modules that happen to be loaded: an error cannot have been raised
by a module that was never imported, and looking it up must not import jax or lmdb.

    LaunchError             a clear line, exit status 1: the input was fine, the run was not
      RunFailed             a process of the run kept dying
    BadInput                one clear line, exit status 2: nothing was started
      UnknownRecipe         no recipe, nor config file, of this name
      OverrideError         a --set that cannot be applied
      ConfigFileError       a config file that cannot be read as this version's settings
      RunDirectoryError     a run directory that is in use, missing, finished, or another run's
      ForeignPackageError   a package of ours is hidden by another distribution's package of the same name
      MissingExtra          a package that only an extra installs
"""

from __future__ import annotations

import sys
from collections.abc import Mapping


class LaunchError(Exception):
    """The run could not go on; the message is for a person."""


class RunFailed(LaunchError):
    """A process of the run kept dying; the message names it and its log, whose last lines follow."""


class BadInput(Exception):
    """What the user asked for cannot be done; the message is one line: the value, the bound, and what follows."""


class UnknownRecipe(BadInput):
    """No recipe of this name, and no config file at this path."""


class OverrideError(BadInput):
    """A `--set` whose key is unknown or whose value does not have the setting's type."""


class ConfigFileError(BadInput):
    """A config file that is not TOML, has an unknown key, or a value of the wrong type."""


class RunDirectoryError(BadInput):
    """A run directory that is in use, does not exist, holds another recipe's run, or a run that must be resumed."""


class ForeignPackageError(BadInput):
    """One of Temper's packages resolves to somebody else's code."""


class MissingExtra(BadInput):
    """A command needs packages that were not installed; the message has the command that installs them."""


# Modules whose errors mean that the input was bad: not a fault of the program, so no traceback.
_BAD_INPUT_OF_MODULES: Mapping[str, tuple[str, ...]] = {
    "replay.settings": ("SettingError",),
    "replay.schema": ("SchemaError",),
    "replay.limiter": ("LimiterError",),
    "replay.store": ("StoreError",),
    "replay.curation.rules": ("RuleError",),
    "replay.exchange.errors": ("ExchangeError",),
    "replay.episode_pieces": ("RowsContradictory",),
    "replay.source": (
        "SourceReadOnly",
        "SourceRefused",
    ),
    "replay.filters": ("FilterError",),
    "replay.table_spec": ("TableSpecError",),
    "protos.transport": ("AddressError",),
    "protos.transport_errors": ("CertificateError",),
    "protos.transport_roles": ("RoleError",),
    "policies.artifact": ("ArtifactError",),
    "policies.registry": ("RegistryError",),
    "policies.signing": ("KeyFileError",),
    "policies.inference": ("BackendError",),
    "policies.spec": ("SpecError",),
    "actors.environment": ("EnvironmentUnsupported",),
    "actors.process": ("JobError",),
    "actors.verification": ("VerificationError",),
    "safety.ledger": ("LedgerError",),
    "safety.keys.custody": ("CustodyError",),
    "safety.key_rotation": ("RotationRefused",),
    "safety.evaluation.evaluator": ("EvaluationFailed",),
    "safety.suite_file": ("SuiteFileError",),
    "learner.batches": ("BatchShapeError",),
    "learner.checkpoint": ("CheckpointError",),
    "learner.distillation.teachers": ("TeacherError",),
    "learner.lineage": ("LineageError",),
    "learner.process": ("TrustKeyMissing",),
}

# Which extra installs a module that a bare `pip install temper` does not.
_EXTRA_OF_MODULE: Mapping[str, str] = {
    "jax": "learner",
    "jaxlib": "learner",
    "flax": "learner",
    "jaxtyping": "learner",
    "optax": "learner",
    "orbax": "learner",
    "tensorboardX": "learner",
    "lmdb": "replay",
    "pyroaring": "replay",
    "pyarrow": "data",
    "minari": "minari",
    "h5py": "minari",
    "huggingface_hub": "minari",
    "PIL": "minari",
    "gymnasium": "gym",
    "minatar": "minatar",
    "matplotlib": "plots",
}


def bad_input_types() -> tuple[type[Exception], ...]:
    """Every loaded exception class that means bad input, for an `except` clause."""
    found: list[type[Exception]] = [BadInput]
    for module, names in _BAD_INPUT_OF_MODULES.items():
        if module in sys.modules:
            found.extend(getattr(sys.modules[module], name) for name in names if hasattr(sys.modules[module], name))
    return tuple(found)


def extra_of(module: str) -> str | None:
    """The extra that installs `module` (dotted names allowed), or None where it is nobody's."""
    return _EXTRA_OF_MODULE.get(module.partition(".")[0])


def missing_extra(command: str, extras: list[str]) -> MissingExtra:
    """The error that says which extras `command` needs and how to install them."""
    names = ",".join(sorted(extras))
    plural = "extras" if len(extras) > 1 else "extra"
    return MissingExtra(f"temper {command} needs the {names} {plural}: pip install 'temper[{names}]'")

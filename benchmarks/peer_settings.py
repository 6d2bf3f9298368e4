"""How Sample Factory is set up for CartPole: three ways, from its own published example to the best we found.

A comparison is worth what the peer was given. So the peer is measured as its documentation runs it, with settings
tuned for few cores over the same environments, and with the environment simulated as one NumPy batch, which is what
Temper itself does. Each argument below is an option of Sample Factory 2.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "2.1.1"


@dataclass(frozen=True)
class PeerVariant:
    """One way to run the peer.

    Attributes:
      name: as on this benchmark's command line.
      meaning: one line for the reader of a result.
      lanes: environments simulated together in one NumPy batch; 0 for one `gymnasium.make` each.
      arguments: the peer's own command-line arguments.
    """

    name: str
    meaning: str
    lanes: int
    arguments: tuple[str, ...]


# The command line in the docstring of sf_examples/train_gym_env.py. What it says of periods of saving and reporting
# is left to peer_sample_factory.py, for every variant alike.
_DOCUMENTED = (
    "--num_envs_per_worker=20",
    "--policy_workers_per_policy=2",
    "--recurrence=1",
    "--with_vtrace=False",
    "--batch_size=512",
    "--reward_scale=0.1",
)

# A small network (the default has 2 x 512 units), a higher learning rate and two epochs reach the target in a third
# of the frames; one rollout process with double-buffered sampling leaves a core to the learner. Caching what the
# environment looks like saves the peer one process start.
_TUNED = (
    "--encoder_mlp_layers",
    "64",
    "64",
    "--num_workers=1",
    "--worker_num_splits=2",
    "--rollout=32",
    "--num_epochs=2",
    "--reward_scale=0.1",
    "--use_env_info_cache=True",
)

VARIANTS = {
    variant.name: variant
    for variant in (
        PeerVariant("documented", "its own published CartPole example", 0, _DOCUMENTED),
        PeerVariant(
            "tuned",
            "gymnasium.make environments, settings tuned for 2 cores",
            0,
            (*_TUNED, "--num_envs_per_worker=64", "--batch_size=1024", "--learning_rate=2e-3"),
        ),
        PeerVariant(
            "vectorised",
            "tuned, over Gymnasium's CartPoleVectorEnv in batched sampling",
            128,
            (
                *_TUNED,
                "--batched_sampling=True",
                "--num_envs_per_worker=2",
                "--batch_size=4096",
                "--learning_rate=3e-3",
            ),
        ),
    )
}

"""Where an agent acts: environments, the rollout loop, and the processes that run it.

An actor process imports numpy, grpc and its environment, never jax (unless it was asked to run its policy with it).
"""

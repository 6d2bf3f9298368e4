"""`temper policy serve`: batched inference as a process, for actors that run no network themselves."""

from __future__ import annotations

from launch.arguments import PolicyServe
from launch.process import TRUST_WAIT_S_MAX, wait_for_file
from launch.securing import secure_process
from launch.serving import announce, serve_until_signal
from launch.transport import TransportConfig
from policies.service import serve
from protos.transport import check_address


def run(arguments: PolicyServe) -> int:
    """Serves until SIGTERM or SIGINT."""
    policy_address, address = check_address(arguments.policy), check_address(arguments.listen)
    unsafe = TransportConfig(insecure_network=arguments.insecure_network)
    secure_process(unsafe, arguments.certificates, policy_address, address)
    trust = wait_for_file(arguments.trust, TRUST_WAIT_S_MAX)
    return serve_until_signal(
        lambda stop: serve(
            policy_address,
            trust,
            arguments.run_id,
            address,
            backend=arguments.backend,
            on_ready=announce("policy"),
            stop=stop,
        )
    )

"""Applies the transport settings to a process: the first thing that a command does which listens or calls.

Exceptions: those of `secure_process`.
"""

from __future__ import annotations

import os
from pathlib import Path

from launch.transport import TransportConfig
from protos.transport import check_safe
from protos.transport_security import CERTIFICATES_VARIABLE, INSECURE_NETWORK_VARIABLE, Security, use


def secure_process(config: TransportConfig, certificates: str = "", *addresses: str) -> None:
    """Makes these the transport settings of this process, and of those that it starts.

    Args:
      config: as in the run's configuration.
      certificates: the directory given on the command line, which counts before the environment's and this before
        the configuration's; "": none.
      *addresses: that the process will use, each one or several with commas between them, or "".

    Raises:
      CertificateError: the files cannot be used.
      AddressError: an address is malformed, or on a network without certificates.
    """
    given = certificates or os.environ.get(CERTIFICATES_VARIABLE, "") or config.certificates
    insecure = config.insecure_network or os.environ.get(INSECURE_NETWORK_VARIABLE) == "1"
    security = Security(
        Path(given).absolute() if given else None,
        local_roles=frozenset(config.local_roles),
        insecure_network=insecure,
    )
    for address in addresses:
        for each in filter(None, address.split(",")):
            check_safe(each, security)
    use(security)
    if given:
        os.environ[CERTIFICATES_VARIABLE] = str(Path(given).absolute())

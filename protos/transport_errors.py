"""What is wrong with how a process is to be protected; apart from what finds it, so that naming it loads nothing.

Both are ValueErrors whose message is one line for the person who set the process up.
"""


class CertificateError(ValueError):
    """A key, a certificate or a list of them is missing, damaged, expired, foreign, or readable by others."""


class PlainNetwork(ValueError):
    """An address is on a network, and calls there would be neither secret nor authenticated."""

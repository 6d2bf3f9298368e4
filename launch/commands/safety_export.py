"""`temper safety export`: a verdict as an in-toto Statement in a DSSE envelope, one JSON object on one line.

It is signed by the key that signed the verdict, when that was made.
"""

from __future__ import annotations

from launch.arguments_safety import SafetyExport
from launch.errors import LaunchError
from launch.json_output import json_line
from launch.verdict_choice import ChosenVerdict, choose_verdict
from policies.signing import VerifyKey
from protos.safety.v1 import safety_pb2
from safety.in_toto import SIGNATURE_FIELD, EnvelopeError, check_in_toto, dsse_envelope, in_toto_statement


def run(arguments: SafetyExport) -> int:
    """Prints it."""
    chosen = choose_verdict(arguments.run_dir, arguments.verdict)
    print(json_line(dsse_envelope(in_toto_statement(chosen.statement), [_signature(chosen)])))
    return 0


def _signature(chosen: ChosenVerdict) -> tuple[str, bytes]:
    """Id of the key and signature, verified."""
    key = _signing_key(chosen)
    try:
        return key.key_id, check_in_toto(key, chosen.statement, chosen.fields.get(SIGNATURE_FIELD))
    except EnvelopeError as error:
        raise LaunchError(str(error)) from error


def _signing_key(chosen: ChosenVerdict) -> VerifyKey:
    """The key that signed the verdict: the trusted one, or one that a statement beside the verdict certifies.

    Those statements have been verified with the verdict.
    """
    for certificate in chosen.signed.certificates:
        key = VerifyKey(safety_pb2.KeyStatement.FromString(certificate.payload).public_key)
        if key.key_id == chosen.signed.key_id:
            return key
    return chosen.trust.verify_key

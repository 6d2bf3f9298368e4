"""Who lets a policy out: evaluation, criteria, signed verdicts, leases, the ledger, and the service that binds them."""

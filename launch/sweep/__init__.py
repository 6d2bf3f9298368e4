"""A sweep: the runs of several settings and seeds on one machine, and what they came to together."""

"""Generated messages and stubs of `temper.policy`, one subpackage per version."""

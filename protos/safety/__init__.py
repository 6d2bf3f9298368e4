"""Generated messages and stubs of `temper.safety`, one subpackage per version."""

"""Generated messages and stubs of `temper.replay`, one subpackage per version."""

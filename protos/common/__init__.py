"""Generated messages and stubs of `temper.common`, one subpackage per version."""

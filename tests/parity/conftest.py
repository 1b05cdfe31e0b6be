def pytest_ignore_collect(config):
    """A run that deselects these tests need not have PyTorch, which they import."""
    return True if "not parity" in config.option.markexpr else None

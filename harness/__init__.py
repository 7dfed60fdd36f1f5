"""CXR Harness: train, convert, prove parity on the test split, and only then time."""

__version__ = "0.1.0"

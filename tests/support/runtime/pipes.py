"""Pipes whose readers are threads of the runtime."""

import threading


def wait_for_reader() -> None:
    """Wait until no thread reads from a pipe: a closed descriptor's number may be reused by another test."""
    for thread in threading.enumerate():
        if thread.name == "pipe":
            thread.join(5)
            assert not thread.is_alive()

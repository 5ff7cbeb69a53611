"""Pipes whose readers are threads of the runtime. Knows no audio."""

import threading


def wait_for_reader() -> None:
    """Until no thread reads from a pipe: once its descriptor is closed, the number may be that of another test's file."""
    for thread in threading.enumerate():
        if thread.name == "pipe":
            thread.join(5)
            assert not thread.is_alive()

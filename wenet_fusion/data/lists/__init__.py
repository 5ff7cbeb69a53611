"""Read data lists, and hash their contents for training states."""

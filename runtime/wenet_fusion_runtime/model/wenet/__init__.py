"""Models that WeNet's own scripts exported, behind the interface of our files."""

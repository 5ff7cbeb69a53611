"""Run models that WeNet's own scripts exported, with the same interface as files of `wenet-fusion export`."""

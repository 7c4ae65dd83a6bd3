"""Predict the memory, disk and time of an experiment before anything expensive."""

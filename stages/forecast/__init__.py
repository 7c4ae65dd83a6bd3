"""What a training will need, from a model without weights: `python -m stages.forecast`."""

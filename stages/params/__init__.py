"""The parameters: schema sections, composing, reading; `python -m stages.params use FILE`."""

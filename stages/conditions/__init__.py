"""Pictures that a ControlNet follows, made of other pictures by `conditioning_type`."""

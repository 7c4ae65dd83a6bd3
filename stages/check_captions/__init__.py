"""Check every caption with the family's own tokenizers, and draw its variants, before encoding."""

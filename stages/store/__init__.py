"""Look after the row store: what is there, why a row was encoded, what nobody uses any more."""

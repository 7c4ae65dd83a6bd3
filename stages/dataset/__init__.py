"""A dataset as it comes: its forms, what each of them lists, and the bytes of its pictures."""

"""SD3.5: large, large-turbo and medium."""

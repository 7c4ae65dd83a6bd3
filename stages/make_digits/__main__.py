"""`python -m stages.make_digits`."""

from stages.make_digits.stage import run

if __name__ == "__main__":
    run()

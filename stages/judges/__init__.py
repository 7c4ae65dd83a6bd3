"""Judges: what reads generated pictures and says whether they show what was asked for."""

from stages.judges.digits import DigitsJudge
from stages.judges.edges import EdgesJudge
from stages.judges.verdict import Examination, Judge

JUDGES: dict[str, Judge] = {"digits": DigitsJudge(), "edges": EdgesJudge()}

__all__ = ["JUDGES", "Examination", "Judge"]

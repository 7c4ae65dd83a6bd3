"""Datasets of digits, composed of the real scans that scikit-learn carries."""

"""Make the digits datasets from the real scans that scikit-learn carries."""

"""Reports: the papers' tables and figures, built from run records."""

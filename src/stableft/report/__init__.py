"""Records in, the papers' tables and figures out."""

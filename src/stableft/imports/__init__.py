"""Other people's results, a run per seed, as records of this project."""

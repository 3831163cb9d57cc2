"""What a run leaves behind, and other people's results in the same form."""

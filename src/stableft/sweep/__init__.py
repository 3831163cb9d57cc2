"""Many runs on this machine: which are due, in which process, and how far they are."""

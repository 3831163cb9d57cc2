"""`python -m stableft`: the command line."""

from stableft.cli.app import main

if __name__ == "__main__":  # worker processes import this module too
    main()

"""`python -m brainvq`: the command `brainvq`."""

from brainvq.cli import main

if __name__ == "__main__":
    main()

"""`python -m rushlight` is `rushlight`."""

from rushlight.cli import main

if __name__ == "__main__":
    main()

"""`python -m speechmill.jobs.cli`."""

from speechmill.jobs.cli import main

if __name__ == "__main__":
    main()

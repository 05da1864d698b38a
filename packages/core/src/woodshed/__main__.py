"""`python -m woodshed`: the same as the script `woodshed`."""

from woodshed.cli import main

main()

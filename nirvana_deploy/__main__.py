"""Lets `python -m nirvana_deploy` do what `nirvana` does."""

import sys

from nirvana_deploy.cli import main

sys.exit(main())

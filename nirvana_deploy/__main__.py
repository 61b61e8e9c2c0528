"""Lets `python -m nirvana_deploy` do what `nirvana` does."""

import sys
from importlib.util import find_spec

# `python -m` puts the current folder first on the import path, where its files hide what is
# installed. It stays only where this package itself is found through it.
if not sys.flags.safe_path:
    folder = sys.path.pop(0)
    if find_spec("pruning") is None:
        sys.path.insert(0, folder)

from nirvana_deploy import _refuse_hidden

_refuse_hidden()

from nirvana_deploy.cli import main  # noqa: E402

sys.exit(main())

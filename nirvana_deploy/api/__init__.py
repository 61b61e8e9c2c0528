"""The verbs by theme: `verb(model or path, Config)` returns a frozen result.

The command line calls nothing else, and `nirvana_deploy` has all of them by name. Every verb looks
at its paths before it imports what does the work.
"""

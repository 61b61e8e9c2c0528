"""Fixtures of the tests in this folder."""

from tests.nirvana_deploy.fake_work import fake_work

__all__ = ["fake_work"]

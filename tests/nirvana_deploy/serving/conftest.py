"""What several tests of this folder read: a trace takes seconds, so there is one of each."""

import pytest

from tests.nirvana_deploy.serving.tiny_decoder import TinyDecoder, export_tiny


@pytest.fixture(scope="session")
def dense_decoder(tmp_path_factory: pytest.TempPathFactory) -> TinyDecoder:
    return export_tiny(tmp_path_factory.mktemp("dense") / "export", pruned=False)


@pytest.fixture(scope="session")
def pruned_decoder(tmp_path_factory: pytest.TempPathFactory) -> TinyDecoder:
    """Other heads in each layer, one without attention, one without MLP, one block dropped."""
    return export_tiny(tmp_path_factory.mktemp("pruned") / "export", pruned=True)

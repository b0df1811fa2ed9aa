import pytest

from anyglot.inference.anyglot import Anyglot
from tests.inference.bundles import make_bundle


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Reads and writes text, pictures and speech; not trained."""
    return Anyglot.load(make_bundle(tmp_path_factory.mktemp("served")))

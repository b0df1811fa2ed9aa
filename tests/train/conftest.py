"""What the tests of fine-tuning and of preferences share: made once, in a second or two, and only read."""

import pytest

from tests.train.chats import make_chats, make_checkpoint


@pytest.fixture(scope="session")
def chats_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chats")


@pytest.fixture(scope="session")
def checkpoint(chats_folder):
    """An untrained model with its tokenizers."""
    return make_checkpoint(chats_folder)


@pytest.fixture(scope="session")
def tokens(chats_folder, checkpoint):
    """Stores `chats` and `pairs` of its vocabulary."""
    return make_chats(chats_folder, checkpoint)

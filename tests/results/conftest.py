"""Records that tests of tables and figures share."""

import pytest
from recorded import two_datasets


@pytest.fixture
def output(tmp_path):
    """The folder of `two_datasets`."""
    return two_datasets(tmp_path)

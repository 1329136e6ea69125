import pytest

from slab_det.deploy.twins import bands, chunks


@pytest.fixture
def narrow(monkeypatch):
    """Bands of a few rows and chunks that end anywhere."""
    monkeypatch.setattr(bands, 'BAND', 40)
    for module in (bands, chunks):
        monkeypatch.setattr(module, 'CHUNK', 17)
    chunks.window_chunks.kept.clear()
    yield
    chunks.window_chunks.kept.clear()

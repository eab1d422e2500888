"""The corrections that are only compared with NeRP's rules are what their releases compute."""

from pathlib import Path

import not_taken
import numpy as np
import pytest

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "corrections.npz")
Z, F, T, P = (GOLDEN[name] for name in (
    "input/logits", "input/image_features", "input/text_features", "sinkhorn_gamma0/probabilities"))


@pytest.mark.parametrize(("name", "found"), [
    ("tda/logits", lambda: not_taken.tda(Z, F)),
    ("tda_positive/logits", lambda: not_taken.tda(Z, F, negative=False)),
    ("bca/probabilities", lambda: not_taken.bca(F, T, 100.0)),
    ("inmap/proxies", lambda: not_taken.inmap(P, F, T)),
    ("inmap_50_iterations/proxies", lambda: not_taken.inmap(P, F, T, rounds=50)),
    ("transclip/probabilities", lambda: not_taken.transclip(Z, F, T)),
    ("stata/probabilities", lambda: not_taken.stata(Z, F, T)),
])
def test_it_computes_what_its_release_does(name, found):
    np.testing.assert_allclose(found(), GOLDEN[name], rtol=1e-8, atol=1e-10)


def test_dota_computes_what_its_release_does():
    np.testing.assert_allclose(not_taken.dota(Z, F), GOLDEN["dota/logits"], atol=1e-6)


def test_onzeta_computes_what_its_release_does_until_rounding_leads_elsewhere():
    found = not_taken.onzeta(Z, F, T)
    np.testing.assert_allclose(found[:100], GOLDEN["onzeta/probabilities"][:100], rtol=1e-6)

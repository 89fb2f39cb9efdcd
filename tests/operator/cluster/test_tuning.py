"""kopf's settings that something depends on; what they do on a cluster is tested in e2e/."""

from __future__ import annotations

import kopf
import pytest

from modelfleet_operator.cluster.tuning import tune


@pytest.mark.parametrize("scoped", [True, False])
def test_an_operator_of_some_namespaces_does_not_ask_which_there_are(scoped: bool):
    settings = kopf.OperatorSettings()
    tune(settings, scoped=scoped)
    assert settings.scanning.disabled is scoped

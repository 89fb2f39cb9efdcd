"""kopf's settings that something depends on; what they do on a cluster is tested in e2e/."""

from __future__ import annotations

import kopf

from modelfleet_operator.cluster.tuning import tune


def test_what_namespaces_and_crds_there_are_is_not_watched():
    settings = kopf.OperatorSettings()
    tune(settings)
    assert settings.scanning.disabled

"""`modelfleet quantize` of models with experts, and what it says of their routers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expert_models import IDS, load, native, saved
from modelfleet_worker.devices.native import library
from modelfleet_worker.errors import ModelError, UsageError
from modelfleet_worker.quantization.scheme import Method
from modelfleet_worker.quantize.checkpoints import QuantizeOptions, quantize_checkpoint
from modelfleet_worker.quantize.evaluation import evaluate, evaluate_routing, load_to_compare
from modelfleet_worker.quantize.report import Evaluation, NamedText, write_report
from modelfleet_worker.quantize.routing import Routing, compare_choices
from quantized_models import native_logits

needs_the_step = pytest.mark.skipif(
    library.load_library() is None, reason="needs the compiled step"
)
INT4 = QuantizeOptions(method=Method.INT4, group_size=32)


def quantized(folder: Path, family: str, options: QuantizeOptions = INT4) -> Path:
    saved(family, folder / "original")
    quantize_checkpoint(folder / "original", folder / "small", options, lambda _: None)
    return folder / "small"


@needs_the_step
@pytest.mark.parametrize("family", ["qwen3-moe, dense layers", "qwen2-moe"])
def test_loading_what_is_written_is_rounding_at_load(family: str, tmp_path: Path):
    written = load(quantized(tmp_path, family))
    at_load = load(
        tmp_path / "original", "int4", group_size=32, overrides=("lm_head=none",), symmetric=True
    )
    assert native_logits(native(written), IDS).equal(native_logits(native(at_load), IDS))


@needs_the_step
def test_the_report_says_how_many_choices_changed(tmp_path: Path):
    target = quantized(tmp_path, "qwen3-moe")
    original, small = load_to_compare(tmp_path / "original"), load_to_compare(target)
    texts = [torch.tensor(IDS), torch.tensor(IDS[::-1])]
    cost = evaluate(original, small, texts)
    assert cost.tokens == 2 * (len(IDS) - 1)
    assert cost.divergence.value > 0
    routing = evaluate_routing(original, small, texts)
    assert routing is not None
    assert routing.choices == 2 * len(IDS) * 3 * 3  # three layers, three experts a token
    assert 0 < routing.changed_share < 0.3
    same = evaluate_routing(original, original, texts)
    assert same == Routing(choices=routing.choices, changed=0)
    write_report(
        target,
        source="original",
        revision=None,
        options=INT4,
        calibration=None,
        evaluation=Evaluation(text=NamedText("a.txt", "a"), cost=cost, routing=routing),
    )
    report = json.loads((target / "quantization_report.json").read_text())
    assert report["evaluation"]["routing"] == {
        "choices": routing.choices,
        "changed": routing.changed,
        "changed_share": routing.changed_share,
    }


def test_choices_are_compared_whatever_their_order():
    before = torch.tensor([[[0, 1], [2, 3]], [[-1, -1], [-1, -1]]])
    after = torch.tensor([[[1, 0], [3, 4]], [[-1, -1], [-1, -1]]])
    assert compare_choices([before], [after]) == Routing(choices=4, changed=1)
    assert str(Routing(choices=400, changed=3)) == "0.75% of the routers' 400 choices changed"


@pytest.mark.parametrize(
    ("family", "method", "error", "message"),
    [
        ("qwen3-moe", "gptq", UsageError, "gptq does not calibrate experts: use int8 or int4"),
        ("mixtral", "int8", ModelError, "no place for: serve it with spec.quantization"),
    ],
)
def test_what_it_does_not_write_is_told(
    family: str, method: str, error: type[Exception], message: str, tmp_path: Path
):
    with pytest.raises(error, match=message):
        quantized(tmp_path, family, QuantizeOptions(method=Method(method)))
    assert not (tmp_path / "small").exists()

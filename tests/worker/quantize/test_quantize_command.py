"""`modelfleet quantize`: what it writes, what reads it, and that calibrating is worth it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from hub_double import Hub, serve_hub
from modelfleet_worker.errors import ModelError, UsageError
from modelfleet_worker.quantization.scheme import Method, Override, Scheme
from modelfleet_worker.quantization.weights import QuantizedWeight, quantize
from modelfleet_worker.quantize.calibration import Seen, calibrate, default_text
from modelfleet_worker.quantize.checkpoints import QuantizeOptions, quantize_checkpoint
from modelfleet_worker.quantize.evaluation import Cost, Estimate, evaluate
from modelfleet_worker.quantize.gptq_rounding import round_by_gptq
from modelfleet_worker.quantize.plain import load_plain
from modelfleet_worker.quantize.report import Evaluation, NamedText, write_report
from quantized_models import load, logits, tiny

IDS = torch.tensor([3, 14, 15, 92, 65, 35, 89, 79])


def saved(folder: Path, **changes: Any) -> Path:
    tiny(**changes).to(torch.bfloat16).save_pretrained(folder)
    return folder


def texts(count: int = 12, length: int = 128) -> list[Tensor]:
    """Random ids: the tiny models know no language. Skewed, so that inputs differ in size."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(length, generator=generator).pow(3) * 96).long() for _ in range(count)]


@pytest.fixture
def without_tokenizer(monkeypatch):
    """The tiny models have none: windows are given."""
    monkeypatch.setattr("modelfleet_worker.quantize.checkpoints.windows", lambda *_: texts())


def options(method: str, **changes: Any) -> QuantizeOptions:
    return QuantizeOptions(
        method=Method(method), group_size=changes.pop("group_size", 32), **changes
    )


def quantized(folder: Path, method: str, **changes: Any) -> Path:
    target = folder / method
    quantize_checkpoint(folder / "original", target, options(method, **changes), lambda _: None)
    return target


def theirs(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.usefixtures("without_tokenizer")
def test_transformers_reads_what_is_written(tmp_path: Path, method: str, tied: bool):
    saved(tmp_path / "original", tie_word_embeddings=tied)
    target = quantized(tmp_path, method)
    assert any(name.endswith("weight_packed") for name in load_file(target / "model.safetensors"))
    with torch.inference_mode():
        expected = theirs(target)(IDS[None]).logits[0]
    found = logits(load(target), IDS)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.usefixtures("without_tokenizer")
def test_calibrated_weights_are_closer_than_the_nearest(tmp_path: Path):
    saved(tmp_path / "original", num_hidden_layers=3)
    original = load_plain(tmp_path / "original")
    models = {m: load_plain(quantized(tmp_path, m)) for m in Method}
    costs = {m: evaluate(original, model, texts(30)[12:]) for m, model in models.items()}
    divergence = {str(name): cost.divergence.value for name, cost in costs.items()}
    assert evaluate(original, original, texts(1)).divergence.value == 0
    assert divergence["int8"] < divergence["gptq"] < divergence["int4"]
    assert divergence["awq"] < divergence["int4"]
    for cost in costs.values():
        assert cost.divergence.low <= cost.divergence.value <= cost.divergence.high
        assert cost.tokens == 18 * 127


def test_a_token_that_is_far_longer_than_others_does_not_decide():
    """As the first one of a text is in real models."""
    generator = torch.Generator().manual_seed(2)
    shape = torch.randn(64, 64, generator=generator) @ torch.logspace(0, -2, 64).diag()
    usual = torch.randn(2048, 64, generator=generator) @ shape
    giant = 2000 * torch.randn(1, 64, generator=generator)
    seen = Seen(torch.zeros(64, 64), torch.zeros(64), alike=True)
    for part in usual.split(512):
        seen.add(torch.cat([giant, part]))
    weight = torch.randn(32, 64, generator=generator)
    scheme = Scheme(bits=4, group=32, symmetric=True)

    def error(rounded: QuantizedWeight) -> float:
        return float((usual @ (weight - rounded.dequantized()).t()).norm())

    nearest = error(quantize(weight, scheme))
    assert error(round_by_gptq(weight, seen.hessian, scheme)) < 0.95 * nearest


@pytest.mark.usefixtures("without_tokenizer")
def test_awq_changes_the_weights_but_not_the_model(tmp_path: Path):
    """Were nothing rounded, scaling would be invisible: with int8 it nearly is."""
    saved(tmp_path / "original")
    model = load_plain(tmp_path / "original", prepack=False)
    before = model.layers[0].input_layernorm.weight.clone()
    fine = QuantizeOptions(method=Method.AWQ, group_size=32, overrides=(Override.parse("*=int8"),))
    calibrate(model, texts(), fine.quantization, awq=True, progress=lambda _: None)
    assert not before.equal(model.layers[0].input_layernorm.weight)
    cost = evaluate(load_plain(tmp_path / "original"), model, texts())
    assert cost.divergence.value < 1e-2


def test_modules_of_different_formats_are_told_apart(tmp_path: Path):
    saved(tmp_path / "original")
    overrides = tuple(map(Override.parse, ("*.0.mlp.down_proj=int8", "*.k_proj=none")))
    target = quantized(tmp_path, "int4", overrides=overrides)
    groups = json.loads((target / "config.json").read_text())["quantization_config"]
    by_bits = {g["weights"]["num_bits"]: g["targets"] for g in groups["config_groups"].values()}
    assert by_bits[8] == ["model.layers.0.mlp.down_proj"]
    assert "model.layers.1.mlp.down_proj" in by_bits[4]
    assert r"re:.*\.q_proj$" in by_bits[4]
    names = load_file(target / "model.safetensors").keys()
    assert "model.layers.0.self_attn.k_proj.weight" in names
    found = logits(load(target), IDS)
    with torch.inference_mode():
        expected = theirs(target)(IDS[None]).logits[0]
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_loading_with_int4_is_loading_what_int4_writes(tmp_path: Path):
    saved(tmp_path / "original")
    written = load(quantized(tmp_path, "int4"))
    at_load = load(
        tmp_path / "original",
        weights="int4",
        group_size=32,
        overrides=("lm_head=none",),
        symmetric=True,
    )
    assert logits(written, IDS).equal(logits(at_load, IDS))


@pytest.mark.parametrize("again", ["int4", "gptq"])
def test_what_is_quantized_is_not_quantized_again(tmp_path: Path, again: str):
    saved(tmp_path / "original")
    target = quantized(tmp_path, "int8")
    with pytest.raises(ModelError, match=r"is quantized already \(compressed-tensors\): start"):
        quantize_checkpoint(target, tmp_path / "twice", options(again), lambda _: None)


def test_nothing_is_overwritten(tmp_path: Path):
    saved(tmp_path / "original")
    (tmp_path / "int4").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        quantized(tmp_path, "int4")


def test_every_python_has_text_to_calibrate_with():
    assert len(default_text()) > 300_000


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelfleet_worker.quantize", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        umask=0o027,
    )


def test_the_command_tells_its_progress_and_what_it_wrote(tmp_path: Path):
    saved(tmp_path / "original")
    done = command(tmp_path / "original", tmp_path / "small", "--method=int4", "--group-size=32",
        "--override=*.k_proj=int8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "100 %" in done.stderr
    assert f"{tmp_path / 'small'}: 0 MB of 0 MB" in done.stdout
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "small").iterdir()}
    assert modes == {"0o640"}  # as the umask says, weights too
    report = json.loads((tmp_path / "small/quantization_report.json").read_text())
    assert report["versions"].keys() >= {"modelfleet", "torch", "transformers"}
    del report["versions"]
    assert report == {
        "source": str(tmp_path / "original"),
        "revision": None,
        "method": "int4",
        "weights": "int4",
        "group_size": 32,
        "overrides": ["*.k_proj=int8"],
        "calibration": None,
        "evaluation": None,
        "warnings": [],
    }


def test_a_model_of_a_hub_is_fetched_first(tmp_path: Path):
    saved(tmp_path / "original")
    (tmp_path / "original" / "tokenizer.json").write_text("{}")  # nothing is tokenized here
    files = {path.name: path.read_bytes() for path in (tmp_path / "original").iterdir()}
    with serve_hub(Hub(files)) as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            "MODELFLEET_CACHE": str(tmp_path / "cache"),
            "HF_HOME": str(tmp_path / "hf"),
        }
        small = tmp_path / "small"
        done = command("hf://owner/name", small, "--method=int8", **settings)
        assert done.returncode == 0, done.stderr
        assert "asking a hub" not in done.stdout
        report = json.loads((small / "quantization_report.json").read_text())
        assert (report["source"], report["revision"]) == ("hf://owner/name", "main")
        assert any(
            name.endswith("weight_packed") for name in load_file(small / "model.safetensors")
        )


def test_what_is_no_model_is_told(tmp_path: Path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    done = command(tmp_path, tmp_path / "small")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path} is a LoRA adapter" in line


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01)


@pytest.mark.parametrize(
    ("ratio", "warning"),
    [
        (1.007, None),
        (1.055, None),  # within what chance explains
        (1.41, "the perplexity is 41% above the original's, more than 5%: int8, a smaller"),
    ],
)
def test_a_loss_that_is_large_is_a_warning(tmp_path: Path, ratio: float, warning: str | None):
    cost = Cost(
        tokens=512,
        perplexity=estimate(20.0),
        perplexity_ratio=estimate(ratio),
        divergence=estimate(0.1),
        same_choice=estimate(0.9),
    )
    text = NamedText("news.txt", "Some news.")
    write_report(
        tmp_path,
        source="hf://owner/name",
        revision="v1",
        options=options("gptq", samples=7),
        calibration=None,
        evaluation=Evaluation(text=text, cost=cost),
    )
    report = json.loads((tmp_path / "quantization_report.json").read_text())
    assert report["calibration"]["file"].startswith("the reference of the Python language")
    assert (report["calibration"]["samples"], len(report["calibration"]["sha256"])) == (7, 64)
    assert report["evaluation"]["file"] == "news.txt"
    assert report["evaluation"]["perplexity_ratio"]["value"] == ratio
    found = report["warnings"]
    assert found == [] if warning is None else found[0].startswith(warning)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=int3"], "'int3' is not one of"),
        (["--group-size=48"], "expected a group size of 32, 64, 128, found 48"),
        (["--method=int8", f"--calibration={__file__}"], "int8 looks at no text"),
        (["--override=x=int8"], "override x=int8 matches no module"),
        (["--calibration=/nowhere", "--method=gptq"], "/nowhere cannot be read"),
        (["--revision=v2"], "--revision belongs to an hf:// source"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, arguments, message: str):
    saved(tmp_path / "original")
    done = command(tmp_path / "original", tmp_path / "small", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "small").exists()

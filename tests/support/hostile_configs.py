"""Configs, tokenizers and quantized projections that lie, and what is said about them."""

from __future__ import annotations

import torch

from hostile_checkpoints import (
    DEEP,
    DEEP_OBJECT,
    Q,
    Spoil,
    config,
    holds,
    json_file,
    quantization,
    tensor,
)

OWN_CODE = "a tokenizer class with code of its own"
AWQ, GPTQ = "awq-auto-round", "gptq-gptqmodel-4bit-v2-asym-desc-act"

CONFIGS: dict[str, tuple[Spoil, str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "an empty config": (holds("config.json", b""), "cannot be read as JSON"),
    "a config of other bytes": (holds("config.json", b"\x80\x04\xff"), "cannot be read as JSON"),
    "a config that is a list": (holds("config.json", []), "holds list, a JSON object"),
    "a config nested deeply": (holds("config.json", DEEP_OBJECT), "cannot be read as JSON"),
    "a config of 10^5000": (
        holds("config.json", '{"vocab_size": 1' + "0" * 5000 + "}"),
        "cannot be read as JSON",
    ),
    "architectures that are a number": (config(architectures=5), "architectures is 5"),
    "architectures that are lists": (config(architectures=[[1]]), "architectures is"),
    "architectures that are an object": (config(architectures={"a": 1}), "architectures is"),
    "a dtype that is a list": (config(dtype=["bfloat16"]), r"dtype is \['bfloat16'\]"),
    "a billion layers": (config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "a hidden size of 2^40": (config(hidden_size=2**40), "hidden_size is 1099511627776"),
    "a vocabulary of 2^40": (config(vocab_size=2**40), "vocab_size is 1099511627776"),
    "an inner size of 2^62": (config(intermediate_size=2**62), "intermediate_size is 46"),
    "a head of 2^40": (config(head_dim=2**40), "head_dim is 1099511627776"),
    "2^40 heads": (config(num_attention_heads=2**40), "num_attention_heads is 1099511627776"),
    "many heads of many": (
        config(num_attention_heads=2**20, num_key_value_heads=1, head_dim=2**20),
        "1048576 heads of 1048576",
    ),
    "a large model without its weights": (
        config(hidden_size=2**16, intermediate_size=2**18, num_hidden_layers=100),
        "the weights need .* GiB, but",
    ),
    "a context of 2^60": (config(max_position_embeddings=2**60), "max_position_embeddings is 11"),
    "a sliding window of 2^60": (
        config(architectures=["MistralForCausalLM"], sliding_window=-(2**60)),
        "sliding_window is -",
    ),
    "more heads than numbers": (config(num_attention_heads=64), "head_dim is 0"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads is 0"),
    "heads that cannot share": (config(num_key_value_heads=3), "4 attention heads cannot share 3"),
    "more KV heads than heads": (config(num_key_value_heads=8), "cannot share 8 KV heads"),
    "an odd head": (config(head_dim=5), "head_dim is 5: an even"),
    "a size that is true": (config(hidden_size=True), "hidden_size is True"),
    "a size that is text": (config(hidden_size="16"), "hidden_size is '16'"),
    "a size with a fraction": (config(hidden_size=16.0), "hidden_size is 16.0"),
    "a negative size": (config(vocab_size=-300), "vocab_size is -300"),
    "an epsilon that is no number": (config(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    "an infinite epsilon": (config(rms_norm_eps=float("inf")), "rms_norm_eps is inf"),
    "an epsilon of 10^400": (config(rms_norm_eps=10**400), "rms_norm_eps is 1"),
    "a negative theta": (config(rope_theta=-1.0), "rope_theta is -1.0"),
    "a theta that is true": (config(rope_theta=True), "rope_theta is True"),
    "rope that is a list": (config(rope_parameters=[1]), r"rope is \[1\]"),
    "a rope type that is a list": (config(rope_parameters={"rope_type": []}), "rope type"),
    "a yarn of theta 1": (
        config(rope_theta=1.0, rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "rope_theta is expected to be above 1",
    ),
    "a factor of 10^400": (
        config(rope_scaling={"rope_type": "linear", "factor": 10**400}),
        "factor is 1",
    ),
    "layers that are text": (
        config(architectures=["Qwen2ForCausalLM"], max_window_layers="all"),
        "max_window_layers is 'all'",
    ),
    "a flag that is text": (config(attention_bias="no"), "attention_bias is 'no'"),
    "an end that is text": (config(eos_token_id="2"), "eos_token_id is '2'"),
    "ends that are lists": (config(eos_token_id=[[2]]), r"eos_token_id is \[\[2\]\]"),
    "a generation config of other bytes": (
        holds("generation_config.json", b"\xff"),
        "generation_config.json cannot be read as JSON",
    ),
    "a quantization that is text": (config(quantization_config="awq"), "'awq': an object"),
    "a quantization method of lists": (
        config(quantization_config={"quant_method": [1]}),
        "which is not supported",
    ),
}

TOKENIZERS: dict[str, tuple[Spoil, str]] = {
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "cannot read the tokenizer in|without a tokenizer.json",
    ),
    "an empty tokenizer": (holds("tokenizer.json", b""), "cannot read the tokenizer in"),
    "a tokenizer of other bytes": (holds("tokenizer.json", b"\x80\xff"), "cannot read the token"),
    "a tokenizer that is a list": (holds("tokenizer.json", []), "cannot read the tokenizer in"),
    "a tokenizer that is nothing": (holds("tokenizer.json", {}), "cannot read the tokenizer in"),
    "a tokenizer nested deeply": (holds("tokenizer.json", DEEP), "cannot read the tokenizer in"),
    "a truncated tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_bytes(
            (folder / "tokenizer.json").read_bytes()[:500]
        ),
        "cannot read the tokenizer in",
    ),
    "merges of unknown tokens": (
        json_file("tokenizer.json", lambda t: t["model"].update(merges=[["nope", "neither"]])),
        "cannot read the tokenizer in",
    ),
    "negative ids": (
        json_file("tokenizer.json", lambda t: t["model"]["vocab"].update({"<eos>": -1})),
        "cannot read the tokenizer in",
    ),
    "ids of 2^40": (
        json_file("tokenizer.json", lambda t: t["model"]["vocab"].update({"<eos>": 2**40})),
        "cannot read the tokenizer in",
    ),
    "no decoder": (
        json_file("tokenizer.json", lambda t: t.update(decoder=None)),
        "declares no decoder",
    ),
    "a regular expression that is none": (
        json_file(
            "tokenizer.json",
            lambda t: t.update(
                pre_tokenizer={
                    "type": "Split",
                    "pattern": {"Regex": "(((("},
                    "behavior": "Isolated",
                    "invert": False,
                }
            ),
        ),
        "cannot read the tokenizer in",
    ),
    "a tokenizer config of other bytes": (
        holds("tokenizer_config.json", b"\xff\xfe"),
        "cannot read the tokenizer in",
    ),
    "a tokenizer config that is a list": (
        holds("tokenizer_config.json", [1]),
        "cannot read the tokenizer in",
    ),
    "a tokenizer config nested deeply": (
        holds("tokenizer_config.json", DEEP_OBJECT),
        "cannot read the tokenizer in",
    ),
    OWN_CODE: (
        json_file(
            "tokenizer_config.json",
            lambda t: t.update(
                tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
            ),
        ),
        "cannot read the tokenizer in",
    ),
    "ends of lists, for the tokenizer": (config(eos_token_id=[[2]]), r"eos_token_id is \[\[2\]\]"),
    "a generation config of other bytes, for the tokenizer": (
        holds("generation_config.json", b"\xff"),
        "generation_config.json cannot be read as JSON",
    ),
}


def scaled(name: str, suffix: str, change) -> Spoil:
    return tensor(f"{name}.{suffix}", change)


PACKED: dict[str, tuple[str, Spoil, str]] = {
    "awq in groups of 0": (AWQ, quantization(group_size=0), "group_size 0"),
    "awq in groups of 2^60": (AWQ, quantization(group_size=2**60), "inputs in groups of 11529"),
    "awq in groups of 40": (AWQ, quantization(group_size=40), "inputs in groups of 40"),
    "awq in groups of true": (AWQ, quantization(group_size=True), "group_size True"),
    "awq with bits of a list": (AWQ, quantization(bits=[4]), r"awq with \[4\] bits"),
    "awq scales of one number": (AWQ, scaled(Q, "scales", lambda t: t[0, 0].clone()), r"is \[\]"),
    "awq scales of fewer groups": (AWQ, scaled(Q, "scales", lambda t: t[:1]), r"is \[1, 64\]"),
    "awq zero points of more": (
        AWQ,
        scaled(Q, "qzeros", lambda t: t.repeat(9, 1)),
        r"is \[18, 8\]",
    ),
    "awq weights of three dimensions": (
        AWQ,
        scaled(Q, "qweight", lambda t: t[None]),
        r"is \[1, 64, 8\]",
    ),
    "awq weights that are floats": (AWQ, scaled(Q, "qweight", lambda t: t.float()), "int32 is exp"),
    "gptq of a layout that is a list": (
        GPTQ,
        quantization(checkpoint_format=["gptq"]),
        r"layout \['gptq'\]",
    ),
    "gptq scales of one number": (
        GPTQ,
        scaled(Q, "scales", lambda t: t[0, 0].clone()),
        r"scales is \[\]",
    ),
    "gptq scales of one dimension": (
        GPTQ,
        scaled(Q, "scales", lambda t: t[:, 0]),
        r"scales is \[2\]",
    ),
    "gptq scales of no group": (GPTQ, scaled(Q, "scales", lambda t: t[:0]), "cannot be 0 groups"),
    "gptq weights of one number": (
        GPTQ,
        scaled(Q, "qweight", lambda t: t[0, 0].clone()),
        r"qweight is \[\]",
    ),
    "gptq zero points of nothing": (GPTQ, scaled(Q, "qzeros", lambda t: t[:, :0]), r"is \[2, 0\]"),
    "gptq groups beyond the last": (GPTQ, scaled(Q, "g_idx", lambda t: t + 2), "does not put"),
    "gptq groups far beyond the last": (
        GPTQ,
        scaled(Q, "g_idx", lambda t: torch.full_like(t, 2**31 - 1)),
        "does not put 32 inputs into each of 2 groups",
    ),
    "gptq groups before the first": (GPTQ, scaled(Q, "g_idx", lambda t: t - 1), "does not put"),
    "gptq groups of fewer inputs": (GPTQ, scaled(Q, "g_idx", lambda t: t[:5]), r"is \[5\]"),
    "gptq groups that are floats": (
        GPTQ,
        scaled(Q, "g_idx", lambda t: t.float()),
        "int32 or int64",
    ),
    "gptq groups of two dimensions": (GPTQ, scaled(Q, "g_idx", lambda t: t[None]), r"is \[1, 64\]"),
    "compressed groups that are numbers": (
        AWQ,
        config(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"a": {"weights": 5}},
            }
        ),
        "weights is 5: an object is expected",
    ),
    "compressed activations that are numbers": (
        AWQ,
        config(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {
                    "a": {
                        "weights": {"num_bits": 4, "strategy": "group", "group_size": 32},
                        "input_activations": 5,
                    }
                },
            }
        ),
        "input_activations is 5: an object is expected",
    ),
    "compressed formats that are lists": (
        AWQ,
        config(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": ["pack-quantized"],
                "config_groups": {"a": {}},
            }
        ),
        "is not supported, pack-quantized or int-quantized is",
    ),
    "a compressed cache scheme that is a number": (
        AWQ,
        config(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {
                    "a": {"weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}
                },
                "kv_cache_scheme": 5,
            }
        ),
        "kv_cache_scheme is not supported",
    ),
}

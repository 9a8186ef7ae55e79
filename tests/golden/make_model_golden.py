"""Makes tests/golden/models: tiny random checkpoints and their logits by Hugging Face transformers.

Run: python tests/golden/make_model_golden.py      (needs torch, transformers, safetensors)

Each folder holds a checkpoint as transformers saves it (some with config.json put into its older spelling) and
expected.safetensors: per sequence i, tokens.i (int32 [n]) and logits.i (fp32 [n, vocab]), computed in fp32 from the
stored weights with eager attention. rope.safetensors holds inverse frequencies of real models' parameters.
Sizes are odd on purpose; weights are large enough that every position's logits depend on the whole context.
"""
import json
import math
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = pathlib.Path(__file__).parent / "models"


def randomize(model, generator):
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.4 * noise
        elif "embed_tokens" in name:
            value = noise * (2.5 / math.sqrt(parameter.shape[1]) if model.config.tie_word_embeddings else 1.0)
        elif "lm_head" in name:
            value = 2.5 * noise / math.sqrt(parameter.shape[1])
        elif "q_proj" in name or "k_proj" in name:
            value = 1.8 * noise / math.sqrt(parameter.shape[1])
        else:
            value = 1.2 * noise / math.sqrt(parameter.shape[1])
        parameter.data.copy_(value)


def older_spelling(path, drop=()):
    """rope_theta and rope_scaling for rope_parameters, torch_dtype for dtype; without the keys in `drop`."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    if theta != 10000:
        config["rope_theta"] = theta
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    for key in drop:
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def make(name, config, dtype, lengths, seed, *, shard=None, older=None, norms_fp32=False, generation=None):
    folder = OUT / name
    generator = torch.Generator().manual_seed(seed)
    kind = LlamaForCausalLM if isinstance(config, LlamaConfig) else Qwen3ForCausalLM
    model = kind(config)
    randomize(model, generator)
    model = model.to(dtype)
    model.generation_config = transformers.GenerationConfig(**(generation or {}))
    model.save_pretrained(folder, max_shard_size=shard or "1GB")
    if generation is None:
        (folder / "generation_config.json").unlink(missing_ok=True)
    if norms_fp32:
        path = folder / "model.safetensors"
        weights = load_file(path)
        for key in weights:
            if "norm" in key:
                weights[key] = (weights[key].float() * 1.001).contiguous()  # not representable in bf16
        save_file(weights, path, metadata={"format": "pt"})
    if older is not None:
        older_spelling(folder / "config.json", older)

    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    expected = {}
    for i, length in enumerate(lengths):
        tokens = torch.randint(0, config.vocab_size, (length,), generator=generator)
        with torch.no_grad():
            logits = model(tokens[None]).logits[0]
        expected[f"tokens.{i}"] = tokens.to(torch.int32)
        expected[f"logits.{i}"] = logits.contiguous()
        print(f"{name}: {length} tokens, logits' deviation {logits.std():.2f}, largest {logits.abs().max():.1f}")
    save_file(expected, folder / "expected.safetensors")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)

    # Llama 2: one kv head a query head, untied, config.json as it was then.
    make("llama2_mha",
         LlamaConfig(vocab_size=131, hidden_size=60, intermediate_size=85, num_hidden_layers=3, num_attention_heads=3,
                     num_key_value_heads=3, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
                     bos_token_id=1, eos_token_id=2),
         torch.bfloat16, [67, 23], seed=1, older=["num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"],
         generation={"bos_token_id": 1, "eos_token_id": 2})

    # Llama 3.x: grouped queries, tied, head_dim of its own, long-wave rope scaling within reach of 80 positions.
    make("llama3_gqa",
         LlamaConfig(vocab_size=307, hidden_size=76, intermediate_size=90, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=24, max_position_embeddings=160, rms_norm_eps=1e-5,
                     tie_word_embeddings=True, bos_token_id=300, eos_token_id=[301, 305],
                     rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
                                      "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                      "original_max_position_embeddings": 48}),
         torch.bfloat16, [80], seed=2,
         generation={"bos_token_id": 300, "eos_token_id": [301, 305, 306], "do_sample": True, "temperature": 0.6,
                     "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.05})

    # One kv head, biases everywhere, linear rope scaling, fp16 in shards, older spelling.
    make("llama_mqa_sharded",
         LlamaConfig(vocab_size=97, hidden_size=70, intermediate_size=66, num_hidden_layers=3, num_attention_heads=5,
                     num_key_value_heads=1, max_position_embeddings=96, rms_norm_eps=1e-6, attention_bias=True,
                     mlp_bias=True, tie_word_embeddings=False, eos_token_id=3,
                     rope_parameters={"rope_type": "linear", "rope_theta": 700.0, "factor": 2.5}),
         torch.float16, [59, 1], seed=3, shard="60KB", older=["head_dim"])

    # Qwen3: QK norm, head_dim larger than hidden / heads, tied, bf16 matrices with fp32 norms.
    make("qwen3_gqa",
         Qwen3Config(vocab_size=211, hidden_size=52, intermediate_size=84, num_hidden_layers=2, num_attention_heads=6,
                     num_key_value_heads=2, head_dim=18, max_position_embeddings=128, rms_norm_eps=1e-6,
                     tie_word_embeddings=True, eos_token_id=5,
                     rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
         torch.bfloat16, [71], seed=4, norms_fp32=True)

    # Qwen3, untied, in fp32, older spelling.
    make("qwen3_fp32",
         Qwen3Config(vocab_size=83, hidden_size=36, intermediate_size=50, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=2, head_dim=32, max_position_embeddings=64, rms_norm_eps=1e-6,
                     attention_bias=True, tie_word_embeddings=False, eos_token_id=5,
                     rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
         torch.float32, [53], seed=5, older=[])

    real = {
        "llama-3.1": LlamaConfig(hidden_size=4096, num_attention_heads=32, head_dim=128, rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
        "llama-3.2-1b": LlamaConfig(hidden_size=2048, num_attention_heads=32, head_dim=64, rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
        "linear-4": LlamaConfig(hidden_size=4096, num_attention_heads=32, head_dim=128, rope_parameters={
            "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    }
    frequencies = {name: ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu")[0]
                   for name, config in real.items()}
    base = Qwen3Config(head_dim=128, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})
    rotary = transformers.models.qwen3.modeling_qwen3.Qwen3RotaryEmbedding(base)
    frequencies["qwen3"] = rotary.inv_freq.clone()
    save_file(frequencies, OUT / "rope.safetensors")


if __name__ == "__main__":
    main()

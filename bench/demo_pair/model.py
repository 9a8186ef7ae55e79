"""The Llama architecture in plain PyTorch: names and numerics of Hugging Face's LlamaForCausalLM, tied embeddings."""

import dataclasses
import json
import os
import pathlib

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass
class Config:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int = 8192
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self):
        return self.hidden // self.heads

    def hugging_face(self, end):
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocab,
                "hidden_size": self.hidden, "intermediate_size": self.ffn, "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
                "hidden_act": "silu", "rms_norm_eps": self.eps, "rope_theta": self.theta, "rope_scaling": None,
                "max_position_embeddings": self.context, "attention_bias": False, "mlp_bias": False,
                "attention_dropout": 0.0, "initializer_range": 0.02, "tie_word_embeddings": True, "use_cache": True,
                "bos_token_id": None, "eos_token_id": end, "torch_dtype": "bfloat16"}


TARGET = Config(hidden=512, layers=7, heads=8, kv_heads=4, ffn=1408)
DRAFT = Config(hidden=192, layers=2, heads=6, kv_heads=2, ffn=512)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.hidden, bias=False)

    def forward(self, x, cos, sin, cache=None, start=0, mask=None):
        b, t, _ = x.shape
        c = self.c
        q = rotate(self.q_proj(x).view(b, t, c.heads, c.head_dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(b, t, c.kv_heads, c.head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)
        q = q.to(v.dtype)
        k = k.to(v.dtype)
        if cache is not None:
            cache[0][:, :, start:start + t] = k
            cache[1][:, :, start:start + t] = v
            k, v = cache[0][:, :, :start + t], cache[1][:, :, :start + t]
        n = k.shape[2]
        groups = c.heads // c.kv_heads
        if t == 1 and mask is None:  # one token sees the whole cache: its heads are queries of their shared keys, unexpanded
            y = F.scaled_dot_product_attention(q.reshape(b, c.kv_heads, groups, c.head_dim), k, v)
            return self.o_proj(y.reshape(b, 1, c.heads * c.head_dim))
        k = k[:, :, None].expand(b, c.kv_heads, groups, n, c.head_dim).reshape(b, c.heads, n, c.head_dim)
        v = v[:, :, None].expand(b, c.kv_heads, groups, n, c.head_dim).reshape(b, c.heads, n, c.head_dim)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, c.heads * c.head_dim))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden, c.ffn, bias=False)
        self.up_proj = nn.Linear(c.hidden, c.ffn, bias=False)
        self.down_proj = nn.Linear(c.ffn, c.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c.hidden, c.eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c.hidden, c.eps)
        self.mlp = Mlp(c)

    def forward(self, x, *args):
        x = x + self.self_attn(self.input_layernorm(x), *args)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab, c.hidden)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = Norm(c.hidden, c.eps)
        angles = torch.outer(torch.arange(c.context).float(),
                             1.0 / c.theta ** (torch.arange(0, c.head_dim, 2).float() / c.head_dim))
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = (2 * c.layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(p, std=0.02 * scale)

    def states(self, ids, positions=None, caches=None, start=0, mask=None):
        if positions is None:
            cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        else:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.embed_tokens(ids)
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, caches[i] if caches else None, start, mask)
        return self.norm(x)

    def logits(self, ids, **kw):
        return F.linear(self.states(ids, **kw), self.embed_tokens.weight)

    @torch.no_grad()
    def greedy(self, prompts, steps, end):
        """The greedy continuation of each prompt (lists of ids), at most `steps` tokens; the end token is kept."""
        dev, dtype = self.embed_tokens.weight.device, self.embed_tokens.weight.dtype
        c, b, width = self.c, len(prompts), max(map(len, prompts))
        steps = min(steps, c.context - width)
        ids = torch.full((b, width), end)
        pad = torch.tensor([width - len(p) for p in prompts])
        for i, p in enumerate(prompts):
            ids[i, width - len(p):] = torch.tensor(p)
        ids, pad = ids.to(dev), pad.to(dev)
        caches = [torch.zeros(2, b, c.kv_heads, width + steps, c.head_dim, device=dev, dtype=dtype)
                  for _ in range(c.layers)]
        cols = torch.arange(width + steps, device=dev)
        live = cols[None] >= pad[:, None]
        # A padded row sees itself, so that no row of the softmax is empty.
        causal = cols[:width, None] >= cols[None, :width]
        mask = (causal & live[:, None, :width]) | torch.eye(width, dtype=torch.bool, device=dev)
        pos = (cols[None, :width] - pad[:, None]).clamp(min=0)
        x = self.states(ids, positions=pos, caches=caches, start=0, mask=mask[:, None])[:, -1:]
        out, done = [], torch.zeros(b, dtype=torch.bool, device=dev)
        for n in range(steps):
            nxt = F.linear(x, self.embed_tokens.weight)[:, -1].float().argmax(-1)
            nxt = torch.where(done, end, nxt)
            out.append(nxt)
            done = done | (nxt == end)
            if n + 1 == steps or (n % 16 == 15 and bool(done.all())):
                break
            at = width + n
            x = self.states(nxt[:, None], positions=(at - pad)[:, None], caches=caches, start=at,
                            mask=live[:, None, None, :at + 1])
        rows = torch.stack(out, 1).tolist()
        return [r[:r.index(end) + 1] if end in r else r for r in rows]

    @torch.no_grad()
    def sample(self, prompts, steps, temperatures):
        """Prompts (rows of equal length on the device) with `steps` sampled tokens each; temperature 0 is greedy."""
        c, (b, width) = self.c, prompts.shape
        dev, dtype = prompts.device, self.embed_tokens.weight.dtype
        caches = [torch.empty(2, b, c.kv_heads, width + steps, c.head_dim, device=dev, dtype=dtype)
                  for _ in range(c.layers)]
        x = self.states(prompts, caches=caches)[:, -1:]
        out = [prompts]
        for n in range(steps):
            logits = F.linear(x, self.embed_tokens.weight)[:, -1].float()
            gumbel = -torch.empty_like(logits).exponential_().log()
            nxt = (logits + gumbel * temperatures[:, None]).argmax(-1)[:, None]
            out.append(nxt)
            if n + 1 < steps:
                at = width + n
                x = self.states(nxt, positions=torch.full_like(nxt, at), caches=caches, start=at)
        return torch.cat(out, 1)

    def tensors(self):
        """Weights in bf16 by their Hugging Face names, in the order of a forward pass."""
        return {f"model.{k}": v.detach().to(torch.bfloat16).cpu().contiguous() for k, v in self.state_dict().items()}


def split(tensors, count):
    """Consecutive groups of tensors, `count` at most, with the largest group as small as possible."""
    sizes = [(k, v.numel() * v.element_size()) for k, v in tensors.items()]
    lo, hi = max(s for _, s in sizes), sum(s for _, s in sizes)

    def groups(limit):
        out, room = [[]], limit
        for k, s in sizes:
            if s > room:
                out.append([])
                room = limit
            out[-1].append(k)
            room -= s
        return out

    while lo < hi:
        mid = (lo + hi) // 2
        lo, hi = (lo, mid) if len(groups(mid)) <= count else (mid + 1, hi)
    return groups(hi)


def save(model, folder, name, shards):
    """name-0000i-of-0000n.safetensors (one file: name.safetensors); a file is replaced only when the new one is whole."""
    from safetensors.torch import save_file
    folder = pathlib.Path(folder)
    tensors = model.tensors()
    parts = split(tensors, shards)
    for i, keys in enumerate(parts):
        path = folder / (f"{name}.safetensors" if shards == 1 else f"{name}-{i + 1:05}-of-{len(parts):05}.safetensors")
        save_file({k: tensors[k] for k in keys}, f"{path}.tmp", metadata={"format": "pt"})
        os.chmod(f"{path}.tmp", 0o644)
        os.replace(f"{path}.tmp", path)


def write_json(path, value):
    tmp = f"{path}.tmp"
    pathlib.Path(tmp).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(tmp, path)

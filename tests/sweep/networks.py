"""Small networks as people write them, by name. None knows anything of ntt."""

from __future__ import annotations

HEAD = """import math
import torch
from torch import nn
from torch.nn import functional as F

"""


def _class(body: str) -> str:
    return HEAD + body + "\n\ndef build_model():\n    return Net()\n"


NETWORKS = {
    "mlp": HEAD
    + """
def build_model(width=12):
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
""",
    "images mlp": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.ReLU(), nn.Linear(10, 3))
""",
    "batch norm": HEAD
    + """
def build_model():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3),
    )
""",
    "other norms": HEAD
    + """
def build_model():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 6, 3, stride=2, padding=1),
        nn.InstanceNorm2d(6, affine=True), nn.ELU(), nn.Conv2d(6, 6, 3, padding=1), nn.LayerNorm([6, 4, 4]),
        nn.LocalResponseNorm(2), nn.Flatten(), nn.Linear(96, 3),
    )
""",
    "odd convolutions": HEAD
    + """
def build_model():
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6(), nn.Conv2d(6, 8, 1, groups=2),
        nn.Hardswish(), nn.Conv2d(8, 6, 3, padding=2, dilation=2, padding_mode="reflect"), nn.LeakyReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2), nn.PReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 3),
    )
""",
    "wavenet": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = nn.Conv1d(2, 6, 1)
        self.filters = nn.ModuleList(nn.Conv1d(6, 6, 2, dilation=2**i) for i in range(3))
        self.gates = nn.ModuleList(nn.Conv1d(6, 6, 2, dilation=2**i) for i in range(3))
        self.end = nn.Linear(6, 3)

    def forward(self, x):
        x = self.start(x)
        for f, g in zip(self.filters, self.gates):
            padded = F.pad(x, (f.dilation[0], 0))
            x = x + torch.tanh(f(padded)) * torch.sigmoid(g(padded))
        return self.end(x.mean(-1))
"""),
    "video": HEAD
    + """
def build_model():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(4, 6, (2, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    )
""",
    "packed": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, tokens):
        lengths = (tokens != 0).sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return self.out(hidden[-1])
"""),
    "gru": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 6, num_layers=2, bidirectional=True, dropout=0.2, batch_first=True)
        self.register_buffer("h0", torch.zeros(4, 1, 6))
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        out, _ = self.gru(x, self.h0.expand(-1, x.size(0), -1).contiguous())
        return self.out(out.mean(dim=1))
"""),
    "cells": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTMCell(3, 6), nn.GRUCell(6, 6)
        self.start = nn.Parameter(torch.zeros(1, 6))
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        h, c = (self.start.expand(len(x), 6) for _ in range(2))
        k = torch.zeros(len(x), 6)
        for step in x.unbind(1):
            h, c = self.first(step, (h, c))
            k = self.second(h, k)
        return self.out(k)
"""),
    "class token": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 8, padding_idx=0)
        self.position = nn.Embedding(8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 0.02)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        ignored = F.pad(tokens == 0, (1, 0), value=False)
        x = self.norm(x + self.attention(x, x, x, key_padding_mask=ignored, need_weights=False)[0])
        return self.out(x[:, 0])
"""),
    "rotary": _class("""
class RMS(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(13, 8)
        self.qkv, self.o = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)
        self.up, self.gate, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.n1, self.n2, self.head = RMS(8), RMS(8), nn.Linear(8, 3)
        angles = torch.outer(torch.arange(7.0), 10.0 ** -torch.arange(0, 2.0))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def turn(self, x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)

    def forward(self, t):
        x = self.tok(t)
        q, k, v = self.qkv(self.n1(x)).view(*t.shape, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.silu(self.gate(self.n2(x))) * self.up(self.n2(x)))
        return self.head(x.mean(1))
"""),
    "swin": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        ys, xs = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
        where = torch.stack([ys.flatten(), xs.flatten()])
        distance = where[:, :, None] - where[:, None, :] + 1
        self.register_buffer("relative_position_index", 3 * distance[0] + distance[1])

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        a = (q @ k.transpose(-2, -1) / 2 + bias).softmax(-1)
        return self.head(self.proj((a @ v).transpose(1, 2).reshape(-1, 4, 8)).mean(1))
"""),
    "gpt": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(13, 8), nn.Embedding(6, 8)
        self.ln1, self.ln2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.c_attn, self.c_proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc, self.back = nn.Linear(8, 16), nn.Linear(16, 8)
        self.lm_head = nn.Linear(8, 13, bias=False)
        self.lm_head.weight = self.wte.weight
        self.register_buffer("mask", torch.full((6, 6), float("-inf")).triu(1))

    def forward(self, idx):
        b, t = idx.shape
        x = self.wte(idx) + self.wpe(torch.arange(t))
        q, k, v = self.c_attn(self.ln1(x)).split(8, dim=2)
        a = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(8) + self.mask[:t, :t], dim=-1)
        x = x + self.c_proj(a @ v)
        x = x + self.back(F.gelu(self.fc(self.ln2(x))))
        return self.lm_head(x)
"""),
    "vit": _class("""
class Block(nn.Module):
    def __init__(self, d, drop):
        super().__init__()
        self.drop, self.norm1, self.norm2 = drop, nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.gamma1, self.gamma2 = nn.Parameter(torch.full((d,), 0.1)), nn.Parameter(torch.full((d,), 0.1))

    def path(self, x):  # stochastic depth
        if not self.training:
            return x
        keep = torch.rand(len(x), 1, 1) > self.drop
        return x * keep / (1 - self.drop)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.path(self.gamma1 * self.attn(y, y, y, need_weights=False)[0])
        return x + self.path(self.gamma2 * self.mlp(self.norm2(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 8) * 0.02)
        self.blocks = nn.Sequential(Block(8, 0.1), Block(8, 0.3))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])
"""),
    "mixer": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.tokens = nn.Sequential(nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 16))
        self.channels = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = x + self.tokens(self.norm(x).mT).mT
        return self.head((x + self.channels(x)).mean(1))
"""),
    "unet": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.d1, self.d2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up, self.u1, self.out = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        a = F.relu(self.d1(x))
        b = F.relu(self.d2(F.max_pool2d(a, 2)))
        return self.out(F.relu(self.u1(torch.cat([a, self.up(b)], 1))))


def logits(outputs):
    return outputs.permute(0, 2, 3, 1)
"""),
    "autoencoder": HEAD
    + """
def build_model():
    encoder = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return nn.Sequential(encoder, nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 8)))
""",
    "siamese": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))
        self.judge = nn.Linear(12, 4)

    def forward(self, pair):
        left, right = (self.tower(x) for x in pair.reshape(-1, 2, 4).unbind(1))
        return self.judge(torch.cat([(left - right).abs(), left * right], dim=-1))
"""),
    "experts": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 6)) for _ in range(4))
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(1, dim=-1)
        y = x.new_zeros(len(x), 6)
        for i, expert in enumerate(self.experts):
            rows = (chosen[:, 0] == i).nonzero()[:, 0]
            if len(rows):
                y = y.index_add(0, rows, expert(x[rows]) * weights[rows])
        return self.out(y)
"""),
    "squeeze": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.reduce, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = F.hardswish(self.stem(x))
        x = x.view(len(x), 2, 4, 8, 8).transpose(1, 2).reshape(len(x), 8, 8, 8)
        scale = F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return self.out((x * scale).mean((2, 3), keepdim=True)).squeeze(-1).squeeze(-1)
"""),
    "weight standardised": _class("""
class WSConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.fc = WSConv(3, 6, 3), WSConv(6, 6, 3), nn.Linear(96, 3)

    def forward(self, x):
        return self.fc(F.relu(self.c2(F.relu(self.c1(x)))).flatten(1))
"""),
    "weight norm": HEAD
    + """
from torch.nn.utils.parametrizations import weight_norm

def build_model():
    return nn.Sequential(weight_norm(nn.Linear(8, 10)), nn.ReLU(), weight_norm(nn.Linear(10, 10)), nn.ReLU(),
                         nn.Linear(10, 4))
""",
    "spectral norm": HEAD
    + """
from torch.nn.utils.parametrizations import spectral_norm

def build_model():
    return nn.Sequential(spectral_norm(nn.Linear(8, 10)), nn.LeakyReLU(0.1), spectral_norm(nn.Linear(10, 4)))
""",
    "highway": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(8, 10)
        self.carry = nn.ModuleList(nn.Linear(10, 10) for _ in range(2))
        self.new = nn.ModuleList(nn.Linear(10, 10) for _ in range(2))
        self.out = nn.Linear(10, 6)
        for c in self.carry:
            nn.init.constant_(c.bias, -2.0)

    def forward(self, x):
        x = self.inp(x)
        for c, n in zip(self.carry, self.new):
            gate = torch.sigmoid(c(x))
            x = gate * F.relu(n(x)) + (1 - gate) * x
        return self.out(x)
"""),
    "dense connections": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1 + 3 * i, 3, 3, padding=1) for i in range(3))
        self.out = nn.Linear(10, 3)

    def forward(self, x):
        for conv in self.convs:
            x = torch.cat([x, F.relu(conv(x))], dim=1)
        return self.out(F.adaptive_max_pool2d(x, 1).flatten(1))
"""),
    "counting": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(10))

    def forward(self, x):
        h = F.relu(self.fc1(x))
        if self.training:
            self.seen += len(x)
            self.average.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return self.fc2(h - self.average)
"""),
    "straight through": _class("""
class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(-1, 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        return self.fc2(Sign.apply(self.fc1(x)))
"""),
    "scripted function": _class("""
@torch.jit.script
def swish(x: torch.Tensor, beta: float) -> torch.Tensor:
    return x * torch.sigmoid(beta * x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        return self.fc2(swish(self.fc1(x), 1.5))
"""),
    "scripted module": HEAD
    + """
def build_model():
    return nn.Sequential(torch.jit.script(nn.Linear(8, 10)), nn.ReLU(), nn.Linear(10, 4))
""",
    "hooks": HEAD
    + """
def double(module, inputs, output):
    return 2 * output

def shift(module, inputs):
    return (inputs[0] + 0.25,)

def build_model():
    network = nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 4))
    network[0].register_forward_hook(double)
    network[2].register_forward_pre_hook(shift)
    return network
""",
    "delegating": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def __len__(self):
        return len(self.inner)

    def forward(self, x):
        return self.inner(x)
"""),
    "odd names": HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({
            "two words": nn.Linear(8, 10), r"$\\\\frac$": nn.Linear(10, 10), "größe→層": nn.Linear(10, 10),
            "x" * 200: nn.Linear(10, 10), "[bold]": nn.Linear(10, 10), "a/b": nn.Linear(10, 4),
        })

    def forward(self, x):
        for part in self.parts.values():
            x = part(F.relu(x))
        return x

def build_model():
    return Net()
""",
    "parameter list": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.ws = nn.ParameterList([nn.Parameter(torch.randn(8, 10) / 3), nn.Parameter(torch.randn(10, 4) / 3)])
        self.heads = nn.Parameter(torch.randn(2, 10, 10) / 3)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x):
        x = torch.relu(x @ self.ws[0])
        x = torch.einsum("bi,hio->bo", x, self.heads).tanh()
        return x @ self.ws[1] * self.temperature
"""),
    "shared": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.step, self.out = nn.Linear(8, 10), nn.Linear(10, 10), nn.Linear(10, 4)
        self.again = self.step
        self.back = nn.Linear(10, 10, bias=False)
        self.back.weight = self.step.weight

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        for _ in range(3):
            x = torch.tanh(self.again(self.step(x)))
        return self.out(self.back(x))
"""),
    "unused": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.auxiliary = nn.Linear(8, 10), nn.Linear(10, 4), nn.Linear(10, 7)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))
"""),
    "frozen": HEAD
    + """
def build_model():
    body = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU())
    body[0].requires_grad_(False)
    return nn.Sequential(body, nn.Linear(10, 4))
""",
    "one output": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 1))
""",
    "dict outputs": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.kind = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        hidden = self.body(x).relu()
        return {"hidden": hidden, "kind": self.kind(hidden)}
"""),
    "dataclass outputs": HEAD
    + """from dataclasses import dataclass

@dataclass
class Outputs:
    features: torch.Tensor
    logits: torch.Tensor | None = None

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.kind = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        hidden = self.body(x).relu()
        return Outputs(features=hidden, logits=self.kind(hidden))

def build_model():
    return Net()
""",
    "many classes": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 5000))
""",
    "double": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4)).double()
""",
    "half": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4)).bfloat16()
""",
    "default type": HEAD
    + """
torch.set_default_dtype(torch.float64)

def build_model():
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4))
""",
    "always dropout": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 30), nn.Linear(30, 4)

    def forward(self, x):
        return self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5))
"""),
    "in place": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        x -= x.mean(1, keepdim=True)
        x.mul_(1.5).clamp_(-2, 2)
        return self.fc2(F.relu_(self.fc1(x)))
"""),
    "bag": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(13, 6, mode="mean", padding_idx=0)
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.fc2(F.relu(self.fc1(self.bag(tokens))))
"""),
    "views": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        y = self.fc2(F.relu(self.fc1(x)))
        return torch.cat([y, y], 1).t()[:4].t()
"""),
    "checks shapes": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x, mask=None, *, verbose=False):
        batch, features = x.shape
        assert features == 8 and x.dtype == torch.float32
        if batch > 32:
            raise ValueError(f"at most 32 samples, not {batch}")
        return self.fc2(torch.relu(self.fc1(x)))
"""),
    "talkative": "import os\nimport sys\nprint('loading')\nos.write(1, b'from C, say\\n')\n"
    + _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)
        os.write(1, b"building\\n")

    def forward(self, x):
        print("x is", tuple(x.shape))
        os.write(1, b"forward\\n")
        sys.stdout.flush()
        return self.fc2(torch.relu(self.fc1(x)))
"""),
    "seeds globally": _class("""
import random
import numpy as np

def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        seed_everything(42)
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))
"""),
    "numpy weights": _class("""
import random
import numpy as np

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)
        self.fc1.weight.data = torch.from_numpy(np.random.normal(0, 0.3, (10, 8))).float()
        nn.init.constant_(self.fc2.bias, random.random())

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))
"""),
    "reads a file": _class("""
import json
from pathlib import Path

CONFIG = json.loads((Path(__file__).parent / "net.json").read_text())

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, CONFIG["width"]), nn.Linear(CONFIG["width"], 4)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))
"""),
    "relative import": HEAD
    + """
from .blocks import Block

def build_model():
    return nn.Sequential(Block(8, 10), Block(10, 4, last=True))
""",
    "layers alone": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Embedding(13, 4), nn.Flatten(), nn.Linear(28, 3))
""",
    "softmax": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4), nn.Softmax(dim=1))
""",
    "fourier": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(8, 6))
        self.register_buffer("nothing", None)
        self.fc1, self.fc2 = nn.Linear(12, 10), nn.Linear(10, 4)

    def forward(self, x):
        phase = x @ self.frequencies
        x = torch.cat([phase.sin(), phase.cos()], -1)
        x = torch.fft.fft(x, norm="ortho").real
        return self.fc2(torch.sin(self.fc1(x)))
"""),
    "bilinear": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 5), nn.Linear(8, 4)
        self.mix = nn.Bilinear(5, 4, 6)
        self.centres = nn.Parameter(torch.randn(7, 6))
        self.out = nn.Linear(7, 4)

    def forward(self, x):
        h = self.mix(torch.tanh(self.a(x)), torch.tanh(self.b(x)))
        return self.out(torch.exp(-((h[:, None] - self.centres) ** 2).sum(-1)))
"""),
    "cached table": _class("""
import functools

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 4)

    @functools.lru_cache(maxsize=None)
    def table(self, n):
        return torch.eye(n)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x @ self.table(8))))
"""),
    "small last batch": HEAD
    + """
def build_model():
    return nn.Sequential(nn.Linear(8, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4))
""",
    "tokens": _class("""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, tokens):
        return self.fc(self.embedding(tokens).mean(1))
"""),
}

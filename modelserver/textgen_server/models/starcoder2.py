"""StarCoder2 (Lozhkov et al. 2024): Llama with LayerNorm, a plain MLP, biases, and a sliding window."""

from torch import nn

from textgen_server.layers.build import Builder
from textgen_server.layers.mlp import MLP
from textgen_server.layers.norm import Norm
from textgen_server.models.config import ModelConfig
from textgen_server.models.llama import LlamaLayer
from textgen_server.models.mistral import MistralForCausalLM


class Starcoder2Layer(LlamaLayer):
    @classmethod
    def norm(cls, config: ModelConfig, build: Builder, prefix: str) -> Norm:
        return build.layer_norm(prefix, config.norm_eps)

    @classmethod
    def make_mlp(cls, config: ModelConfig, build: Builder, prefix: str) -> nn.Module:
        activation = config.activation("hidden_act", "gelu_pytorch_tanh")
        return MLP(build, prefix, config.intermediate_size, activation, ("c_fc", "c_proj"))


class Starcoder2ForCausalLM(MistralForCausalLM):
    layer = Starcoder2Layer
